"""The pages of a run: the masks that the last round chose from, and how each round changed the masks of others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..batch.report import find_picture, group_of
from ..io.pictures.page import PageEntry, Reason, write_page
from .changes import ScanChange
from .select import Score


def write_scores_page(folder: Path, scores: Sequence[Score], names: dict[Path, str], about: str) -> None:
    """Write the page of the masks of a round, worst first. names: those of the images on the page."""
    entries = [_score_entry(folder, score, names[score.image]) for score in scores]
    entries.sort(key=lambda entry: (-1.0 if entry.estimated_dice is None else entry.estimated_dice, entry.name))
    write_page(folder, entries, folder.resolve().name, about)


def _score_entry(folder: Path, score: Score, name: str) -> PageEntry:
    """What the page of masks shows of a scan."""
    reasons = score.reasons.split("; ") if score.reasons else []
    return PageEntry(
        name=name,
        flag=score.flag or "fail",
        estimated_dice=score.estimated_dice,
        picture=None if score.estimated_dice is None else find_picture(folder, name),
        note=score.note or ("kept as a pseudo-label" if score.kept else ""),
        reasons=tuple(Reason(text, group_of(text)) for text in reasons),
    )


def write_changes_page(folder: Path, changes: Sequence[ScanChange], about: str) -> None:
    """Write the page of what a round changed, in the order of `changes`."""
    write_page(
        folder, [_change_entry(folder, each) for each in changes], f"{folder.resolve().name}: changes", about
    )


def _change_entry(folder: Path, change: ScanChange) -> PageEntry:
    """What the page of changes shows of a scan."""
    return PageEntry(
        name=change.name,
        flag=change.flag,
        estimated_dice=change.estimated_dice,
        picture=find_picture(folder, change.name),
        numbers={
            "Dice of before and after": f"{change.dice:.3f}",
            "volume before ml": f"{change.volume_before_ml:.4g}",
            "volume after ml": f"{change.volume_after_ml:.4g}",
            "agreement of views before": f"{change.agreement_before:.3f}",
            "agreement of views after": f"{change.agreement_after:.3f}",
        },
    )
