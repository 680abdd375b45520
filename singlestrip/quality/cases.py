"""Synthetic cases: images of which the brain is known, and masks of all qualities, as the estimator learns from.

One labelled scan gives as many as are asked for. Masks are those of the networks that strip, those of disturbed
networks, and true ones with faults; nothing is learned from real scans.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage

from ..configuration import CaseConfig, FaultConfig, TrainConfig, Window
from ..errors import InputError
from ..networks.cascade import Cascade
from ..space.grid import Grid, voxel_sizes
from ..space.metrics import dice
from ..space.morphology import clean
from ..space.scan import Scan
from ..stripping.brain_field import BrainField
from ..stripping.stripper import Stripper
from ..synthesis.gmm import NativeMap
from ..synthesis.streams import RandomStreams, log_uniform, uniform, whole_number
from ..training.maps import ImageSource, WindowMaps, conform_map
from .evidence import ImageWindow, SeenMask, difference, own_mask
from .faults import plant_faults
from .scores import QualityModel

# Kinds of masks. The first two are those of the networks that judge them.
OWN, OWN_DISTURBED, TRUE = "own", "own of disturbed networks", "true"


@dataclass(frozen=True)
class Case:
    """A mask of a synthetic image. image: its number; kind: how the mask was made; dice: with the true brain."""

    image: int
    kind: str
    evidence: Mapping[str, float]
    dice: float

    @property
    def is_own(self) -> bool:
        """Whether the mask is that of the networks that judge it."""
        return self.kind in (OWN, OWN_DISTURBED)


@dataclass(frozen=True, eq=False)
class _Scene:
    """A synthetic image and its true brain, boolean [X, Y, Z]. image: NaN where it has no data."""

    image: Scan
    brain: np.ndarray

    @property
    def covered(self) -> np.ndarray:
        """Where the image has data, boolean [X, Y, Z]."""
        return np.isfinite(self.image.array)


class CaseSource:
    """Draws synthetic cases. The same number gives the same cases.

    label_map: of the labelled scan; networks, quality: what strips and what the estimator is for.
    """

    def __init__(
        self,
        label_map: NativeMap,
        networks: Cascade,
        quality: QualityModel,
        config: CaseConfig = CaseConfig(),
    ) -> None:
        """Raises InputError if nothing is left of the label map at the voxel size of the networks."""
        self.networks, self.stripper = networks, Stripper(networks)
        self.quality, self.config = quality, config
        cascade = networks.config
        self.voxel_mm, self.scale = cascade.voxel_size_mm, cascade.scale
        size = round(cascade.segmenter_size * config.field_of_view)
        jitter_mm = TrainConfig.segmenter_jitter_mm * self.scale
        window = Window((size,) * 3, self.voxel_mm, jitter_mm)
        maps = [
            conform_map(label_map, self.voxel_mm * TrainConfig.source_factor, next(networks.parameters()).device)
        ]
        self.grid = Grid.conformed((0, 0, 0), window.shape, self.voxel_mm)
        self.sources = [
            ImageSource(
                [WindowMaps(window, maps)], TrainConfig(synth=synth, seed=config.seed), self.scale, network
            )
            for network, synth in enumerate((config.hard, config.easy, config.strange))
        ]

    def draw(self, number: int) -> list[Case]:
        """The cases of the image of this number; none if the networks find no brain in it."""
        streams = RandomStreams((self.config.seed, number))
        scene = self._scene(number, streams)
        if scene.brain.sum() < self.config.least_voxels:
            return []
        own = _strip(self.stripper, scene)
        if own is None:
            return []
        mask, field = own
        masks = dict(self._faulty_masks(number, scene, mask, streams))
        judges = {"": field}
        judged = [(kind, each, "") for kind, each in masks.items()]
        disturbed = _strip(self._disturbed(streams), scene)
        if disturbed is not None:
            judges["disturbed"] = disturbed[1]
            judged += [("disturbed", disturbed[0], ""), (OWN_DISTURBED, disturbed[0], "disturbed")]
        windows = {name: ImageWindow.of(scene.image, each.grid) for name, each in judges.items()}
        own_masks = {name: own_mask(each) for name, each in judges.items()}
        told = {name: self.quality.networks_evidence(judges[name], each) for name, each in own_masks.items()}
        cases = []
        for kind, each, judge in judged:
            covered = Scan(each & scene.covered, scene.image.vox2world)
            seen = SeenMask.of(covered, windows[judge])
            if seen.brain.any():
                evidence = self.quality.evidence(covered, seen) | told[judge]
                evidence |= difference(seen.brain, own_masks[judge])
                cases.append(Case(number, kind, evidence, dice(covered.array, scene.brain)))
        return cases

    def _scene(self, number: int, streams: RandomStreams) -> _Scene:
        """A synthetic image in slices of random thickness, with its brain."""
        generator = streams("scene")
        kind = torch.multinomial(torch.tensor(self.config.shares), 1, generator=generator)
        source = self.sources[int(kind)]
        image, share, weight = (each[0, 0].cpu().numpy() for each in source.draw([number], number))
        shown = np.where(weight > 0, image, np.float32(np.nan))
        axis = whole_number(generator, 0, 2)
        factor = self.config.thickness[whole_number(generator, 0, len(self.config.thickness) - 1)]
        shown, share = (_in_slices(each, axis, factor) for each in (shown, share))
        scaling = np.eye(4)
        scaling[axis, axis], scaling[axis, 3] = factor, (factor - 1) / 2
        return _Scene(Scan(shown, self.grid.vox2world @ scaling), (share > 0.5) & np.isfinite(shown))

    def _disturbed(self, streams: RandomStreams) -> Stripper:
        """The stripper with random errors in the weights of its segmenter."""
        generator = streams("disturbed")
        model: Cascade = copy.deepcopy(self.networks)
        error = log_uniform(generator, *self.config.disturbance)
        with torch.no_grad():
            for weight in model.segmenter.parameters():
                if weight.ndim > 1:
                    noise = torch.randn(weight.shape, generator=generator)
                    weight.mul_(1 + error * noise.to(weight.device))
        return Stripper(model)

    def _faulty_masks(
        self, number: int, scene: _Scene, own: np.ndarray, streams: RandomStreams
    ) -> Iterator[tuple[str, np.ndarray]]:
        """Masks boolean [X, Y, Z] of an image, with how they were made. own: that of the networks."""
        config, vox2world = self.config, scene.image.vox2world
        yield OWN, own
        yield TRUE, scene.brain
        true_distance, own_distance = (_distance(mask, voxel_sizes(vox2world)) for mask in (scene.brain, own))
        kinds = (
            ("true with faults", true_distance, config.faults),
            ("true with small faults", true_distance, config.small_faults),
            ("own with faults", own_distance, config.faults),
            ("own with small faults", own_distance, config.small_faults),
        )
        for part, (kind, distance, faults) in enumerate(kinds):
            yield kind, self._with_faults(distance, vox2world, faults, streams.part(part))
        generator = streams("moved")
        for kind in ("grown", "shrunk"):
            offset = uniform(generator, 0.5, config.offset_mm) * self.scale
            yield kind, true_distance < (offset if kind == "grown" else -offset)
        yield "shifted", self._shifted(scene, generator)
        yield "another brain", self._another_brain(number, scene)
        threshold = np.nanquantile(scene.image.array, uniform(generator, *config.quantile))
        yield "bright", clean(np.nan_to_num(scene.image.array, nan=-np.inf) > threshold)
        yield "whole image", scene.covered

    def _with_faults(
        self, distance: np.ndarray, vox2world: np.ndarray, faults: FaultConfig, streams: RandomStreams
    ) -> np.ndarray:
        """A mask with planted faults. distance: of the mask without them, [X, Y, Z] mm."""
        sizes = voxel_sizes(vox2world).tolist()
        planted = plant_faults(torch.from_numpy(distance)[None], sizes, faults, self.scale, [streams])
        return planted[0].numpy() < 0

    def _shifted(self, scene: _Scene, generator: torch.Generator) -> np.ndarray:
        """The true brain, moved in a random direction."""
        direction = torch.randn(3, generator=generator).numpy()
        length = log_uniform(generator, *self.config.shift_mm) * self.scale
        step = length * direction / np.linalg.norm(direction) / scene.image.grid.voxel_sizes_mm
        return ndimage.shift(scene.brain, step.round(), order=0)

    def _another_brain(self, number: int, scene: _Scene) -> np.ndarray:
        """The brain of another image, where that has it."""
        other = self._scene(number + self.config.images, RandomStreams((self.config.seed, number)))
        return other.brain


def _strip(stripper: Stripper, scene: _Scene) -> tuple[np.ndarray, BrainField] | None:
    """The mask of an image and the output of the networks; None if they find no brain."""
    try:
        stripped = stripper.strip(scene.image)
    except InputError:
        return None
    return (stripped.mask, stripped.field) if (stripped.field.logit > 0).any() else None


def _distance(mask: np.ndarray, voxel_sizes_mm: np.ndarray) -> np.ndarray:
    """Signed distance to the surface of a mask in mm, negative inside, as exact as its voxels; float32."""
    outside, inside = (ndimage.distance_transform_edt(part, sampling=voxel_sizes_mm) for part in (~mask, mask))
    return (outside - inside).astype(np.float32)


def _in_slices(array: np.ndarray, axis: int, factor: int) -> np.ndarray:
    """Means [X, Y, Z] of `factor` voxels along an axis; those left over are cut off. NaN if one of them is."""
    whole = array.take(range(array.shape[axis] // factor * factor), axis)
    shape = [*whole.shape[:axis], -1, factor, *whole.shape[axis + 1 :]]
    return whole.reshape(shape).mean(axis + 1)
