"""Model cards: what a model file cannot say of itself, in a JSON file NAME.json beside NAME.safetensors.

Imports no torch.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta

from ..errors import InputError, ModelError
from ..io.text import typed
from ..io.text.textfile import read_text
from .model_files import SUFFIX

log = logging.getLogger(__name__)

MAX_CARD_BYTES = 2**20  # the shipped cards have 2 kB
Share = Annotated[float, Meta(ge=0, le=1)]
Date = Annotated[str, Meta(pattern=r"^\d{4}-\d{2}-\d{2}$")]


@dataclass(frozen=True)
class Score:
    """How good a model is on data that it did not learn from. At least one of the numbers is there.

    data, contrast: of the scans. scans: their number; of a model that estimates quality, that of the masks.
    dice, hd95_mm: means over the scans, against reference masks. dice_error, dice_correlation: mean absolute
    difference and Pearson correlation of estimated and true Dice.
    """

    data: str
    scans: Annotated[int, Meta(ge=1)]
    contrast: str | None = None
    dice: Share | None = None
    hd95_mm: Annotated[float, Meta(ge=0)] | None = None
    dice_error: Share | None = None
    dice_correlation: Annotated[float, Meta(ge=-1, le=1)] | None = None

    def __post_init__(self) -> None:
        if self.dice is self.hd95_mm is self.dice_error is self.dice_correlation is None:
            raise ValueError("a score needs dice, hd95_mm, dice_error or dice_correlation")


@dataclass(frozen=True)
class ModelCard:
    """The content of a card. Texts are for people; what a card does not say is None, or empty.

    anatomy: what the model is for. learned_from, source: the labelled scans, and where they come from. licence: of
    the weights. date: on which they were finished, YYYY-MM-DD. version: of the model. limits: what it cannot do.
    """

    anatomy: str
    learned_from: str | None = None
    source: str | None = None
    licence: str | None = None
    date: Date | None = None
    version: str | None = None
    scores: tuple[Score, ...] = ()
    intended_use: str | None = None
    limits: tuple[str, ...] = ()


def card_path(model: Path) -> Path:
    """The path of the card of a model file."""
    return model.with_name(f"{model.name.removesuffix(SUFFIX)}.json")


def read_card(model: Path) -> ModelCard | None:
    """The card of a model file; None if it has none. Raises ModelError for a card that cannot be read.

    Ignores names that no field has, with a warning in the log.
    """
    path = card_path(model)
    if not path.exists():
        return None
    try:
        content = typed.parse(read_text(path, "a model card", limit=MAX_CARD_BYTES))
        card = typed.convert(content, ModelCard)
    except InputError as error:
        raise ModelError(str(error)) from error
    except ValueError as error:
        raise ModelError(f"{path}: not a model card, or damaged ({error})") from error
    _report_unknown(path, content, ModelCard)
    for score in content.get("scores", ()):
        _report_unknown(path, score, Score)
    return card


def _report_unknown(path: Path, content: dict[str, Any], kind: type[ModelCard] | type[Score]) -> None:
    """Warn of the names in an object of a card that no field of `kind` has: they may be misspelt."""
    known = [field.name for field in fields(kind)]
    for name in content:
        if name not in known:
            log.warning("%s: ignores %s; the names are %s", path, typed.shortened(name), ", ".join(known))
