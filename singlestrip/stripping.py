"""Volume to brain probability to brain mask."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage

from . import resample
from .cascade import Cascade
from .errors import InputError
from .synth import normalise

MAX_LOCATOR_VOXELS = 160**3  # 640 mm a side for the human model


@dataclass(frozen=True)
class BrainField:
    """The network's continuous output: logit [X, Y, Z] on a conformed grid, positive in the brain."""

    logit: torch.Tensor
    vox2world: np.ndarray


def largest_component(mask: np.ndarray) -> np.ndarray:
    """The largest 6-connected component of a boolean array [X, Y, Z]; empty stays empty."""
    labels, count = ndimage.label(mask)
    if count <= 1:
        return mask
    return labels == 1 + np.bincount(labels.ravel())[1:].argmax()


def clean(mask: np.ndarray) -> np.ndarray:
    """Largest component with its holes filled, boolean [X, Y, Z]. Works within the bounding box."""
    box = _bounding_box(mask)
    if box is None:
        return mask
    out = np.zeros_like(mask)
    out[box] = ndimage.binary_fill_holes(largest_component(mask[box]))
    return out


def _bounding_box(mask: np.ndarray) -> tuple[slice, ...] | None:
    found = []
    for axis in range(mask.ndim):
        where = np.flatnonzero(mask.any(axis=tuple(a for a in range(mask.ndim) if a != axis)))
        if where.size == 0:
            return None
        found.append(slice(int(where[0]), int(where[-1]) + 1))
    return tuple(found)


class Stripper:
    """A loaded model that strips one image after another."""

    def __init__(self, model: Cascade):
        self.model = model.eval()
        self.config = model.config
        self.device = next(model.parameters()).device

    @torch.inference_mode()
    def _logit(self, network: str, data, vox2world, shape, target) -> tuple[torch.Tensor, torch.Tensor]:
        """Logit and coverage [X, Y, Z] of one network on a conformed grid."""
        covered = resample.conform(np.ones(data.shape, np.float32), vox2world, shape, target, self.device) > 0.5
        image = resample.conform(data, vox2world, shape, target, self.device)
        image = normalise(image[None], covered[None])[None]
        net = getattr(self.model, network)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=False):
            logit = net(image)
        return logit[0, 0], covered

    def _locate(self, data: np.ndarray, vox2world: np.ndarray) -> np.ndarray:
        """RAS mm [3] of the middle of the brain's bounding box, as the locator sees it."""
        voxel = self.config.locator_voxel_size_mm
        multiple = self.config.locator.multiple
        low, high = resample.world_bounds(data.shape, vox2world)
        shape = np.ceil((high - low) / voxel / multiple).astype(int) * multiple
        shape = np.maximum(shape, self.config.locator_size)
        if shape.prod() > MAX_LOCATOR_VOXELS:
            raise InputError(
                f"the field of view, {' × '.join(f'{x:.0f}' for x in high - low)} mm, is too large for a model "
                f"with {self.config.voxel_size_mm:g} mm voxels; crop the image or use a model for this anatomy"
            )
        target = resample.conformed_vox2world((low + high) / 2, shape, voxel)
        logit, covered = self._logit("locator", data, vox2world, tuple(int(n) for n in shape), target)
        logit = torch.where(covered, logit, -torch.inf)
        mask = (logit > 0).cpu().numpy()
        if not mask.any():  # the best guess, so that the segmenter can decide
            mask = (logit >= torch.quantile(logit[covered][:: 1 + int(covered.sum()) // 1_000_000], 0.95)).cpu().numpy()
        box = _bounding_box(largest_component(mask))
        middle = np.array([(s.start + s.stop - 1) / 2 for s in box])
        return target[:3, :3] @ middle + target[:3, 3]

    def field(self, data: np.ndarray, vox2world: np.ndarray, slope=1.0, intercept=0.0, centre=None) -> BrainField:
        """Brain logit around the brain of an image [X, Y, Z] with its 4×4 vox2world."""
        coarse, coarse_vox2world = resample.block_mean(
            data, vox2world, self.config.locator_voxel_size_mm, slope, intercept
        )
        fine, fine_vox2world = resample.block_mean(data, vox2world, self.config.voxel_size_mm, slope, intercept)
        if centre is None: centre = self._locate(coarse, coarse_vox2world)
        size = self.config.segmenter_size
        for attempt in range(2):
            target = resample.conformed_vox2world(centre, (size,) * 3, self.config.voxel_size_mm)
            logit, covered = self._logit("segmenter", fine, fine_vox2world, (size,) * 3, target)
            mask = torch.where(covered, logit, -torch.inf).cpu().numpy() > 0
            box = _bounding_box(largest_component(mask))
            if box is None:
                break
            middle = np.array([(s.start + s.stop - 1) / 2 for s in box])
            off = (middle - (size - 1) / 2) * self.config.voxel_size_mm
            if np.abs(off).max() < 8 * self.config.scale:
                break
            centre = target[:3, :3] @ middle + target[:3, 3]
        return BrainField(logit, target)

    def mask(self, data, vox2world, slope=1.0, intercept=0.0, centre=None):
        field = self.field(data, vox2world, slope, intercept, centre)
        logit = resample.sample(field.logit, np.linalg.inv(field.vox2world) @ vox2world, data.shape, -20.0)
        return clean(logit.cpu().numpy() > 0)
