"""Strips volumes of surfa, and reads image files as volumes: pip install singlestrip[surfa].

    volume = read_volume("t1.mgz")
    result = singlestrip.strip(volume, sdt=True)
    result.mask.save("mask.mgz")

surfa (github.com/freesurfer/surfa) holds an image of one or several frames with its geometry. Its version 0.6.3
cannot read MGH files under NumPy 2, so `read_volume` reads images with singlestrip's reader.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
import surfa

from ..errors import InputError
from ..io.images.volume import read
from ..space.scan import Scan
from ..stripping.stripper import Point, Stripped, Stripper

__all__ = ["StrippedVolume", "read_volume", "strip_volume"]


@dataclass(frozen=True, eq=False)
class StrippedVolume:
    """Brain masks of a surfa volume, with its geometry and metadata.

    mask: surfa.Volume of booleans, with a frame for each frame of the image. sdt: surfa.Volume of float32 in mm,
    negative inside. probability: of brain, surfa.Volume of float32. Both are None if they were not asked for.
    frames: what `singlestrip.strip` returns of each frame as an array.
    """

    mask: surfa.Volume
    sdt: surfa.Volume | None
    probability: surfa.Volume | None
    frames: tuple[Stripped, ...]


def strip_volume(
    session: Stripper,
    volume: surfa.Volume,
    *,
    border_mm: float = 0.0,
    sdt: bool = False,
    probability: bool = False,
    centre_mm: Point | None = None,
) -> StrippedVolume:
    """Brain masks of a surfa volume, frame by frame; arguments and errors are those of `singlestrip.strip`.

    An error in one of several frames names the frame, counted from 0.
    """
    frames = []
    for index in range(volume.nframes):
        scan = Scan(volume.framed_data[..., index], volume.geom.vox2world.matrix)
        try:
            frames.append(
                session.strip(scan, border_mm=border_mm, sdt=sdt, centre_mm=centre_mm, probability=probability)
            )
        except InputError as error:
            if volume.nframes == 1:
                raise
            raise type(error)(f"frame {index} of 0 to {volume.nframes - 1}: {error}") from error

    def stacked(parts: list[np.ndarray | None]) -> surfa.Volume | None:
        """Arrays [X, Y, Z] as the frames of a volume; None if they were not asked for."""
        arrays = [part for part in parts if part is not None]
        return volume.new(arrays[0] if len(arrays) == 1 else np.stack(arrays, axis=-1)) if arrays else None

    return StrippedVolume(
        stacked([frame.mask for frame in frames]),
        stacked([frame.sdt for frame in frames]),
        stacked([frame.probability for frame in frames]),
        tuple(frames),
    )


def read_volume(path: str | os.PathLike[str]) -> surfa.Volume:
    """Read an image file of NIfTI or MGH as a surfa volume, with all its frames.

    Values that the file scales are float32, others have the type of the file. The volume has the geometry of the
    file, as `singlestrip strip` reads it, and no metadata. Raises InputError if the file is no complete image.
    """
    image = read(path)
    if (image.slope, image.intercept) == (1, 0):
        values = np.array(image.stored)
    else:
        values = np.stack([image.scaled(index) for index in range(image.frames)], axis=-1)
    return surfa.Volume(values, geometry=surfa.ImageGeometry(image.space, vox2world=image.vox2world))
