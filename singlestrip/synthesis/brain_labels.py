"""Which labels of a map are brain, in a person's words: numbers, ranges, or names of a table."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from difflib import get_close_matches

import numpy as np

from ..errors import BrainLabelsError, LabelNamesError
from ..io.text.typed import shortened

NUMBER = re.compile(r"-?[0-9]+")
RANGE = re.compile(r"([0-9]+)-([0-9]+)")
BACKGROUND = 0  # of every program


def labels_meant(word: str, present: np.ndarray, names_of: Callable[[], Mapping[int, str]]) -> np.ndarray:
    """Those labels of a map that a word means: a number, a range such as 1001-1035, or a name in any case.

    present: the labels of the map, [N] whole numbers. names_of: gives the names of labels; it is asked only where
    the word is a name. Raises BrainLabelsError for a range that holds the background or runs backwards, and
    LabelNamesError for a name that no label has.
    """
    if NUMBER.fullmatch(word):
        return present[present == int(word)]
    if ends := RANGE.fullmatch(word):
        low, high = int(ends[1]), int(ends[2])
        if low > high:
            raise BrainLabelsError(f"{word}: a range of labels goes from the lower to the higher")
        if low <= BACKGROUND:
            raise BrainLabelsError(
                f"{word}: label {BACKGROUND} is the background in most maps; leave it out, or name it by itself"
            )
        return present[(present >= low) & (present <= high)]
    return present[np.isin(present, _numbers_named(word, names_of()))]


def _numbers_named(word: str, names: Mapping[int, str]) -> list[int]:
    """The labels with a name. Raises LabelNamesError, with names that are nearly the same, if there are none."""
    folded = {number: name.casefold() for number, name in names.items()}
    numbers = [number for number, name in folded.items() if name == word.casefold()]
    if not numbers:
        original = {name.casefold(): name for name in names.values()}
        near = [original[name] for name in get_close_matches(word.casefold(), original)]
        advice = f"; near are {', '.join(map(shortened, near))}" if near else ""
        raise LabelNamesError(f"no label has the name {shortened(word)}{advice}")
    return numbers
