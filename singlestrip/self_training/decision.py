"""What is measured of two models, and which of them a run goes on with. Touches no file, and imports no torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from ..configuration import GuardConfig
from .select import Fraction

# Where a model may be worse, by the field of `Standing`.
PLACES = {
    "labelled": "on the labelled scan",
    "segmenter": "on synthetic images",
    "locator": "in finding the brain in synthetic images",
    "agreement": "in the agreement of views on unlabelled scans",
}


@dataclass(frozen=True)
class Standing:
    """What is measured of a model, each a Dice.

    labelled: of its mask of the labelled scan. segmenter, locator: mean of each network on synthetic images.
    agreement: mean of the views on unlabelled scans; None if none of them can be read.
    """

    labelled: Fraction
    segmenter: Fraction
    locator: Fraction
    agreement: Fraction | None


@dataclass(frozen=True)
class Decision:
    """What becomes of the model of a round.

    before, after: measures of the model before the round and of the round's. faults: clauses that say where it is
    worse; none if it replaces the one before.
    """

    before: Standing
    after: Standing
    faults: tuple[str, ...]

    @staticmethod
    def of(before: Standing, after: Standing, config: GuardConfig) -> Decision:
        """Compare two models: each measure may fall by its margin."""
        margins = asdict(config)
        faults = [
            f"worse {PLACES[name]} ({old:.4f} before, {new:.4f} after)"
            for name, (old, new) in _pairs(before, after).items()
            if new < old - margins[name]
        ]
        return Decision(before, after, tuple(faults))

    def describe(self) -> str:
        """All measures in words."""
        pairs = _pairs(self.before, self.after).items()
        return "; ".join(f"{PLACES[name]} {old:.4f} before, {new:.4f} after" for name, (old, new) in pairs)


def _pairs(before: Standing, after: Standing) -> dict[str, tuple[float, float]]:
    """What is measured of two models, by the field of `Standing`."""
    pairs = {name: (getattr(before, name), getattr(after, name)) for name in PLACES}
    return {name: pair for name, pair in pairs.items() if None not in pair}
