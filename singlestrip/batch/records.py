"""What outputs were made with, on record, so that a resumed run makes anew what differs. Imports no torch.

A record is a JSON object: what `made_with` tells, how the mask was drawn, and two checksums. That of the image
tells when another image has come in its place; that of the output, when another program has written it. A record
lies in a hidden folder beside the output, or in the JSON file of an output that has one. It is written before the
output, with null for the output's checksum, and again after it: what a killed run left is made anew.
"""

from __future__ import annotations

import os
from hashlib import sha256
from pathlib import Path
from typing import Any

from .._version import __version__
from ..io.checksum import checksum
from ..io.json_file import read_json, write_json
from ..io.output import make_folder
from ..io.volume import voxel_file

FOLDER = ".singlestrip"
CHECKSUM = "OutputSHA256"
LONGEST_NAME = 200  # bytes; what is added to it to write it whole must fit too
# What can differ, in words. What a record leaves out is as in DEFAULTS, or unknown.
WORDS = {
    "SingleStripVersion": "version",
    "ModelSHA256": "model",
    "BorderMM": "border in mm",
    "Fill": "fill",
    "Frames": "frames",
    "BvalSHA256": "b-values",
    "ImageSHA256": "image",
}
DEFAULTS = {"BorderMM": 0.0, "Fill": None}


def made_with(model: Path) -> dict[str, Any]:
    """What all records of a run tell: the version and the model file."""
    return {"SingleStripVersion": __version__, "Model": model.name, "ModelSHA256": checksum(model)}


def hidden_record(output: Path) -> Path:
    """Where the record of an output lies that has no JSON file of its own; one place for both files of a pair."""
    name = voxel_file(output).name
    encoded = os.fsencode(name)
    short = name if len(encoded) <= LONGEST_NAME else sha256(encoded).hexdigest()
    return output.parent / FOLDER / f"{short}.json"


def begin_record(path: Path) -> None:
    """Say that an output is about to be written."""
    make_folder(path.parent)
    write_json(path, read_json(path) | {CHECKSUM: None})


def finish_record(path: Path, output: Path, content: dict[str, Any]) -> None:
    """Say what a whole output was made with, beside what else its JSON file tells."""
    other = {key: value for key, value in read_json(path).items() if key not in WORDS}
    write_json(path, other | content | {CHECKSUM: checksum(voxel_file(output))})


def is_unfinished(record: dict[str, Any]) -> bool:
    """Whether a run ended between the beginning of an output and its record."""
    return CHECKSUM in record and record[CHECKSUM] is None


def is_of(record: dict[str, Any], output: Path) -> bool:
    """Whether a record tells how the file that is there now was made. JSON files of older versions have no
    checksum of it, and are believed."""
    return "ModelSHA256" in record and record.get(CHECKSUM) in (None, checksum(voxel_file(output)))


def differences(record: dict[str, Any], wanted: dict[str, Any]) -> str:
    """What an output was made with and is not wanted now, in words; "" for nothing."""
    return ", ".join(
        f"{word} {_told(record, key)} (now {_told(wanted, key)})"
        for key, word in WORDS.items()
        if _value(record, key, wanted) != _value(wanted, key, record)
    )


def _value(record: dict[str, Any], key: str, other: dict[str, Any]) -> str:
    """A field as text, in which all numbers can be compared, by default what another record has."""
    return _text(record.get(key, DEFAULTS.get(key, other.get(key))))


def _text(value: Any) -> str:
    return f"{value:.9g}" if isinstance(value, int | float) else str(value)


def _told(record: dict[str, Any], key: str) -> str:
    value = record.get(key, DEFAULTS.get(key))
    if key == "ModelSHA256":
        return f"{record.get('Model')} {str(value)[:8]}"
    if key.endswith("SHA256"):
        return str(value)[:8]
    return "default" if value is None else _text(value)
