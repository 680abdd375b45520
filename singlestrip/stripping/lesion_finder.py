"""A brain mask to the lesions in it, on arrays."""

from __future__ import annotations

import os

import numpy as np

from ..configuration import LESION, LesionConfig
from ..errors import ModelError, NoBrainError
from ..space.grid import voxel_volume_ml
from ..space.morphology import bounding_box, components_from, middle_mm
from ..space.resample import sample
from ..space.scan import Scan
from .stripper import Stripper, load_for_classes


class LesionFinder:
    """A loaded model that finds lesions in one stripped image after another. Experimental, and no diagnosis.

    It may be used from any number of threads. stripper: of the model, which keeps the classes of its views. Raises
    ModelError if none of its classes is lesion.
    """

    def __init__(self, stripper: Stripper, config: LesionConfig = LesionConfig()) -> None:
        channel = stripper.config.lesion_channel
        if channel is None or not stripper.keeps_classes:
            raise ModelError(f"finds no lesions: none of the classes that it tells apart is named {LESION}")
        self.stripper, self.config, self.channel = stripper, config, channel

    @staticmethod
    def load(model: str | os.PathLike[str], device: str = "auto", engine: str = "auto") -> LesionFinder:
        """From a model file, or a name in the models folder. device, engine: as for `Stripper.load`."""
        return load_for_classes(LesionFinder, model, device, engine)

    def find(self, scan: Scan, mask: np.ndarray) -> np.ndarray:
        """The lesions in a scan, boolean [X, Y, Z], all within its brain mask, boolean [X, Y, Z], not empty.

        The segmenter sees a window around the middle of the mask; nothing searches for the brain. The probability
        of lesion is interpolated linearly to the scan's grid. Raises NoBrainError if the model sees no brain
        there, and InputError as `Stripper.strip`.
        """
        field = self.stripper.field(scan, centre_mm=middle_mm(mask, scan.vox2world))
        if field.classes is None:
            raise NoBrainError("the model that finds lesions sees no brain where the mask is")
        lesions = np.zeros_like(mask)
        box = bounding_box(mask)
        assert box is not None, "a mask without brain is an error before"
        part = scan.grid.part(box)
        on_window = field.classes.probability[self.channel]
        to_window = field.grid.index_of(part)
        probability = sample(on_window, to_window, part.shape, order="C" if mask.flags.c_contiguous else "F")
        least_ml = self.config.least_ml * self.stripper.config.scale**3
        likely = (probability > self.config.probability) & mask[box]
        lesions[box] = components_from(likely, least_ml / voxel_volume_ml(scan.vox2world))
        return lesions
