"""Label maps as the networks need them, and the synthetic images drawn from them.

Each image of a run has a number, and random streams by the run's seed and that number. A resumed run therefore
sees the same images as one that never stopped, and several processes see those of one process with a larger batch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch

from ..configuration import INSIDE_BASE, CascadeConfig, LesionTrainConfig, TrainConfig, Window
from ..errors import InputError
from ..networks.cascade import Cascade
from ..space.grid import voxel_sizes
from ..space.resample import conform_labels
from ..space.scan import Scan
from ..synthesis.found_lesions import LesionBank
from ..synthesis.gmm import NativeMap, is_inside
from ..synthesis.image import SynthParameters, sample_parameters, synthesise
from ..synthesis.label_map import LabelMap, Targets
from ..synthesis.streams import RandomStreams, happens, whole_number


@dataclass(frozen=True)
class MapUse:
    """How a label map is learned from.

    weight: how often images are made of it, in proportion to the other maps. spared_voxels: how far on each side
    of its border no loss is taken, in voxels of the network.
    """

    weight: float = 1.0
    spared_voxels: float = 0.0


@dataclass(frozen=True)
class WindowMaps:
    """A grid that a network sees, and the label maps at the voxel size for it."""

    window: Window
    maps: Sequence[LabelMap]


@dataclass(frozen=True)
class ImageSource:
    """Synthetic images for one network.

    views: the grids it sees, its own first; scale: of the anatomy, an adult's is 1; network: its number, from 0;
    weights: how often images are made of each map, in proportion to the others; empty for equally often. lesions:
    found in scans, None to make all by hand. least_change: of lesions that are told apart, see `synthesise`; None
    to tell none.
    """

    views: Sequence[WindowMaps]
    config: TrainConfig
    scale: float
    network: int
    weights: Sequence[float] = ()
    lesions: LesionBank | None = None
    least_change: float | None = None

    def draw(self, numbers: Iterable[int], batch: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Images with these numbers, shares of the brain or of classes, and weights: see `synthesise`.

        batch: number of the batch that they belong to, of which other processes may draw other images. All its
        images are on the same grid.
        """
        return synthesise(*self._drawn(numbers, batch), self.least_change)

    def draw_pairs(self, numbers: Iterable[int], batch: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Images with these numbers, the same images as they are whole, and weights, each [B, 1, X, Y, Z].

        Whole: see `SynthParameters.whole`. The weight is 0 where one of both has no data. batch: as of `draw`.
        """
        maps, window, parameters = self._drawn(numbers, batch)
        image, _, weight = synthesise(maps, window, parameters)
        whole, _, weight_of_whole = synthesise(maps, window, [each.whole() for each in parameters])
        return image, whole, weight * weight_of_whole

    def _drawn(self, numbers: Iterable[int], batch: int) -> tuple[list[LabelMap], Window, list[SynthParameters]]:
        """The label map and the parameters of each image, and the grid of all."""
        view = self._view(RandomStreams((self.config.seed, self.network, batch)))
        chosen, parameters = [], []
        for number in numbers:
            streams = RandomStreams((self.config.seed, self.network, number))
            chosen.append(view.maps[self._map_number(streams("label map"), len(view.maps))])
            drawn_from = chosen[-1].levels, chosen[-1].bank, chosen[-1].shares, self.lesions
            parameters.append(sample_parameters(self.config.synth, view.window, self.scale, streams, *drawn_from))
        return chosen, view.window, parameters

    def _map_number(self, generator: torch.Generator, count: int) -> int:
        """The number of the label map of an image, of so many."""
        if not self.weights:
            return whole_number(generator, 0, count - 1)
        return int(torch.multinomial(torch.tensor(self.weights, dtype=torch.float64), 1, generator=generator))

    def _view(self, streams: RandomStreams) -> WindowMaps:
        """The grid of a batch with these streams."""
        generator = streams("view")
        if len(self.views) == 1 or not happens(generator, self.config.wide_probability):
            return self.views[0]
        return self.views[whole_number(generator, 1, len(self.views) - 1)]


def image_sources(
    maps: Sequence[NativeMap],
    cascade: CascadeConfig,
    config: TrainConfig,
    device: torch.device,
    uses: Sequence[MapUse] = (),
    lesions: LesionBank | None = None,
) -> dict[str, ImageSource]:
    """The images of each network by its name: first the locator, then the segmenter.

    uses: of each label map; empty to use all alike. lesions: found in scans, for images of all maps; None to make
    all by hand. Raises InputError if nothing is left of a label map at the network's voxel size.
    """
    sources = {}
    spared_voxels = [use.spared_voxels for use in uses] or [0.0] * len(maps)
    for network, (name, windows) in enumerate(config.windows(cascade).items()):
        least_change, mirrored = None, None
        if cascade.classes and name == "segmenter":
            if isinstance(config, LesionTrainConfig):
                least_change = config.least_change
            else:
                mirrored = cascade.mirrored_channels
        views: list[WindowMaps] = []
        for window in windows:
            spacing_mm = map_spacing_mm(maps, window, cascade, config)
            try:
                conformed = [conform_map(native, spacing_mm, device, mirrored) for native in maps]
            except InputError:
                if not views:
                    raise
                break  # too small to be seen in a wider field
            spared_mm = [voxels * window.voxel_size_mm for voxels in spared_voxels]
            spared = [replace(each, spared_mm=mm) for each, mm in zip(conformed, spared_mm, strict=True)]
            views.append(WindowMaps(window, spared))
        weights = [use.weight for use in uses]
        sources[name] = ImageSource(views, config, cascade.scale, network, weights, lesions, least_change)
    return sources


def map_spacing_mm(
    maps: Sequence[NativeMap], window: Window, cascade: CascadeConfig, config: TrainConfig
) -> float:
    """The voxel size of label maps for a grid that a network sees; for classes no finer than the maps are."""
    spacing_mm = window.voxel_size_mm * config.source_factor
    if not cascade.classes:
        return spacing_mm
    return max(spacing_mm, min(float(voxel_sizes(source.vox2world).min()) for source in maps))


def conform_map(
    source: NativeMap, spacing_mm: float, device: torch.device, mirrored: Sequence[int] | None = None
) -> LabelMap:
    """A label map at a voxel size. Raises InputError if nothing is left of the brain, or of what is around it.

    mirrored: the channel of each target in a mirrored head, if targets are to be learned.
    """
    labels = conform_labels(source.scan, spacing_mm, INSIDE_BASE).array
    inside = is_inside(labels)
    if not inside.any() or not ((labels > 0) & ~inside).any():
        side = "outside" if inside.any() else "inside"
        raise InputError(
            f"nothing {side} the brain is left of a label map with voxels of {spacing_mm:.2g} mm: too thin to "
            "learn from; check the mask, or choose smaller voxels"
        )
    targets = None
    if mirrored is not None:
        assert source.targets is not None, "a map to learn classes from has targets"
        channels = conform_labels(Scan(source.targets, source.vox2world), spacing_mm, 0).array
        targets = Targets(torch.from_numpy(channels).to(device), torch.tensor(mirrored, device=device))
    return LabelMap.of(labels, spacing_mm, device, source.levels, targets, source.bank)


def fingerprint(
    maps: Sequence[NativeMap],
    uses: Sequence[MapUse] = (),
    lesions: LesionBank | None = None,
    teacher: Cascade | None = None,
) -> str:
    """SHA-256 of label maps with all that belongs to them, of found lesions and of a teacher: a run must be
    resumed with those it began with."""
    digest = hashlib.sha256()
    for source in maps:
        digest.update(np.ascontiguousarray(source.labels).tobytes())
        digest.update(np.asarray(source.vox2world, dtype=np.float64).tobytes())
        digest.update(b"" if source.levels is None else source.levels.tobytes())
        digest.update(b"" if source.targets is None else np.ascontiguousarray(source.targets).tobytes())
        if source.bank is not None:
            for fields in (source.bank.mean, source.bank.components):
                digest.update(fields.numpy().tobytes())
    for use in uses:
        digest.update(repr(asdict(use)).encode())
    for lesion in () if lesions is None else lesions.lesions:
        for values in (lesion.uneven, lesion.texture, lesion.radius_mm * lesion.reach):
            digest.update(values.numpy().tobytes())
    for weights in () if teacher is None else teacher.parameters():
        digest.update(weights.detach().cpu().numpy().tobytes())
    return digest.hexdigest()
