"""Which networks fit the brains of label maps, and whether the machine has the memory to train them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, replace

import numpy as np
import torch

from ..configuration import (
    HEAD_BRAIN_MM,
    MAX_LOCATOR_SIZE,
    MIN_SEGMENTER_SIZE,
    CascadeConfig,
    FittingConfig,
    TrainConfig,
    UNetConfig,
)
from ..errors import InputError
from ..io import memory
from ..io.text import typed
from ..networks.model_header import Anatomy
from ..space.metrics import volume_ml
from ..synthesis.gmm import NativeMap, is_inside
from .maps import map_spacing_mm

TRAINED_OUTPUTS = 4  # logits of classes, their probabilities, what they should be, and a gradient
MAP_BYTES = 16  # a voxel of a conformed label map: its labels, the brain, and the distances to it and in it


def brain_extent_mm(maps: Sequence[NativeMap]) -> float:
    """Longest side in mm of the brains' bounding boxes along right, anterior, superior."""
    extent = 0.0
    for source in maps:
        matrix = source.vox2world[:3, :3]
        brain_mm = np.argwhere(is_inside(source.labels)) @ matrix.T
        extent = max(extent, float((np.ptp(brain_mm, axis=0) + np.abs(matrix).sum(axis=1)).max()))
    return extent


def labelled_anatomy(maps: Sequence[NativeMap]) -> Anatomy:
    """The anatomy of label maps."""
    return Anatomy(tuple(round(volume_ml(is_inside(each.labels), each.vox2world), 4) for each in maps))


def fitting_cascade(
    maps: Sequence[NativeMap],
    voxel_size_mm: float | None = None,
    start: CascadeConfig | None = None,
    norm: str = UNetConfig.norm,
    config: FittingConfig = FittingConfig(),
) -> CascadeConfig:
    """Networks for the brains of label maps. Raises InputError if the voxel size does not suit them.

    start: of the networks whose weights they begin with; None for the default ones, with `norm`, that begin
    without. Without a voxel size they are as `start` if the brains are about as long as those that it is for.
    """
    extent = brain_extent_mm(maps)
    networks = start or CascadeConfig.fitting(HEAD_BRAIN_MM, norm=norm)
    length = extent / (HEAD_BRAIN_MM * networks.scale)
    shortest, longest = config.same_anatomy
    if start is not None and voxel_size_mm is None and shortest <= length <= longest:
        return start
    in_proportion = networks.voxel_size_mm * length
    finest = in_proportion * networks.locator_size / MAX_LOCATOR_SIZE
    coarsest = in_proportion * networks.segmenter_size / MIN_SEGMENTER_SIZE
    if voxel_size_mm is not None and not finest <= voxel_size_mm <= coarsest:
        raise InputError(
            f"voxels of {voxel_size_mm:g} mm do not suit a brain {extent:.3g} mm long: choose more than "
            f"{finest:.2g} and less than {coarsest:.2g} mm"
        )
    cascade = networks.fitted_to(extent, voxel_size_mm)
    try:
        return typed.convert_all(asdict(cascade), CascadeConfig)
    except ValueError as error:
        raise InputError(f"the brain is {extent:.3g} mm long, which no network is for ({error})") from error


def continued_cascade(
    maps: Sequence[NativeMap], init: CascadeConfig, voxel_size_mm: float | None = None
) -> CascadeConfig:
    """Networks for the brains of label maps that begin with the weights of others, those of `init`.

    They learn wider fields of view also if the others do not know these. Classes of the others are not taken over.
    Raises InputError as `fitting_cascade`.
    """
    start = replace(init, locator_doublings=CascadeConfig.locator_doublings, classes=())
    return fitting_cascade(maps, voxel_size_mm, start)


def check_memory(
    maps: Sequence[NativeMap], cascade: CascadeConfig, config: TrainConfig, device: torch.device
) -> None:
    """Raise InputError if conformed label maps and one step of training need more memory than is free."""
    left = memory.available() if device.type == "cpu" else torch.cuda.mem_get_info(device)[0]
    need = 0.0
    for name, (window, *_) in config.windows(cascade).items():
        spacing = map_spacing_mm(maps, window, cascade, config)
        bounds = [source.scan.grid.bounds_mm() for source in maps]
        sizes = [math.prod((high - low) / spacing) for low, high in bounds]
        need += MAP_BYTES * sum(sizes)
        need += getattr(cascade, name).layer_bytes(math.prod(window.shape)) * config.batch
    need += TRAINED_OUTPUTS * cascade.output_bytes * config.batch
    if left is not None and need > left:
        raise InputError(
            f"training with voxels of {cascade.voxel_size_mm:g} mm needs {need / memory.GIB:.1f} GiB of memory at "
            f"least and {left / memory.GIB:.1f} GiB are free; check that the masks hold whole brains, choose "
            "larger voxels or fewer images a step, crop the labelled images, or use a larger machine"
        )
