"""An image and its brain mask, read together and checked against each other."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from ...configuration import MaskGridConfig
from . import volume
from .masks import read_mask_on
from .volume import Volume


def read_pair(
    image_path: Path, mask_path: Path, grids: MaskGridConfig = MaskGridConfig()
) -> tuple[Volume, np.ndarray]:
    """An image and its brain mask, boolean [X, Y, Z], whose geometry is that of the image.

    grids: how far the grid of the mask may lie aside. Raises InputError unless they fit together.
    """
    image = volume.read_single(image_path)
    image.check_not_overflowed()
    return image, read_mask_on(mask_path, image, grids)


def check_exist(paths: Iterable[Path]) -> None:
    """Raise InputError if one of the images is missing; called before any work is done."""
    for path in paths:
        if not path.is_file():
            volume.read(path)  # says why
