"""One image file as read: its header and its voxels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...errors import InputError
from ...space.scaling import FLOAT32_MAX, check_not_overflowed
from ...space.scan import Scan
from .header import ImageHeader


@dataclass(frozen=True)
class Volume(ImageHeader):
    """One image file: its header and its voxels.

    stored: [X, Y, Z, T] as in the file, before scaling, but in the byte order of this machine; read-only.
    footer: of MGH, the bytes behind the voxels.
    """

    stored: np.ndarray
    footer: bytes

    def frame(self, index: int) -> np.ndarray:
        """Stored values [X, Y, Z] of one frame."""
        return self.stored[..., index]

    def scan(self, index: int = 0) -> Scan:
        """One frame in space."""
        return Scan(self.frame(index), self.vox2world, self.slope, self.intercept)

    def scaled(self, index: int = 0) -> np.ndarray:
        """Values float32 [X, Y, Z] of one frame. Raises InputError if 32 bits cannot hold them."""
        try:
            return self.scan(index).values()
        except InputError as error:
            raise InputError(f"{self.path}: {error}; rescale the image") from error

    def check_not_overflowed(self, index: int = 0) -> None:
        """Raise InputError if many voxels of one frame are infinite; see `space.scaling`."""
        try:
            check_not_overflowed(self.frame(index))
        except InputError as error:
            frame = f"frame {index} of 0 to {self.frames - 1}: " if self.frames > 1 else ""
            raise InputError(f"{self.path}: {frame}{error}") from error

    def grey(self, index: int = 0) -> np.ndarray:
        """What a picture shows of one frame, float32 [X, Y, Z]: higher is brighter, whatever the scaling."""
        frame = self.frame(index)
        if frame.dtype.kind == "f" and frame.dtype.itemsize > 4:
            frame = np.clip(frame, -FLOAT32_MAX, FLOAT32_MAX)
        return np.copysign(np.float32(1), np.float32(self.slope)) * frame.astype(np.float32)
