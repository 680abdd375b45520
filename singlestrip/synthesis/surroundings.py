"""What lies around the head: other bodies of random shape, or blank space.

A fetus lies in the womb, a mouse in a holder, a head in a wide field of view. One labelled scan shows one
example of that. In some images random bodies therefore take the place of everything beyond a rim around the brain.
They also fill a window that reaches beyond the labelled scan. Random shapes: SynthMorph (Hoffmann et al., 2022).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ..configuration import SynthConfig, Window
from .fields import enlarge, random_field
from .label_map import LabelMap
from .streams import RandomStreams, happens, log_uniform, uniform, whole_number


@dataclass(frozen=True)
class Surroundings:
    """Bodies beyond a rim; fields are over the window.

    rim_mm: [1, 1, x, y, z] distance from the brain at which the bodies begin; bodies: [1, N, x, y, z] a field for
    each, which lies where its field is the greatest; intensity: [N].
    """

    rim_mm: torch.Tensor
    bodies: torch.Tensor
    intensity: torch.Tensor


def sample_surroundings(
    config: SynthConfig, window: Window, scale: float, streams: RandomStreams
) -> Surroundings | None:
    """Draw the surroundings of one image, if they are not those of the labelled scan."""
    generator = streams("surroundings")
    if not happens(generator, config.surroundings_probability):
        return None
    mean_mm = log_uniform(generator, *config.surroundings_rim_mm) * scale
    uneven = uniform(generator, *config.surroundings_uneven)
    spacing_mm = log_uniform(generator, *config.surroundings_spacing_mm) * scale
    rim = mean_mm * torch.exp(uneven * random_field(window.extent_mm, spacing_mm, generator))
    generator = streams("bodies")
    number = whole_number(generator, *config.bodies)
    spacing_mm = log_uniform(generator, *config.surroundings_spacing_mm) * scale
    bodies = random_field(window.extent_mm, spacing_mm, generator, channels=number)
    intensity = torch.rand(number, generator=streams("body intensities"))
    generator = streams("dark body")
    if happens(generator, config.dark_probability):
        intensity[0] = uniform(generator, *config.dark_intensity)
    return Surroundings(rim, bodies, intensity)


def add_surroundings(
    image: torch.Tensor, covered: torch.Tensor, source: LabelMap, drawn: Surroundings, at: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """An image [1, X, Y, Z] with surroundings, and where it has data, boolean [1, X, Y, Z], now that it has them.

    at: [1, X, Y, Z, 3], where the voxels lie in the label map, in the coordinates of grid_sample.
    """
    shape = image.shape[1:]
    beyond = away_mm(source, at) > enlarge(drawn.rim_mm.to(image.device), shape)[:, 0]
    return torch.where(beyond, _paint_bodies(drawn, shape, image.device), image), covered | beyond


def _paint_bodies(drawn: Surroundings, shape: torch.Size, device: torch.device) -> torch.Tensor:
    """[1, X, Y, Z] of the intensity of the body whose field is the greatest."""
    greatest = torch.full((1, *shape), -torch.inf, device=device)
    painted = torch.zeros((), device=device)
    for field, intensity in zip(drawn.bodies.split(1, dim=1), drawn.intensity, strict=True):
        values = enlarge(field.to(device), shape)[:, 0]
        painted = torch.where(values > greatest, intensity.to(device), painted)
        greatest = torch.maximum(greatest, values)
    return painted


def away_mm(source: LabelMap, at: torch.Tensor) -> torch.Tensor:
    """Distance to the brain at points, [1, X, Y, Z]; beyond the label map that of its face and the way there."""
    inside = at.clamp(-1, 1)
    away = F.grid_sample(source.away_mm[None, None], inside, padding_mode="border", align_corners=False)[:, 0]
    half_mm = torch.tensor(source.labels.shape[::-1], device=at.device) * source.spacing_mm / 2
    beyond = sum(((at[..., axis] - inside[..., axis]) * half_mm[axis]).square() for axis in range(3))
    return away + torch.as_tensor(beyond).sqrt()
