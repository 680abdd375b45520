"""Banks of shapes from masks: what unlabelled scans tell of anatomy, without where their borders lie.

The labelled brain is registered to the masks of other people by their signed distance maps, at a low resolution.
A smooth velocity field describes how the anatomies differ. It cannot follow the rough errors of a mask's border.
The fields are stationary velocities (Arsigny et al. 2006), fitted by Adam.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from ..configuration import HEAD_WINDOW_MM, ShapeBankConfig
from ..errors import InputError
from ..space.distance import signed_distance
from ..space.grid import Grid
from ..space.morphology import middle_mm
from ..space.resample import block_mean, conform
from ..space.scan import Scan
from ..synthesis.fields import random_field
from ..synthesis.shape_bank import Deformation, ShapeBank, sample_field

__all__ = ["Registration", "make_shape_bank", "register_shape"]


@dataclass(frozen=True, eq=False)
class Registration:
    """How one brain is deformed into another.

    deformation: from the other brain's shape to the labelled one's, both around their middles; dice: of the
    labelled mask, deformed and put in the other's pose, with the other mask.
    """

    deformation: Deformation
    dice: float


def make_shape_bank(
    labelled: Scan,
    masks: Iterable[Scan],
    scale: float = 1.0,
    config: ShapeBankConfig = ShapeBankConfig(),
    device: torch.device | str = "cpu",
) -> ShapeBank:
    """The bank of the shapes of boolean masks [X, Y, Z], for the label map of the labelled mask.

    scale: size of the anatomy over that of an adult human head. Raises InputError if a mask is empty.
    """
    registered = [register_shape(labelled, mask, scale, config, device).deformation for mask in masks]
    if not registered:
        raise InputError("a bank of shapes needs at least one mask")
    return ShapeBank.of(torch.cat([each.velocity for each in registered]), registered[0].extent_mm, config)


def register_shape(
    labelled: Scan,
    other: Scan,
    scale: float = 1.0,
    config: ShapeBankConfig = ShapeBankConfig(),
    device: torch.device | str = "cpu",
) -> Registration:
    """Register a labelled brain mask to the mask of another brain; both boolean [X, Y, Z].

    First the pose is fitted, which is no part of the shape, then the velocity. Both bring the distance maps
    together within `config.reach_mm` of the border. The same masks give the same result on the same device.
    Raises InputError if a mask is empty.
    """
    reach_mm = config.reach_mm * scale
    source, target = (_distance_mm(mask, scale, config).to(device) for mask in (labelled, other))
    extent_mm = (source.shape[0] - 1) * config.voxel_size_mm * scale
    axis = torch.linspace(-extent_mm / 2, extent_mm / 2, source.shape[0], device=device)
    points = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij")).flatten(1)
    near = target.flatten().abs() < reach_mm
    points, wanted = points[None, :, near], target.flatten()[near].clamp(-reach_mm, reach_mm)
    source = source.clamp(-reach_mm, reach_mm)[None, None]

    turn, shift = (torch.zeros(3, device=device, requires_grad=True) for _ in range(2))
    shape = random_field((extent_mm,) * 3, config.spacing_mm * scale, torch.Generator(), channels=3).shape
    velocity = torch.zeros(shape, device=device, requires_grad=True)

    def distance(with_velocity: bool) -> torch.Tensor:
        """The labelled brain's signed distance [N] at the points of the other, in mm."""
        posed = _rotation(turn) @ points + shift[:, None]
        moved = Deformation(velocity, extent_mm).move(posed) if with_velocity else posed
        return sample_field(source, moved, extent_mm)[0, 0]

    rate_mm = config.rate_mm * scale
    pose = torch.optim.Adam([{"params": [turn], "lr": config.turn}, {"params": [shift], "lr": rate_mm}])
    for _ in range(config.rigid_steps):
        _step(pose, (distance(with_velocity=False) - wanted).square().mean())
    turn.requires_grad_(False)
    shift.requires_grad_(False)
    fitting = torch.optim.Adam([velocity], lr=rate_mm)
    for _ in range(config.steps):
        misfit = (distance(with_velocity=True) - wanted).square().mean()
        _step(fitting, misfit + config.bending * _bending(velocity))
    with torch.no_grad():
        inside, truth = distance(with_velocity=True) < 0, wanted < 0
    # Points out of reach lie within both brains, or within none.
    deep = int((target <= -reach_mm).sum())
    overlap, sizes = int((inside & truth).sum()) + deep, int(inside.sum() + truth.sum()) + 2 * deep
    return Registration(Deformation(velocity.detach().cpu(), extent_mm), 2 * overlap / sizes)


def _step(optimizer: torch.optim.Optimizer, loss: torch.Tensor) -> None:
    """Make one step down the gradient of a loss []."""
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def _rotation(turn: torch.Tensor) -> torch.Tensor:
    """The rotation [3, 3] of a vector [3]: about its direction, by its length in radians."""
    x, y, z = turn
    zero = torch.zeros_like(x)
    return torch.linalg.matrix_exp(torch.stack([zero, -z, y, z, zero, -x, -y, x, zero]).view(3, 3))


def _bending(velocity: torch.Tensor) -> torch.Tensor:
    """Mean square of the second differences of a field [1, 3, x, y, z] along its axes."""
    return torch.stack([velocity.diff(n=2, dim=axis).square().mean() for axis in (2, 3, 4)]).sum()


def _distance_mm(mask: Scan, scale: float, config: ShapeBankConfig) -> torch.Tensor:
    """The signed distance [N, N, N] to the border of a mask, on a conformed grid around its middle."""
    middle = middle_mm(mask.array, mask.vox2world)
    if middle is None:
        raise InputError("an empty mask has no shape")
    spacing_mm = config.voxel_size_mm * scale
    grid = Grid.conformed(middle, (round(HEAD_WINDOW_MM / config.voxel_size_mm) + 1,) * 3, spacing_mm)
    share = conform(block_mean(mask, spacing_mm), grid) - 0.5
    return torch.from_numpy(signed_distance(share, share > 0, grid.vox2world))
