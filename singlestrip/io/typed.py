"""What files hold, as dataclasses: the type and range of each field are checked when it is read.

A range stands beside its field, as `Annotated[int, Meta(ge=1, le=8)]`; what ties fields together is checked in
`__post_init__`, which raises ValueError.
"""

from __future__ import annotations

import json
import warnings
from dataclasses import asdict
from typing import Any, TypeVar

import msgspec

from .escaping import printable

Kind = TypeVar("Kind")
LONGEST = 160  # characters of a fault that are shown: files may hold anything


def convert(values: Any, kind: type[Kind]) -> Kind:
    """Plain values as a dataclass. Fields without a default must be there; unknown names are passed over.

    Raises ValueError, in a few words: which field, and what was expected of it.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # tensors in place of a dictionary warn when they are asked for keys
            return msgspec.convert(values, kind)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ValueError(_fault(error)) from error


def convert_all(values: Any, kind: type[Kind]) -> Kind:
    """As `convert`, but all fields must be there, and no others."""
    made = convert(values, kind)
    _check_names(values, asdict(made), "")
    return made


def parse(text: str | bytes) -> Any:
    """Plain values from JSON without NaN and infinity. Raises ValueError."""
    try:
        return json.loads(text, parse_constant=_refuse)  # unlike msgspec's, it reads names that are not UTF-8
    except (ValueError, RecursionError) as error:
        raise ValueError(_fault(error)) from error


def shortened(text: str, longest: int = LONGEST) -> str:
    """Text from a file, for a sentence: cut short, and nothing in it that moves a terminal's cursor."""
    return printable(text if len(text) <= longest else f"{text[:longest]}…")


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number")


def _check_names(values: dict[str, Any], expected: dict[str, Any], place: str) -> None:
    for name in sorted(values.keys() ^ expected.keys()):
        raise ValueError(f"{place}{shortened(name)}: {'unknown' if name in values else 'missing'}")
    for name, part in expected.items():
        if isinstance(part, dict):
            _check_names(values[name], part, f"{place}{name}.")


def _fault(error: Exception) -> str:
    """`patch: expected int <= 8` for "Expected `int` <= 8 - at `$.patch`"."""
    if isinstance(error, RecursionError):
        return "nested too deeply"
    text, _, place = str(error).replace("`", "").partition(" - at ")
    if text[1:2].islower():  # not of an abbreviation
        text = text[0].lower() + text[1:]
    text = shortened(text)
    place = place.removeprefix("$").removeprefix(".")
    return f"{place}: {text}" if place else text
