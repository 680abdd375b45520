"""Selection: which unlabelled scans become pseudo-labels, and why the others do not. Touches no file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from ..configuration import FlagConfig, SelfTrainConfig

Fraction = Annotated[float, Meta(ge=0, le=1)]


@dataclass(frozen=True)
class Score:
    """What a round says of one unlabelled scan.

    ranking_score: what scans are ranked by, see SelfTrainConfig.rank; None where the scan could not be stripped.
    estimated_dice: of the mask; the same number where scans are ranked by it. flag: of the quality model, "" where
    there is no mask. kept: whether the mask is a pseudo-label. note: why it is not. sha256: of the image.
    """

    image: Path
    ranking_score: Fraction | None
    estimated_dice: Fraction | None = None
    flag: Annotated[str, Meta(pattern="^(pass|look|fail)?$")] = ""
    kept: bool = False
    note: str = ""
    sha256: Annotated[str, Meta(pattern="^([0-9a-f]{64})?$")] = ""


def rank(scores: Iterable[Score]) -> list[Score]:
    """Best first; scans without a score come last."""
    return sorted(
        scores, key=lambda score: (score.ranking_score is None, -(score.ranking_score or 0), str(score.image))
    )


def select(scores: Iterable[Score], config: SelfTrainConfig, unusable: Mapping[Path, str]) -> list[Score]:
    """The scores, best first, with the best `config.keep` of them kept and the reason noted for each other one.

    unusable: images whose masks cannot be learned from, each with the reason; the next best take their place.
    """
    lowest = lowest_ranking_score(config)
    selected: list[Score] = []
    kept = 0
    for score in rank(scores):
        note = score.note
        if score.ranking_score is not None:
            if kept == config.keep:
                note = f"not among the best {config.keep}"
            elif score.ranking_score < lowest:
                note = f"score below {lowest:g}"
            else:
                note = unusable.get(score.image, "")
        keep = score.ranking_score is not None and not note
        kept += keep
        selected.append(replace(score, kept=keep, note=note))
    return selected


def lowest_ranking_score(config: SelfTrainConfig) -> float:
    """The lowest ranking score of a pseudo-label. By default, what fails by its shape is too low."""
    if config.threshold is not None:
        return config.threshold
    return FlagConfig().shape_look_from if config.rank == "ae" else 0.0


def describe_best(scores: Iterable[Score]) -> str:
    """The best ranking score, in words."""
    best = max((score.ranking_score for score in scores if score.ranking_score is not None), default=None)
    return "none could be stripped" if best is None else f"the best score is {best:.3f}"


def best_round(validation_dice: Mapping[str, float], last: int) -> int:
    """The round with the highest validation Dice, the latest of equals; without validation, the last."""
    if not validation_dice:
        return last
    return max(range(last + 1), key=lambda number: (validation_dice[str(number)], number))
