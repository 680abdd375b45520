"""Scans with reference masks, as benchmarks find them."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Scan:
    """One image and its mask; `name` is the image's path relative to the data."""

    dataset: str
    contrast: str
    subject: str
    name: str
    image: Path
    mask: Path

    @property
    def subset(self) -> str:
        return f"{self.dataset} {self.contrast}"

    @property
    def person(self) -> str:
        """The subject without the visit: all scans of one person belong together."""
        return re.sub(r"_(study|ses|visit).*", "", self.subject)

    def within(self, names: Iterable[str]) -> bool:
        return self.subset in names or self.dataset in names


def find_scans(data: Path, datasets: Iterable[str] | None = None, skip: Iterable[str] = ()) -> list[Scan]:
    """Scans with masks of DATA/scans.tsv or of the SynthStrip data set's folders, in a fixed order.

    datasets: subsets or datasets to take, None for all. skip: names of images left out.
    """
    found = _listed(data) if (data / "scans.tsv").is_file() else _in_folders(data)
    return [scan for scan in found if scan.name not in skip and (datasets is None or scan.within(datasets))]


def _listed(data: Path) -> list[Scan]:
    with (data / "scans.tsv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file, delimiter="\t") if row["image"] and row["mask"]]
    return [
        Scan(
            *(row[column] for column in ("dataset", "contrast", "subject", "image")),
            image=data / row["image"],
            mask=data / row["mask"],
        )
        for row in rows
    ]


def _in_folders(data: Path) -> list[Scan]:
    scans = []
    for image in sorted(data.glob("*/image.nii.gz")):
        mask = image.with_name("mask.nii.gz")
        parts = image.parent.name.split("_")
        if len(parts) >= 3 and mask.is_file():
            subset, contrast, subject = parts[0], "_".join(parts[1:-1]), parts[-1]
            name = str(image.relative_to(data))
            scans.append(Scan(subset, contrast, f"{subset} {subject}", name, image, mask))
    return scans
