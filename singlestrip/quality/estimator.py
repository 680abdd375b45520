"""From evidence to an estimated Dice with an interval: small regression trees.

Gradient boosting (Friedman, Annals of Statistics 29:1189, 2001) by scikit-learn fits sums of trees to the Dice of
masks of which the truth is known: one to the mean, which is the estimate, and two to quantiles, which are the
interval. The estimate never falls where evidence for a better mask grows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..configuration import EstimatorConfig
from ..networks.trees import Estimator, Tree, TreeSum
from .evidence import SOURCES, Source, measurements_of

if TYPE_CHECKING:
    from sklearn.ensemble import HistGradientBoostingRegressor

Evidence = Mapping[str, float]
LEAST = 0.005  # differences of the Dice that are much smaller than this near 1 are not learned
DIGITS = 6  # of the numbers of trees


@dataclass(frozen=True)
class Estimate:
    """An estimated Dice. low, high: the interval that nine of ten masks lie in; source: of the evidence."""

    dice: float
    low: float
    high: float
    source: Source


def estimate_dice(estimator: Estimator, evidence: Evidence) -> Estimate:
    """The Dice that evidence speaks for."""
    source = [each for each in SOURCES if all(m.name in evidence for m in measurements_of(each))][-1]
    low, dice, high = (_from_target(each.of(evidence)) for each in getattr(estimator, source))
    return Estimate(dice, min(low, dice), max(high, dice), source)


def _to_target(dice: np.ndarray) -> np.ndarray:
    """What the trees learn of Dice [M]: a scale on which 0.98 and 0.96 are as far apart as 0.8 and 0.6."""
    return -np.log(1 - dice + LEAST)


def _from_target(target: float) -> float:
    """The Dice, 0 to 1, of a value on the scale of `_to_target`."""
    return min(1.0, max(0.0, 1 + LEAST - math.exp(-target)))


def fit_estimator(
    cases: Sequence[Evidence], dice: np.ndarray, config: EstimatorConfig = EstimatorConfig()
) -> Estimator:
    """Fit an estimator to the evidence of masks and their true Dice [M]."""
    target = _to_target(dice)
    return Estimator(*(_fit_source(source, cases, target, config) for source in SOURCES))


def _fit_source(
    source: Source, cases: Sequence[Evidence], target: np.ndarray, config: EstimatorConfig
) -> tuple[TreeSum, TreeSum, TreeSum]:
    """The sums of a source of evidence: of the low quantile, the mean and the high quantile."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    measurements = measurements_of(source)
    values = np.array([[each[m.name] for m in measurements] for each in cases])

    def fitted(**loss: Any) -> TreeSum:
        regressor = HistGradientBoostingRegressor(
            learning_rate=config.learning_rate,
            max_iter=config.trees,
            max_leaf_nodes=config.leaves,
            min_samples_leaf=config.least_in_leaf,
            early_stopping=False,
            **loss,
        )
        return _as_sum(regressor.fit(values, target), tuple(m.name for m in measurements))

    low, high = (fitted(loss="quantile", quantile=each) for each in config.quantiles)
    # Trees of a quantile would not keep the trends: their leaves are set anew after they have grown.
    return low, fitted(monotonic_cst=[m.trend for m in measurements]), high


def _as_sum(regressor: HistGradientBoostingRegressor, names: tuple[str, ...]) -> TreeSum:
    """What scikit-learn fitted, as numbers: files of its own can be read by the same version only."""
    start = float(np.squeeze(regressor._baseline_prediction))
    return TreeSum(names, _rounded(start), tuple(_as_tree(trees[0].nodes) for trees in regressor._predictors))


def _as_tree(nodes: np.ndarray) -> Tree:
    """A tree of the table of nodes that scikit-learn keeps. A leaf leads to node 0."""
    leads = ~nodes["is_leaf"].astype(bool)
    return Tree(
        measurement=tuple(nodes["feature_idx"].tolist()),
        threshold=tuple(map(_rounded, np.where(leads, nodes["num_threshold"], 0).tolist())),
        below=tuple((leads * nodes["left"]).tolist()),
        above=tuple((leads * nodes["right"]).tolist()),
        value=tuple(map(_rounded, nodes["value"].tolist())),
    )


def _rounded(number: float) -> float:
    """A number with few digits, so that a header is short."""
    return float(f"{number:.{DIGITS}g}")
