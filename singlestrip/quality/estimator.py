"""From evidence to an estimated Dice with an interval.

Without networks, the estimate is the Dice of a mask and its reconstruction. With the networks that strip, there
are two reasons why a mask is not the true one: it differs from the mask of the networks, and that mask is not the
true one either. The first can be measured, and regression trees estimate the second by what the networks tell of
their mask. As errors of different causes the two are added as squares.

Gradient boosting (Friedman, Annals of Statistics 29:1189, 2001) by scikit-learn fits the trees to masks of which
the truth is known: to the mean, which never falls where evidence for a better mask grows, and to the quantiles of
intervals.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..configuration import EstimatorConfig
from ..networks.trees import Estimator, Interval, Tree, TreeSum
from .evidence import OF_DIFFERENCE, OF_IMAGE, OF_MASK, OF_NETWORKS, Measurement, Source

if TYPE_CHECKING:
    from sklearn.ensemble import HistGradientBoostingRegressor

Evidence = Mapping[str, float]
LEAST = 0.005  # differences of the Dice that are much smaller than this near 1 are not learned
DIGITS = 6  # of the numbers of trees
BY_NETWORKS = Measurement("by_networks", 1)  # the estimate by way of the networks
OF_INTERVAL = (BY_NETWORKS, OF_DIFFERENCE[0], OF_NETWORKS[0])  # what the interval around that depends on


@dataclass(frozen=True)
class Estimate:
    """An estimated Dice. low, high: the interval that nine of ten masks lie in; source: of the evidence."""

    dice: float
    low: float
    high: float
    source: Source


def estimate_dice(estimator: Estimator, evidence: Evidence) -> Estimate:
    """The Dice that evidence speaks for."""
    if "model_dice" not in evidence:
        source: Source = "image" if OF_IMAGE[0].name in evidence else "mask"
        return _estimate(source, evidence["shape_dice"], estimator.shape_interval, evidence)
    dice = _by_networks(evidence["model_dice"], _from_target(estimator.own.of(evidence)))
    return _estimate("model", dice, estimator.networks_interval, {**evidence, BY_NETWORKS.name: dice})


def _estimate(source: Source, dice: float, interval: Interval, evidence: Evidence) -> Estimate:
    """An estimated Dice with the interval around it."""
    low, high = (_from_target(each.of(evidence)) for each in (interval.low, interval.high))
    return Estimate(dice, min(low, dice), max(high, dice), source)


def _by_networks(model_dice: float, own_dice: float) -> float:
    """The Dice of a mask that has `model_dice` with the mask of the networks, whose own Dice is `own_dice`."""
    return max(0.0, 1 - math.hypot(1 - model_dice, 1 - own_dice))


def _to_target(dice: np.ndarray) -> np.ndarray:
    """What the trees learn of Dice [M]: a scale on which 0.98 and 0.96 are as far apart as 0.8 and 0.6."""
    return -np.log(1 - dice + LEAST)


def _from_target(target: float) -> float:
    """The Dice, 0 to 1, of a value on the scale of `_to_target`."""
    return min(1.0, max(0.0, 1 + LEAST - math.exp(-target)))


def fit_estimator(
    cases: Sequence[Evidence],
    dice: np.ndarray,
    is_own: np.ndarray,
    images: np.ndarray,
    config: EstimatorConfig = EstimatorConfig(),
) -> Estimator:
    """Fit an estimator to the evidence of M masks.

    dice: their true Dice [M]; is_own: whether each is the mask of the networks that its evidence is of, boolean
    [M]; images: the number of the image of each, [M].
    """
    fit = _Fit(cases, _to_target(dice), config)
    by_networks = np.empty(len(dice))
    for half in (0, 1):  # of masks that its own trees have not seen, so that the interval is as wide as it must be
        rest = images % 2 == half
        own = fit.mean(OF_NETWORKS, is_own & ~rest)
        for k in np.flatnonzero(rest).tolist():
            by_networks[k] = _by_networks(cases[k]["model_dice"], _from_target(own.of(cases[k])))
    with_estimate = [{**case, BY_NETWORKS.name: value} for case, value in zip(cases, by_networks, strict=True)]
    return Estimator(
        own=fit.mean(OF_NETWORKS, is_own),
        shape_interval=fit.interval(OF_MASK),
        networks_interval=_Fit(with_estimate, fit.target, config).interval(OF_INTERVAL),
    )


@dataclass(frozen=True)
class _Fit:
    """Fits trees. target: for each case, [M]."""

    cases: Sequence[Evidence]
    target: np.ndarray
    config: EstimatorConfig

    def mean(self, measurements: Sequence[Measurement], chosen: np.ndarray) -> TreeSum:
        """The mean of the target. chosen: the cases to fit to, boolean [M]."""
        return self._sum(measurements, chosen, monotonic_cst=[each.trend for each in measurements])

    def interval(self, measurements: Sequence[Measurement]) -> Interval:
        """The quantiles of the target. They need not keep the trends."""
        low, high = self.config.quantiles
        return Interval(*(self._sum(measurements, loss="quantile", quantile=each) for each in (low, high)))

    def _sum(
        self, measurements: Sequence[Measurement], chosen: np.ndarray | slice = slice(None), **loss: Any
    ) -> TreeSum:
        """Trees for a loss."""
        from sklearn.ensemble import HistGradientBoostingRegressor

        names = tuple(each.name for each in measurements)
        values = np.array([[case[name] for name in names] for case in self.cases])
        regressor = HistGradientBoostingRegressor(
            learning_rate=self.config.learning_rate,
            max_iter=self.config.trees,
            max_leaf_nodes=self.config.leaves,
            min_samples_leaf=self.config.least_in_leaf,
            early_stopping=False,
            **loss,
        )
        return _as_sum(regressor.fit(values[chosen], self.target[chosen]), names)


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
