"""Image to labels of structures, with their volumes, on arrays."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..configuration import TargetClass
from ..errors import ModelError
from ..space.grid import voxel_volume_ml
from ..space.morphology import bounding_box
from ..space.scan import Scan
from .class_labels import STEPS, ClassLabels, Where, label_grid
from .stripper import Point, Stripper, load_for_classes, no_brain_error

LABEL_TYPES = (np.uint8, np.int16, np.int32)  # of label maps; every format and program knows them


@dataclass(frozen=True, eq=False)
class Segmented:
    """The structures in one image.

    classes: that the model tells apart, in the order of the channels from 1. found: their channels, and the
    posteriors if they are wanted. voxel_mm3: volume of a voxel. agreement: for each class, the mean Dice of its
    voxels in a view of the window with those in the mean of all views; NaN if no view has it. unusual, doubts: see
    `Stripped`.
    """

    classes: tuple[TargetClass, ...]
    found: ClassLabels
    voxel_mm3: float
    agreement: tuple[float, ...]
    unusual: str = ""
    doubts: tuple[str, ...] = ()

    @cached_property
    def labels(self) -> np.ndarray:
        """The label map [X, Y, Z]: the number of each voxel's class, 0 for the background."""
        return class_numbers(self.classes)[self.found.channels]

    def posterior(self, number: int) -> np.ndarray:
        """The probability of the class of a number, float32 [X, Y, Z]; 0 if posteriors are not kept.

        Raises ValueError for the number of no class.
        """
        channel = 1 + [each.number for each in self.classes].index(number)
        return self.found.posterior(channel) / np.float32(STEPS)

    @property
    def volumes_mm3(self) -> dict[int, float]:
        """The soft volume of each class, by its number: the sum of its probabilities over voxels."""
        voxels = self.found.voxels()[1:] * self.voxel_mm3
        return {each.number: float(volume) for each, volume in zip(self.classes, voxels, strict=True)}

    @property
    def intracranial_mm3(self) -> float | None:
        """The soft volume of the brain with the fluid around it; None if no class is brain."""
        volumes = self.volumes_mm3
        brain = [volumes[each.number] for each in self.classes if each.brain]
        return sum(brain) if brain else None


def class_numbers(classes: tuple[TargetClass, ...]) -> np.ndarray:
    """The number of each channel, [C], in the smallest type that labels are written in; the background has 0."""
    numbers = [0, *(each.number for each in classes)]
    return np.array(numbers, dtype=next(kind for kind in LABEL_TYPES if max(numbers) <= np.iinfo(kind).max))


class Segmenter:
    """A loaded model that segments one image after another.

    It may be used from any number of threads. stripper: of the model, which keeps the classes of its views. Raises
    ModelError if the model knows no classes.
    """

    def __init__(self, stripper: Stripper) -> None:
        if not stripper.config.classes or not stripper.keeps_classes:
            raise ModelError("tells no structures apart, only brain and the rest; name a model that does")
        self.stripper = stripper
        self.classes = stripper.config.classes
        self.largest = {channel for channel, each in enumerate(self.classes, start=1) if each.largest}

    @staticmethod
    def load(model: str | os.PathLike[str], device: str = "auto", engine: str = "auto") -> Segmenter:
        """From a model file, or a name in the models folder. device, engine: as for `Stripper.load`."""
        return load_for_classes(Segmenter, model, device, engine)

    def segment(
        self,
        image: Scan | np.ndarray,
        vox2world: np.ndarray | None = None,
        slope: float = 1.0,
        intercept: float = 0.0,
        centre_mm: Point | None = None,
        posteriors: bool = False,
    ) -> Segmented:
        """The structures in one image; arguments and errors as for `Stripper.strip`.

        posteriors: keep the probabilities of the classes too.
        """
        look = self.stripper.look(image, vox2world, slope, intercept, centre_mm)
        scan, field = look.scan, look.field
        finite = np.isfinite(scan.array) if scan.array.dtype.kind == "f" else None
        if field.classes is None:
            raise no_brain_error(centre_mm)

        def intensities(where: Where) -> np.ndarray:
            """Of the scan's voxels."""
            return look.intensities.of(scan.array[where])

        found = label_grid(field.classes, field.grid, scan.grid, self.largest, finite, posteriors, intensities)
        brain = np.isin(np.arange(256), self.stripper.brain_channels)[found.channels]
        box = bounding_box(brain)
        if box is None:
            raise no_brain_error(centre_mm)
        unusual, doubts = self.stripper.judge(look, brain, box, centre_mm)
        agreement = tuple(field.classes.agreement()[1:].tolist())
        voxel_mm3 = 1000 * voxel_volume_ml(scan.vox2world)
        return Segmented(self.classes, found, voxel_mm3, agreement, unusual, doubts)
