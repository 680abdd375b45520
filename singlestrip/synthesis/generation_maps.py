"""Label maps of other programs from files, with the labels that are brain and the images they are of."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from ..configuration import INSIDE_BASE, ClassGenerationConfig, GenerationConfig, TargetClass
from ..errors import BrainLabelsError, InputError, LabelNamesError, errors_named
from ..io.checksum import checksum
from ..io.images import volume
from ..io.images.masks import check_grid
from ..io.images.volume import Volume
from ..io.text.class_table import ClassTable, plain_class_table, read_class_table
from ..io.text.label_table import read_label_table
from ..io.text.typed import shortened
from ..space.scan import Scan
from .brain_labels import labels_meant
from .generation_labels import generation_labels
from .gmm import NativeMap, is_inside
from .labelling import LabelledScan
from .streams import RandomStreams

log = logging.getLogger(__name__)

ROUNDING = 1e-3  # how far a scaled label may lie from a whole number
NOT_WHOLE = "not a label map: its values are not whole numbers"
LARGEST = 2.0**53  # beyond it not every whole number is there in 64 bits


@dataclass(frozen=True, eq=False)
class GenerationMap:
    """A label map to train on.

    map: its classes; scan: its image with the brain as mask, if there is an image; source: what a model file tells
    of where the classes are from.
    """

    map: NativeMap
    scan: LabelledScan | None
    source: dict[str, Any]


@dataclass(frozen=True, eq=False)
class ClassMaps:
    """Label maps to learn classes from.

    maps: whose `map.targets` are the channels of the classes. classes: in the order of their channels, from 1.
    knows_sides: whether it is known which of them lie left or right, if only that none do.
    """

    maps: list[GenerationMap]
    classes: tuple[TargetClass, ...]
    knows_sides: bool


def read_generation_maps(
    paths: Sequence[Path],
    words: Sequence[str],
    table: Path | None = None,
    images: Sequence[Path] = (),
    config: GenerationConfig = GenerationConfig(),
) -> list[GenerationMap]:
    """Label maps of any whole numbers, and classes made of their labels; see `generation_labels`.

    words: which labels are brain, see `labels_meant`. table: names of labels; without it the BIDS table beside a
    map is taken, such as sub-01_dseg.tsv of sub-01_dseg.nii.gz. images: of each map, on its grid, or none.

    Raises InputError, also for a word that means no label of any map.
    """
    read = [_read_map(path, words, table) for path in paths]
    for word in words:
        if not any(meant[word] for _, meant in read):
            raise BrainLabelsError(f"{', '.join(map(str, paths))}: has no label {shortened(word)}")
    return [
        _generation_map(map_read, images[number] if images else None, config, RandomStreams((config.seed, number)))
        for number, (map_read, _) in enumerate(read)
    ]


def read_class_maps(
    paths: Sequence[Path],
    table: Path | None = None,
    words: Sequence[str] = (),
    images: Sequence[Path] = (),
    config: ClassGenerationConfig = ClassGenerationConfig(),
) -> ClassMaps:
    """Label maps of any whole numbers, whose labels a segmenter is to tell apart.

    table: of classes, see `class_table`; without it the BIDS table beside the first map, if there is one,
    otherwise each label but 0 is a class. words: which labels are brain, see `labels_meant`; without any the table
    tells. images: of each map, on its grid, or none; they part large labels, and are no labelled scans.

    The classes that are brain are inside; if there are none, all classes are. Raises InputError.
    """
    files = [volume.read_single(path) for path in paths]
    values = [_named_whole_numbers(file) for file in files]
    present = np.unique(np.concatenate([np.unique(each) for each in values]))
    table = table or _table_beside(paths[0])
    class_table = plain_class_table(present.tolist()) if table is None else read_class_table(table)
    with errors_named(*paths):
        target_of = class_table.targets_of(present.tolist())
        brain = {target_of[label] for label in _labels_named(words, present, class_table)}
        classes = class_table.classes(present.tolist(), brain if words else None)
    channel_of = {each.number: channel for channel, each in enumerate(classes, start=1)}
    channels = np.array([channel_of.get(target_of[label], 0) for label in present.tolist()], dtype=np.uint8)
    inside = {each.number for each in classes if each.brain} or channel_of.keys()
    labels_inside = [label for label in present.tolist() if target_of[label] in inside]
    maps = []
    for number, (file, labels) in enumerate(zip(files, values, strict=True)):
        read = _LabelMap(file, labels, labels_inside, table, class_table.pairs())
        image, streams = images[number] if images else None, RandomStreams((config.seed, number))
        made = _generation_map(read, image, config, streams)
        targets = channels[np.searchsorted(present, labels)]
        maps.append(replace(made, map=replace(made.map, targets=targets), scan=None))
    return ClassMaps(maps, classes, class_table.knows_sides)


def _named_whole_numbers(file: Volume) -> np.ndarray:
    """See `_whole_numbers`; its error with the name of the file."""
    with errors_named(file.path):
        return _whole_numbers(file)


def _labels_named(words: Sequence[str], present: np.ndarray, table: ClassTable) -> list[int]:
    """The labels of maps that words mean. Raises BrainLabelsError for a word that means none."""
    names = {label.number: label.name for label in table.labels.values()}
    labels: list[int] = []
    for word in words:
        meant = labels_meant(word, present, lambda: names).tolist()
        if not meant:
            raise BrainLabelsError(f"has no label {shortened(word)}")
        labels += meant
    return labels


@dataclass(frozen=True, eq=False)
class _LabelMap:
    """A label map as read.

    values: whole numbers [X, Y, Z]; brain: the labels that are brain; table: the names are from it, if any; pairs:
    left and right labels, see `generation_labels`.
    """

    file: Volume
    values: np.ndarray
    brain: list[int]
    table: Path | None
    pairs: Sequence[tuple[int, int]] | None = None


def _read_map(path: Path, words: Sequence[str], table: Path | None) -> tuple[_LabelMap, dict[str, list[int]]]:
    """A label map, and the labels that each word means in it."""
    file = volume.read_single(path)
    table = table or _table_beside(path)

    @cache
    def names() -> dict[int, str]:
        if table is None:
            raise LabelNamesError("its labels have no names; give numbers, or a table of names")
        return read_label_table(table)

    with errors_named(path):
        values = _whole_numbers(file)
        present = np.unique(values)
        meant = {word: labels_meant(word, present, names).tolist() for word in words}
    used = table if names.cache_info().currsize else None
    if used:
        log.info("%s: names of labels from %s", path, used)
    brain = sorted({label for labels in meant.values() for label in labels})
    return _LabelMap(file, values, brain, used), meant


def _table_beside(path: Path) -> Path | None:
    """The BIDS table of names beside a label map, if there is one."""
    table = path.with_name(path.name[: -len(volume.suffix_of(path))] + ".tsv")
    return table if table.is_file() else None


def _whole_numbers(file: Volume) -> np.ndarray:
    """The values of a label map [X, Y, Z], of an integer type. Raises InputError if they are no whole numbers."""
    stored = file.frame(0)
    if stored.dtype.kind in "iu" and (file.slope, file.intercept) == (1.0, 0.0):
        return stored
    values = stored * np.float64(file.slope) + file.intercept
    if not (np.abs(values) < LARGEST).all():
        raise InputError(NOT_WHOLE)
    whole = np.round(values)
    if (np.abs(values - whole) > ROUNDING).any():
        raise InputError(NOT_WHOLE)
    return whole.astype(np.int64)


def _generation_map(
    map_read: _LabelMap, image_path: Path | None, config: GenerationConfig, streams: RandomStreams
) -> GenerationMap:
    """The classes of a label map that was read, parted by an image if there is one."""
    file, brain = map_read.file, map_read.brain
    image = None
    if image_path is not None:
        image = volume.read_single(image_path)
        image.check_not_overflowed()
        check_grid(file, image, advice="resample the label map to it, each voxel to the nearest")
    values = None if image is None else image.scaled()
    with errors_named(file.path):
        made = generation_labels(map_read.values, brain, file.vox2world, config, streams, values, map_read.pairs)
    for remark in made.remarks:
        log.warning("%s: %s", file.path, remark)
    inside = sum(label > INSIDE_BASE for label in made.labels)
    parted_by = "position" if image is None else "image"
    log.info(
        "%s: labels parted by %s into %d classes of brain and %d of the rest",
        *(file.path, parted_by, inside, len(made.labels) - inside),
    )
    files = {"labels": file.path, "image": image_path, "table": map_read.table}
    source: dict[str, Any] = {
        kind: {"name": path.name, "sha256": checksum(path)} for kind, path in files.items() if path is not None
    }
    source["brain"] = brain
    source["classes"] = {str(label): of for label, of in sorted(made.labels.items())}
    source["parted_by"] = parted_by
    source["configuration"] = asdict(config)
    scan = None if values is None else LabelledScan(Scan(values, file.vox2world), is_inside(made.map.labels))
    return GenerationMap(made.map, scan, source)
