"""JSON files that hold one object."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from ...errors import InputError
from ..output import atomic_write
from .escaping import to_json
from .textfile import read_text


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty if there is no file, or no object in it that can be read.

    NaN and infinity, which JSON lacks, become None.
    """
    try:
        content = json.loads(read_text(path, "JSON"), parse_float=_finite, parse_constant=_finite)
    except (InputError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _finite(text: str) -> float | None:
    """The number that text is; None if it is not finite."""
    value = float(text)
    return value if math.isfinite(value) else None


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write an object whole or not at all. Raises OutputError; ValueError for numbers that are not finite."""
    with atomic_write(path) as (partial,):
        partial.write_text(to_json(content), encoding="utf-8")
