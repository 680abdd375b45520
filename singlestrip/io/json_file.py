"""JSON files that hold one object."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from ..errors import InputError
from .escaping import to_json
from .output import atomic_write
from .textfile import read_text


def read_json(path: Path) -> dict[str, Any]:
    """An object from a JSON file; empty where there is none that can be read. Numbers that are not finite, which
    JSON does not have, are None."""
    try:
        content = json.loads(read_text(path, "JSON"), parse_float=_finite, parse_constant=_finite)
    except (InputError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _finite(text: str) -> float | None:
    value = float(text)
    return value if math.isfinite(value) else None


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write an object whole or not at all."""
    with atomic_write(path) as (partial,):
        partial.write_text(to_json(content), encoding="utf-8")
