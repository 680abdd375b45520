"""What is known of a model file from its header and its card, without its weights. Imports no torch."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ..errors import ModelError
from .model_card import ModelCard, Score, read_card
from .model_header import AUTOENCODER, CASCADE, read_header

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModelDescription:
    """A model file. What neither its header nor its card says is None, or empty.

    name: by which it is found on the search path, or as it was given. error: why it cannot be read; the fields
    below it are then unknown. strips: whether it has networks that strip heads. structures: names of those
    that they tell apart. has_quality: whether it has a network that estimates the quality of masks. learned_from:
    the card's text, or the names of the files that it learned
    from. date: the card's, or that of the last change of the file, YYYY-MM-DD. voxel_size_mm: of the segmenter, or
    of the quality network. brain_ml: volumes of the labelled brains. Other texts and the scores are the card's.
    """

    name: str
    path: str
    error: str | None = None
    format: str | None = None
    format_version: int | None = None
    strips: bool | None = None
    has_quality: bool | None = None
    anatomy: str | None = None
    learned_from: str | None = None
    source: str | None = None
    licence: str | None = None
    date: str | None = None
    version: str | None = None
    voxel_size_mm: float | None = None
    brain_ml: tuple[float, ...] = ()
    size_bytes: int | None = None
    structures: tuple[str, ...] = ()
    scores: tuple[Score, ...] = ()
    intended_use: str | None = None
    limits: tuple[str, ...] = ()


def describe_model(name: str, path: Path) -> ModelDescription:
    """The description of a model file. A card that cannot be used is reported to the log, and left out."""
    try:
        header = read_header(path)
        status = path.stat()
    except (ModelError, OSError) as error:
        return ModelDescription(name, str(path), error=str(error))
    card = _usable_card(path)
    told: dict[str, Any] = {} if card is None else vars(card)  # fields of the same names
    kind, part = next(iter(header.parts.items()))
    sources = ", ".join(_source_names(part.stored["provenance"]))
    changed = datetime.fromtimestamp(status.st_mtime, timezone.utc).date().isoformat()
    read = {
        "name": name,
        "path": str(path),
        "format": kind.format,
        "format_version": header.version,
        "strips": kind is CASCADE and (not part.config.classes or bool(part.config.brain_channels)),
        "structures": tuple(each.name for each in part.config.classes) if kind is CASCADE else (),
        "has_quality": AUTOENCODER in header.parts,
        "learned_from": told.get("learned_from") or sources or None,
        "date": told.get("date") or changed,
        "voxel_size_mm": part.config.voxel_size_mm,
        "brain_ml": header.anatomy.brain_ml if header.anatomy else (),
        "size_bytes": status.st_size,
    }
    return ModelDescription(**(told | read))


def _usable_card(path: Path) -> ModelCard | None:
    """The card of a model file; None, and a warning in the log, if it cannot be used."""
    try:
        return read_card(path)
    except ModelError as error:
        log.warning("%s", error)
        return None


def _source_names(provenance: dict[str, Any]) -> Iterator[str]:
    """The name of each labelled image that a model learned from; without an image, of its label map or mask."""
    labelled = provenance.get("labelled")
    for example in labelled if isinstance(labelled, list) else [labelled]:
        files = [example.get(kind) for kind in ("image", "labels", "mask")] if isinstance(example, dict) else []
        names = [file["name"] for file in files if isinstance(file, dict) and isinstance(file.get("name"), str)]
        yield from names[:1]
