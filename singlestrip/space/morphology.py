"""Masks as shapes: components, holes, bounding boxes. Needs no torch."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from .grid import Box


def bounding_box(mask: np.ndarray) -> Box | None:
    """The box around the True voxels of an array; None if there are none."""
    box = []
    for axis in range(mask.ndim):
        where = np.flatnonzero(mask.any(axis=tuple(a for a in range(mask.ndim) if a != axis)))
        if where.size == 0:
            return None
        box.append(slice(int(where[0]), int(where[-1]) + 1))
    return tuple(box)


def largest_component(mask: np.ndarray) -> np.ndarray:
    """The largest 6-connected component of a boolean array [X, Y, Z]; empty stays empty."""
    labels, count = ndimage.label(mask)
    return mask if count <= 1 else labels == 1 + _component_sizes(labels, count).argmax()


def largest_components(mask: np.ndarray, most: int) -> list[np.ndarray]:
    """The `most` largest 6-connected components of a boolean array [X, Y, Z], the largest first.

    There are fewer if it has not so many.
    """
    labels, count = ndimage.label(mask)
    largest = np.argsort(-_component_sizes(labels, count), kind="stable")[:most]
    return [labels == 1 + number for number in largest]


def large_components(mask: np.ndarray, share: float) -> np.ndarray:
    """The 6-connected components of a boolean array [X, Y, Z] with at least `share` of the largest one's size."""
    labels, count = ndimage.label(mask)
    if count <= 1:
        return mask
    sizes = _component_sizes(labels, count)
    return np.concatenate([[False], sizes >= share * sizes.max()])[labels]


def components_from(mask: np.ndarray, voxels: float) -> np.ndarray:
    """The 6-connected components of a boolean array [X, Y, Z] that have so many voxels or more."""
    labels, count = ndimage.label(mask)
    return np.concatenate([[False], _component_sizes(labels, count) >= voxels])[labels]


def _component_sizes(labels: np.ndarray, count: int) -> np.ndarray:
    """The size [N] of each of `count` components, numbered from 1."""
    # Plane by plane: of the whole, bincount would make a copy of 8 bytes a voxel.
    sizes = np.zeros(count + 1, dtype=np.int64)
    for plane in labels:
        sizes += np.bincount(plane.ravel(), minlength=count + 1)
    return sizes[1:]


def thin_axes(shape: tuple[int, ...]) -> list[bool]:
    """Whether an image has three slices or fewer along each axis, where every hole would be open."""
    return [size <= 3 for size in shape]


def fill_holes(mask: np.ndarray, thin: list[bool]) -> np.ndarray:
    """Fill background that no path joins to the outside; boolean [X, Y, Z].

    thin: `thin_axes` of the image that the mask is part of; paths do not leave a slice along these.
    """
    pad = [(0, 0) if flat else (1, 1) for flat in thin]
    labels, count = ndimage.label(~np.pad(mask, pad))
    if count <= 1:
        return mask
    outside = np.zeros(count + 1, dtype=bool)
    for axis, (before, _) in enumerate(pad):
        if before:
            outside[np.unique(labels.take((0, -1), axis))] = True
    outside[0] = False
    inner = tuple(slice(before, size + before) for size, (before, _) in zip(mask.shape, pad, strict=True))
    return ~outside[labels[inner]]


def mask_box(mask: np.ndarray) -> Box | None:
    """The bounding box of a mask, with all slices of thin axes; None if the mask is empty."""
    box = bounding_box(mask)
    if box is None:
        return None
    return tuple(slice(None) if flat else s for s, flat in zip(box, thin_axes(mask.shape), strict=True))


def clean(mask: np.ndarray) -> np.ndarray:
    """Largest component with its holes filled, boolean [X, Y, Z]; computed within the bounding box."""
    if mask.flags.f_contiguous and not mask.flags.c_contiguous:
        return clean(mask.T).T  # labelling is slower across the order in memory
    box = mask_box(mask)
    if box is None:
        return mask
    out = np.zeros_like(mask)
    out[box] = fill_holes(largest_component(mask[box]), thin_axes(mask.shape))
    return out


def middle_mm(mask: np.ndarray, vox2world: np.ndarray) -> np.ndarray | None:
    """RAS mm [3] of the middle of a mask's bounding box; None if empty."""
    box = bounding_box(mask)
    if box is None:
        return None
    return vox2world[:3, :3] @ [(s.start + s.stop - 1) / 2 for s in box] + vox2world[:3, 3]
