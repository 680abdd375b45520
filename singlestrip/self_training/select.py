"""Selection: which unlabelled scans become pseudo-labels, and why the others do not. Touches no file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
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
    there is no mask. kept: whether the mask is a pseudo-label. note: why it is not. sha256: of the image. reasons:
    what speaks against the mask, the gravest first, as one text.
    """

    image: Path
    ranking_score: Fraction | None
    estimated_dice: Fraction | None = None
    flag: Annotated[str, Meta(pattern="^(pass|look|fail)?$")] = ""
    kept: bool = False
    note: str = ""
    sha256: Annotated[str, Meta(pattern="^([0-9a-f]{64})?$")] = ""
    reasons: str = ""


def rank(scores: Iterable[Score]) -> list[Score]:
    """Best first; scans without a score come last."""
    return sorted(
        scores, key=lambda score: (score.ranking_score is None, -(score.ranking_score or 0), str(score.image))
    )


def select(scores: Iterable[Score], config: SelfTrainConfig, unusable: Mapping[Path, str]) -> list[Score]:
    """The scores, best first, with the best `config.keep` of them kept and the reason noted for each other one.

    A score that has a note is not kept. unusable: other images whose masks are not to be learned from, each with
    the reason; the next best take their place.
    """
    selected: list[Score] = []
    kept = 0
    for score in rank(scores):
        note = score.note or unusable.get(score.image, "")
        if not note and kept == config.keep:
            note = f"not among the best {config.keep}"
        note = note or _shortfall(score, config)
        keep = score.ranking_score is not None and not note
        kept += keep
        selected.append(replace(score, kept=keep, note=note))
    return selected


def _shortfall(score: Score, config: SelfTrainConfig) -> str:
    """Why a score is too low for a pseudo-label, "" if it is not."""
    lowest = config.threshold
    if lowest is None and config.rank == "estimate":
        return "flagged fail" if score.flag == "fail" else ""
    if lowest is None and config.rank == "ae":
        lowest = FlagConfig().shape_look_from
    return f"score below {lowest:g}" if lowest is not None and (score.ranking_score or 0) < lowest else ""


def held_out_images(images: Sequence[Path], config: SelfTrainConfig) -> list[Path]:
    """The images that are no pseudo-labels, spread evenly over the list; none of fewer than 1 / `held_out`."""
    count = min(config.most_held_out, int(config.held_out * len(images)))
    return [images[int((number + 0.5) * len(images) / count)] for number in range(count)]


def compared_images(images: Sequence[Path], config: SelfTrainConfig) -> list[Path]:
    """The images that models are compared on: those held out, or all if these are too few to hold any out."""
    return held_out_images(images, config) or list(images)


def images_left_out(images: Sequence[Path], number: int, config: SelfTrainConfig) -> dict[Path, str]:
    """The images that the round of this number does not learn from, each with the reason."""
    held_out = held_out_images(images, config)
    left_out = dict.fromkeys(held_out, "kept apart to compare models on")
    if config.halves:
        others = [image for image in images if image not in left_out]
        left_out |= dict.fromkeys(others[number % 2 :: 2], "in the half for the rounds before and after")
    return left_out


def describe_best(scores: Iterable[Score]) -> str:
    """The best ranking score, in words."""
    best = max((score.ranking_score for score in scores if score.ranking_score is not None), default=None)
    return "none could be stripped" if best is None else f"the best score is {best:.3f}"


def best_round(validation_dice: Mapping[str, float], last: int) -> int:
    """The round with the highest validation Dice, the latest of equals; without validation, the last."""
    if not validation_dice:
        return last
    return max(range(last + 1), key=lambda number: (validation_dice[str(number)], number))
