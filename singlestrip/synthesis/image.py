"""Label map to random image, and to its brain mask or classes: what the networks learn from.

`sample_parameters` draws what is random in an image; `synthesise` makes the image of it, on any device.
Each step has a module of its own, with what is drawn, how it is drawn and how it is applied. A new step
has its ranges in `configuration.SynthConfig`, its module, and here one line in each of the two functions
and in `SynthParameters`; its tests in tests/test_synth.py, and its line in CHANGELOG.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F

from ..configuration import SynthConfig, Window
from .acquisition import Acquisition, add_noise, blur, sample_acquisition, take_slices
from .aliasing import Ghost, WrapAround, add_ghosts, sample_ghost, sample_wrap_around, wrap_around
from .bias import BiasField, apply_bias, sample_bias
from .class_intensities import ClassIntensities, add_class_noise, paint_classes, sample_class_intensities
from .class_shares import class_shares
from .craniotomy import Craniotomy, open_skull, sample_craniotomy
from .distortion import Distortion, distortion_mm, follow_signal, sample_distortion
from .fat_shift import FatShift, sample_fat_shift, shift_fat
from .field_of_view import Crop, Masking, blank_beyond_rim, sample_crop, sample_masking, within_crop
from .fields import shifted
from .found_lesions import LesionBank
from .intensity_scale import IntensityScale, sample_intensity_scale, scale_intensities
from .label_map import LabelMap
from .layer import Layer, add_layer, sample_layer
from .lesion_target import lesion_share
from .lesions import Lesion, add_lesions, push_aside, sample_lesions
from .shape import Shape, sample_shape, window_coordinates
from .shape_bank import ShapeBank
from .signal_loss import Void, lose_signal, sample_voids
from .slice_motion import SliceMotion, dim_slices, motion_mm, sample_slice_motion
from .streams import RandomStreams
from .structures import Structure, add_structures, sample_structures
from .surroundings import Surroundings, add_surroundings, sample_surroundings


@dataclass(frozen=True)
class SynthParameters:
    """Everything that is random in one image, step by step; tensors are on the CPU."""

    shape: Shape
    classes: ClassIntensities
    structures: tuple[Structure, ...]
    layer: Layer | None
    surroundings: Surroundings | None
    lesions: tuple[Lesion, ...]
    craniotomy: Craniotomy | None
    voids: tuple[Void, ...]
    fat_shift: FatShift | None
    distortion: Distortion | None
    slice_motion: SliceMotion | None
    bias: BiasField
    wrap_around: WrapAround | None
    ghost: Ghost | None
    acquisition: Acquisition
    crop: Crop | None
    intensity_scale: IntensityScale
    masking: Masking | None

    def whole(self) -> SynthParameters:
        """The same image without what hides the brain: lesions, craniotomy, lost signal, and what folds over it.

        The brain keeps its shape and place: what lesions push aside stays there, and so does what is distorted.
        """
        return replace(
            self,
            lesions=tuple(replace(lesion, zones=()) for lesion in self.lesions),
            craniotomy=None,
            voids=(),
            fat_shift=None,
            wrap_around=None,
            ghost=None,
        )


def sample_parameters(
    config: SynthConfig,
    window: Window,
    scale: float,
    streams: RandomStreams,
    levels: torch.Tensor | None = None,
    bank: ShapeBank | None = None,
    shares: torch.Tensor | None = None,
    found_lesions: LesionBank | None = None,
) -> SynthParameters:
    """Draw the parameters of one image. The same streams draw the same parameters.

    scale: size of the anatomy over that of an adult human head. levels: [256] of the label map, if known.
    bank: shapes of other people, if there are any. shares: [256] of each class in the brain, whose large classes
    then differ. found_lesions: lesions of other people, if there are any.
    """
    return SynthParameters(
        shape=sample_shape(config.shape, window, scale, streams, bank),
        classes=sample_class_intensities(config, window.extent_mm, scale, levels, shares, streams),
        structures=sample_structures(config, window.extent_mm, scale, streams),
        layer=sample_layer(config, window.extent_mm, scale, streams),
        surroundings=sample_surroundings(config, window, scale, streams),
        lesions=sample_lesions(config, scale, streams, found_lesions),
        craniotomy=sample_craniotomy(config, scale, streams),
        voids=sample_voids(config, scale, streams),
        fat_shift=sample_fat_shift(config, scale, streams),
        distortion=sample_distortion(config, window, scale, streams),
        slice_motion=sample_slice_motion(config, window, scale, streams),
        bias=sample_bias(config, window, scale, streams),
        wrap_around=sample_wrap_around(config, scale, streams),
        ghost=sample_ghost(config, streams),
        acquisition=sample_acquisition(config, scale, streams),
        crop=sample_crop(config, scale, streams),
        intensity_scale=sample_intensity_scale(config, streams),
        masking=sample_masking(config, scale, streams),
    )


@torch.no_grad()
def synthesise(
    maps: Sequence[LabelMap],
    window: Window,
    parameters: Sequence[SynthParameters],
    least_change: float | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A batch of images, each of one label map and its parameters.

    Returns image [B, 1, X, Y, Z] in [0, 1], the share of each voxel that is brain [B, 1, X, Y, Z], or if the maps
    have targets the shares of the background and of K classes [B, 1 + K, X, Y, Z], and weight [B, 1, X, Y, Z],
    on the device of the maps. With `least_change` the shares are [B, 3, X, Y, Z]: background, brain without
    lesions, and lesions that change the image by so much, see `lesion_share`. The weight is 0 where the image has
    no data (the loss must not ask what cannot be seen), and where the label map spares the border. The same
    parameters give the same batch.
    """
    device = maps[0].labels.device
    to_grid = torch.stack([source.grid_from_mm() for source in maps])
    points = window_coordinates(window, [p.shape for p in parameters], device, to_grid)
    points = _displaced(points, maps, window, parameters)
    image, brain, covered, spared, lesion = _in_window(maps, parameters, points, least_change)
    image = follow_signal(image, window, [p.distortion for p in parameters])
    image = dim_slices(image, window, [p.slice_motion for p in parameters])
    image = apply_bias(image, window, [p.bias for p in parameters], [p.shape.brain_mm for p in parameters])
    image, covered = wrap_around(image, covered, window, [p.wrap_around for p in parameters])
    image = add_ghosts(image, [p.ghost for p in parameters])
    acquisitions = [p.acquisition for p in parameters]
    image = blur(image, window, acquisitions)
    image = add_noise(image, acquisitions)
    image = take_slices(image, window, acquisitions)
    covered &= within_crop(window, [p.crop for p in parameters], device)
    image = scale_intensities(image, brain, covered, [p.intensity_scale for p in parameters])
    image = blank_beyond_rim(image, brain, window, [p.masking for p in parameters])
    image = torch.where(covered, image, torch.zeros((), device=device))
    if least_change is not None:
        shares = torch.stack([1 - brain, brain - lesion, lesion], -1).movedim(-1, 1)  # as `class_shares` lie
    elif maps[0].targets is None:
        shares = brain[:, None].contiguous()
    else:
        shares = class_shares(maps, [p.shape for p in parameters], points)
    return image[:, None], shares, (covered & ~spared)[:, None].float()


def _displaced(
    points: torch.Tensor, maps: Sequence[LabelMap], window: Window, parameters: Sequence[SynthParameters]
) -> torch.Tensor:
    """Points [B, X, Y, Z, 3] of the label maps where distortion, motion and lesions show them."""
    distorted, moved = [p.distortion for p in parameters], [p.slice_motion for p in parameters]
    if any(distorted) or any(moved):
        shift_mm = distortion_mm(window, distorted, points.device) + motion_mm(window, moved, points.device)
        points = shifted(points, shift_mm / window.voxel_size_mm)
    if not any(p.lesions for p in parameters):
        return points
    samples = zip(points.split(1), maps, parameters, strict=True)
    return torch.cat([push_aside(at, source, p.lesions) for at, source, p in samples])


def _in_window(
    maps: Sequence[LabelMap],
    parameters: Sequence[SynthParameters],
    points: torch.Tensor,
    least_change: float | None,
) -> tuple[torch.Tensor, ...]:
    """Image, brain, as booleans where there are data and where no loss is taken, and lesions, each [B, X, Y, Z].

    points: [B, X, Y, Z, 3] in the coordinates of grid_sample. least_change: of the lesions, see `lesion_share`;
    None for none of them.
    """
    samples = []
    for whole, p, everywhere in zip(maps, parameters, points.split(1), strict=True):
        source, at = whole.part_around(everywhere)
        image, brain = F.grid_sample(_paint(source, p), at, align_corners=False).unbind(1)
        if source.scanned is None:
            covered = (at.abs() <= 1).all(-1)
        else:
            covered = F.grid_sample(source.scanned[None, None], at, align_corners=False)[:, 0] > 0.5
        if p.surroundings is not None:
            image, covered = add_surroundings(image, covered, source, p.surroundings, at)
        without, image = image, add_lesions(image, brain, whole, p.lesions, everywhere)
        lesion = torch.zeros_like(brain)
        if least_change is not None:
            lesion = lesion_share(image - without, brain, whole, p.lesions, everywhere, least_change)
        image = open_skull(image, brain, whole, p.craniotomy, everywhere)
        image = lose_signal(image, whole, p.voids, everywhere)
        samples.append((image, brain, covered, _spared(source, at), lesion))
    return tuple(torch.cat(channel) for channel in zip(*samples, strict=True))


def _spared(source: LabelMap, at: torch.Tensor) -> torch.Tensor:
    """Where the label map takes no loss beside the border, boolean [1, X, Y, Z], at points [1, X, Y, Z, 3]."""
    if not source.spared_mm:
        return torch.zeros(at.shape[:-1], dtype=torch.bool, device=at.device)
    distance_mm = (source.away_mm + source.depth_mm)[None, None]
    # Beyond the map the distance is that at its edge.
    distance_mm = F.grid_sample(distance_mm, at, padding_mode="border", align_corners=False)
    return distance_mm[:, 0] < source.spared_mm


def _paint(source: LabelMap, p: SynthParameters) -> torch.Tensor:
    """Image and brain on the grid of the label map, [1, 2, X, Y, Z]."""
    image = paint_classes(source, p.classes)
    image = add_structures(image, source, p.structures)
    image = add_layer(image, source, p.layer)
    image = add_class_noise(image, source, p.classes)
    image = shift_fat(image, source, p.fat_shift)
    return torch.stack([image, source.brain])[None]
