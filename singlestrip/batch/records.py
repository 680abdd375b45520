"""Records of how outputs were made, by which a resumed run makes anew what differs. Imports no torch.

A record is a JSON object with the fields of `made_with`, how the mask was made, and two checksums. The checksum of
the image shows whether the image has been replaced, that of the output whether another program has changed it. A
record lies in a hidden folder beside the output, or in the output's own JSON file. It is written before the
output, with null for the output's checksum, and again after it, so that the output of a killed run is made anew.
"""

from __future__ import annotations

import os
from hashlib import sha256
from pathlib import Path
from typing import Any

from .._version import __version__
from ..configuration import DiffusionConfig
from ..io.checksum import checksum
from ..io.images.names import voxel_file
from ..io.output import make_folder
from ..io.text.json_file import read_json, write_json

FOLDER = ".singlestrip"
CHECKSUM = "OutputSHA256"
LONGEST_NAME = 200  # bytes; the name of the partial file is longer and must fit too
# The compared keys, in words. If a record lacks a key, its value is that in DEFAULTS, otherwise unknown.
WORDS = {
    "SingleStripVersion": "version",
    "ModelSHA256": "model",
    "QualityModelSHA256": "quality model",
    "LesionModelSHA256": "model of lesions",
    "BorderMM": "border in mm",
    "CentreMM": "centre in mm",
    "Fill": "fill",
    "CropMM": "margin of the crop in mm",
    "CSF": "fluid around the brain",
    "Frames": "frames",
    "BvalSHA256": "b-values",
    "B0Limit": "limit of b=0 in s/mm²",
    "ImageSHA256": "image",
}
DEFAULTS = {
    "BorderMM": 0.0,
    "CSF": None,
    "CentreMM": None,
    "Fill": None,
    "CropMM": None,
    "QualityModelSHA256": None,
    "LesionModelSHA256": None,
    "B0Limit": DiffusionConfig().b0_limit,
}


def made_with(model: Path) -> dict[str, Any]:
    """The fields that all records of a run share: the version and the model file."""
    return {"SingleStripVersion": __version__, "Model": model.name, "ModelSHA256": checksum(model)}


def hidden_record(output: Path) -> Path:
    """The path of the record of an output without a JSON file of its own; both files of a pair have one record."""
    name = voxel_file(output).name
    encoded = os.fsencode(name)
    short = name if len(encoded) <= LONGEST_NAME else sha256(encoded).hexdigest()
    return output.parent / FOLDER / f"{short}.json"


def begin_record(path: Path) -> None:
    """Record that an output is about to be written."""
    make_folder(path.parent)
    write_json(path, read_json(path) | {CHECKSUM: None})


def finish_record(path: Path, output: Path, content: dict[str, Any]) -> None:
    """Record how a complete output was made; other fields of its JSON file stay."""
    other = {key: value for key, value in read_json(path).items() if key not in WORDS}
    write_json(path, other | content | {CHECKSUM: checksum(voxel_file(output))})


def is_unfinished(record: dict[str, Any]) -> bool:
    """Whether a run ended between beginning an output and finishing its record."""
    return CHECKSUM in record and record[CHECKSUM] is None


def is_of(record: dict[str, Any], output: Path) -> bool:
    """Whether a record belongs to the output file in its present state.

    JSON files of older versions lack the checksum of the output; they count as its record.
    """
    return "ModelSHA256" in record and record.get(CHECKSUM) in (None, checksum(voxel_file(output)))


def differences(record: dict[str, Any], wanted: dict[str, Any]) -> str:
    """How a record differs from the wanted one, in words; "" if nothing differs."""
    return ", ".join(
        f"{word} {_describe(record, key)} (now {_describe(wanted, key)})"
        for key, word in WORDS.items()
        if _value(record, key, wanted) != _value(wanted, key, record)
    )


def _value(record: dict[str, Any], key: str, other: dict[str, Any]) -> str:
    """A field as text, to compare; if the record lacks it, its default, or else the value in `other`."""
    return _text(record.get(key, DEFAULTS.get(key, other.get(key))))


def _text(value: object) -> str:
    """A value as text; equal numbers have equal texts."""
    if isinstance(value, list | tuple):
        return " ".join(map(_text, value))
    return f"{value:.9g}" if isinstance(value, int | float) else str(value)


def _describe(record: dict[str, Any], key: str) -> str:
    """A field in words."""
    value = record.get(key, DEFAULTS.get(key))
    if key == "ModelSHA256":
        return f"{record.get('Model')} {str(value)[:8]}"
    if value is None and key in DEFAULTS:
        return "default"
    return str(value)[:8] if key.endswith("SHA256") else _text(value)
