"""Labelled scans from files, and label maps with their records."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from .._version import __version__
from ..configuration import INSIDE_BASE, GMMConfig, MaskGridConfig
from ..errors import BrainLabelsError, InputError, errors_named
from ..io.checksum import checksum
from ..io.images import volume
from ..io.images.pairs import check_exist, read_pair
from ..io.output import atomic_write, check_distinct, check_picture, check_writable
from ..io.pictures import figures
from ..io.text import typed
from ..io.text.textfile import file_bytes
from ..space.scan import Scan
from .gmm import FitRecord, NativeMap, check_classes, fit_label_map, is_inside, levels_of

log = logging.getLogger(__name__)

MAX_RECORD_BYTES = 2**20  # one of 180 classes has 20 kB


@dataclass(frozen=True, eq=False)
class LabelledScan:
    """A scan and its brain mask, boolean [X, Y, Z]."""

    scan: Scan
    mask: np.ndarray


def labelled_scan(image_path: Path, mask_path: Path, grids: MaskGridConfig = MaskGridConfig()) -> LabelledScan:
    """A labelled scan to strip and compare. grids: see `read_pair`. Raises InputError."""
    image, mask = read_pair(image_path, mask_path, grids)
    return LabelledScan(Scan(image.scaled(), image.vox2world), mask)


def labelled_example(
    image_path: Path, mask_path: Path, config: GMMConfig, grids: MaskGridConfig = MaskGridConfig()
) -> tuple[NativeMap, LabelledScan]:
    """The label map of a labelled scan, to train on, and the scan. grids: see `read_pair`. Raises InputError."""
    labelled = labelled_scan(image_path, mask_path, grids)
    labels, record = _fit(labelled.scan.array, labelled.mask, image_path, mask_path, config)
    return NativeMap(labels, labelled.scan.vox2world, levels_of(record)), labelled


def _check_files(image_path: Path, mask_path: Path, out: Path, figure: Path | None) -> None:
    """Raise OutputError or InputError unless the label map, its record and the picture can be written."""
    volume.check_output(out)
    outputs = [out, record_path(out)]
    if figure is not None:
        check_picture(figure)
        outputs.append(figure)
    for path in outputs:
        check_writable(path)
    check_distinct([image_path, mask_path], outputs)


def _fit(
    image: np.ndarray, mask: np.ndarray, image_path: Path, mask_path: Path, config: GMMConfig
) -> tuple[np.ndarray, dict[str, Any]]:
    """See `gmm.fit_label_map`; its errors with the names of the files."""
    with errors_named(image_path, mask_path):
        return fit_label_map(image, mask, config)


def record_path(label_map: Path) -> Path:
    """Where the record of a label map lies, beside it."""
    return label_map.with_name(label_map.name[: -len(volume.suffix_of(label_map))] + ".json")


def write_record(label_map: Path, record: dict[str, Any]) -> None:
    """Write the record of a label map beside it, as JSON."""
    with atomic_write(record_path(label_map)) as (partial,):
        partial.write_text(_record_text(record))


def _record_text(record: dict[str, Any]) -> str:
    """A record as JSON."""
    return json.dumps(record, indent=2) + "\n"


def _read_record(label_map: Path) -> FitRecord | None:
    """The record beside a label map; None where there is none, or another program's description of its own.

    Raises InputError where it is damaged: without it the same seed would give other images.
    """
    path = record_path(label_map)
    if not path.exists():
        return None
    try:
        values = typed.parse(file_bytes(path, limit=MAX_RECORD_BYTES))
        names = {each.name for each in fields(FitRecord)}
        if isinstance(values, dict) and values and not names & values.keys():
            return None
        return typed.convert(values, FitRecord)
    except ValueError as error:
        raise InputError(
            f"{path}: the record of {label_map.name} is damaged ({error}); make both anew with fit-gmm, or remove "
            "the record if the label map is another program's"
        ) from error


def read_label_map(path: Path) -> NativeMap:
    """A label map as `fit_files` writes it, with its record beside it. Raises InputError.

    Without a record the levels are None, which is logged: the same seed then gives other images.
    """
    labels, vox2world = _read_labels(path)
    record = _read_record(path)
    if record is None:
        log.warning(
            "%s: no record of its fit lies beside it (%s): images made from it lack the contrasts that both sides "
            "of the brain's border share",
            path,
            record_path(path).name,
        )
        return NativeMap(labels, vox2world)
    strange = {int(label) for label in np.unique(labels)} - {0} - record.labels
    if strange:
        raise InputError(
            f"{record_path(path)}: the record is of another label map (no label {min(strange)} in it); make both "
            "anew with fit-gmm, or remove the record"
        )
    return NativeMap(labels, vox2world, record.levels())


def _read_labels(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Labels uint8 [X, Y, Z] of a file and its vox2world. Raises InputError unless they tell brain and outside."""
    scan = volume.read(path)
    values = scan.scaled()
    if scan.frames > 1 or not np.isfinite(values).all() or (values != np.round(values)).any():
        raise InputError(f"{path}: not a label map of whole numbers")
    if values.min() < 0 or values.max() > 255:
        raise BrainLabelsError(
            f"{path}: labels go from {values.min():g} to {values.max():g}; fit-gmm writes 1 to 190. If another "
            "program made the map, say which of its labels are brain"
        )
    labels = values.astype(np.uint8)
    inside = is_inside(labels)
    if not inside.any() or not ((labels > 0) & ~inside).any():
        raise BrainLabelsError(
            f"{path}: needs labels of both sides, 1 to {INSIDE_BASE} outside the brain and from {INSIDE_BASE + 1} "
            "inside. If another program made the map, say which of its labels are brain"
        )
    return labels, scan.vox2world


def fit_files(
    image_path: Path,
    mask_path: Path,
    out: Path,
    config: GMMConfig,
    figure: Path | None = None,
    grids: MaskGridConfig = MaskGridConfig(),
) -> None:
    """Fit classes to a labelled scan. Write the label map, its JSON record beside it, and a picture if named.

    grids: see `read_pair`. Raises InputError and OutputError.
    """
    _check_files(image_path, mask_path, out, figure)
    check_classes(config)
    check_exist([image_path, mask_path])
    import sklearn

    image, mask = read_pair(image_path, mask_path, grids)
    values = image.scaled()
    labels, record = _fit(values, mask, image_path, mask_path, config)
    record |= {
        "image": {"name": image_path.name, "sha256": checksum(image_path)},
        "mask": {"name": mask_path.name, "sha256": checksum(mask_path)},
        "configuration": asdict(config),
        "versions": {"singlestrip": __version__, "scikit-learn": sklearn.__version__, "numpy": np.__version__},
    }
    # The record is ready when the label map appears: without it that looks like another program's.
    with atomic_write(record_path(out)) as (partial,):
        partial.write_text(_record_text(record))
        volume.write_like(image, out, labels[..., None], label="GMM classes")
    if figure is not None:
        figures.label_figure(Scan(values, image.vox2world), labels, figure)
