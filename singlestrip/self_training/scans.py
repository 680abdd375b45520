"""What a round does with one unlabelled scan: strip it, score its mask, and fit classes to a pseudo-label."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..batch.assessment import name_files
from ..batch.report import draw_picture
from ..configuration import GMMConfig, MaskGridConfig, SelfTrainConfig
from ..errors import InputError, OutputError, describe_error, errors_named
from ..io.checksum import checksum
from ..io.images import memory_need, volume
from ..io.images.masks import read_mask_on
from ..quality.augmentation import agreement, augmented_masks
from ..quality.doubt import map_doubt
from ..quality.scores import MaskQuality, QualityModel
from ..space.metrics import dice
from ..space.scan import Scan
from ..stripping.stripper import Stripped, Stripper
from ..synthesis.gmm import NativeMap, fit_label_map
from ..synthesis.labelling import read_label_map, record_path, write_record
from .plan import Inputs
from .record import DECIMALS
from .select import Score


@dataclass(frozen=True)
class UnlabelledScan:
    """An image, what it is called in pictures and on the page, and its true mask to rank by, if there is one."""

    image: Path
    name: str
    reference: Path | None = None


def unlabelled_scans(inputs: Inputs) -> list[UnlabelledScan]:
    """The unlabelled scans of a run, in their order, with distinct names."""
    references = inputs.references or (None,) * len(inputs.unlabelled)
    images = list(inputs.unlabelled)
    return [UnlabelledScan(*parts) for parts in zip(images, name_files(images), references, strict=True)]


def strip_image(stripper: Stripper, image: volume.Volume) -> Stripped:
    """The brain mask of an image. Raises InputError, which names the image."""
    with errors_named(image.path):
        return stripper.strip(image.scan())


@dataclass(frozen=True)
class Scorer:
    """Strips and scores unlabelled scans with one pair of models.

    config: what scans are ranked by, and whether brains of unusual volume may be pseudo-labels. page_folder: where
    pictures are drawn for the page. grids: how far the grid of a reference may lie from that of its image.
    """

    stripper: Stripper
    quality: QualityModel
    config: SelfTrainConfig
    page_folder: Path
    grids: MaskGridConfig = MaskGridConfig()

    def score(self, scan: UnlabelledScan) -> Score:
        """The score of one scan. One that cannot be stripped has none, and a note that says why.

        Raises OutputError where the picture cannot be written.
        """
        try:
            return self._score(scan)
        except OutputError:
            raise
        except Exception as error:  # a fault in one scan must not stop the run
            return Score(scan.image, None, note=describe_error(error))

    def _score(self, scan: UnlabelledScan) -> Score:
        header = volume.read_header(scan.image)
        memory_need.check(header, sdt=False, window_mm=self.stripper.config.window_mm)
        image = volume.read_single(scan.image)
        stripped = strip_image(self.stripper, image)
        mask = Scan(stripped.mask, image.vox2world)
        reconstruction = self.quality.reconstruct(mask)
        quality = self.quality.measure(mask, reconstruction, image.scan(), stripped.field)
        ranking_score = self._ranking_score(scan, image, mask.array, quality)
        grey = Scan(image.scaled(), image.vox2world)
        doubt = map_doubt(mask, reconstruction, stripped.field)
        draw_picture(self.page_folder, scan.name, grey, mask.array, reconstruction, doubt)
        if not (math.isfinite(ranking_score) and math.isfinite(quality.estimated_dice)):
            raise InputError(f"{scan.image}: its score is no number; is the quality model damaged?")
        return Score(
            scan.image,
            ranking_score=round(ranking_score, DECIMALS),
            estimated_dice=round(quality.estimated_dice, DECIMALS),
            flag=quality.flag,
            note=stripped.unusual if self.config.usual_volumes else "",
            sha256=checksum(scan.image),
            reasons="; ".join(quality.reasons),
        )

    def _ranking_score(
        self, scan: UnlabelledScan, image: volume.Volume, mask: np.ndarray, quality: MaskQuality
    ) -> float:
        """What the scan is ranked by, 0 to 1."""
        if self.config.rank == "tta":
            return agreement(augmented_masks(self.stripper, image.scan()))[0]
        if self.config.rank == "truth":
            assert scan.reference is not None  # checked when the run begins
            return dice(mask, read_mask_on(scan.reference, image, self.grids))
        return quality.shape_dice if self.config.rank == "ae" else quality.estimated_dice


def fit_pseudo_labels(label_maps: dict[Path, Path], stripper: Stripper, gmm: GMMConfig) -> dict[Path, str]:
    """Write the label map of each image; those that are there already are kept.

    label_maps: path of the label map by image. Returns the images to which no classes can be fitted, each with the
    reason.
    """
    unusable = {}
    for image, label_map in label_maps.items():
        if volume.is_complete(label_map) and record_path(label_map).exists():
            continue
        try:
            _fit_pseudo_label(image, label_map, stripper, gmm)
        except InputError as error:
            unusable[image] = describe_error(error)
    return unusable


def _fit_pseudo_label(image: Path, label_map: Path, stripper: Stripper, gmm: GMMConfig) -> None:
    """Strip an image, fit classes to both sides of its mask, and write their label map. Raises InputError."""
    read_image = volume.read_single(image)
    mask = strip_image(stripper, read_image).mask
    with errors_named(image):
        labels, record = fit_label_map(read_image.scaled(), mask, gmm)
    write_record(label_map, record)
    volume.write_like(read_image, label_map, labels[..., None], label="GMM classes")


def read_pseudo_labels(label_maps: Iterable[Path]) -> list[NativeMap]:
    """The label maps of pseudo-labels. Raises InputError where one is damaged, or lacks its record."""
    maps = []
    for path in label_maps:
        label_map = read_label_map(path)
        if label_map.levels is None:
            raise InputError(
                f"{record_path(path)}: the record of a label map is gone; remove scores.tsv beside its folder to "
                "select the scans again"
            )
        maps.append(label_map)
    return maps
