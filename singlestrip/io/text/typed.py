"""Content of files as dataclasses, of which the type and range of each field are checked.

A field states its range, as `Annotated[int, Meta(ge=1, le=8)]`. `__post_init__` checks what several fields must
fulfil together, and raises ValueError.
"""

from __future__ import annotations

import json
import warnings
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import msgspec

from .escaping import printable

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Record = TypeVar("Record", bound="DataclassInstance")
LONGEST = 160  # characters that are shown of a text from a file, which may hold anything


def convert(values: Any, kind: type[Record]) -> Record:
    """Plain values as a dataclass. Fields without a default must be there; unknown names are ignored.

    Raises ValueError, which names the field and what was expected.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a tensor in place of a dictionary warns when it is asked for keys
            return msgspec.convert(values, kind)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ValueError(_fault(error)) from error


def convert_all(values: Any, kind: type[Record]) -> Record:
    """As `convert`, but all fields must be there and no others."""
    record = convert(values, kind)
    _check_names(values, asdict(record), "")
    return record


def parse(text: str | bytes) -> Any:
    """Plain values from JSON without NaN and infinity. Raises ValueError."""
    try:
        return json.loads(text, parse_constant=_refuse)  # unlike msgspec it reads names that are not UTF-8
    except (ValueError, RecursionError) as error:
        raise ValueError(_fault(error)) from error


def shortened(text: str, longest: int = LONGEST) -> str:
    """Text from a file for use in a message: cut to `longest` characters, control characters escaped."""
    return printable(text if len(text) <= longest else f"{text[:longest]}…")


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number")


def _check_names(values: dict[str, Any], expected: dict[str, Any], place: str) -> None:
    """Raise ValueError unless both have the same names at all depths. place: of `values`, for the error."""
    for name in sorted(values.keys() ^ expected.keys()):
        raise ValueError(f"{place}{shortened(name)}: {'unknown' if name in values else 'missing'}")
    for name, part in expected.items():
        if isinstance(part, dict):
            _check_names(values[name], part, f"{place}{name}.")


def _fault(error: Exception) -> str:
    """An error's text as a clause: "Expected `int` <= 8 - at `$.patch`" becomes `patch: expected int <= 8`."""
    if isinstance(error, RecursionError):
        return "nested too deeply"
    text, _, place = str(error).replace("`", "").partition(" - at ")
    if text[1:2].islower():  # no abbreviation
        text = text[0].lower() + text[1:]
    text = shortened(text)
    place = place.removeprefix("$").removeprefix(".")
    return f"{place}: {text}" if place else text
