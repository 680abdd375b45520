"""From evidence to an estimated Dice with an interval.

Without networks, the estimate is the Dice of a mask and its reconstruction. With the networks that strip, there
are two reasons why a mask is not the true one: it differs from the mask of the networks, and that mask is not the
true one either. The first can be measured, and regression trees estimate the second by what the networks tell of
their mask. As errors of different causes the two are added as squares.

Gradient boosting (Friedman, Annals of Statistics 29:1189, 2001) by scikit-learn fits the trees to masks of which
the truth is known. What they estimate never falls where evidence for a better mask grows. An interval is that of
the Dice of masks with about the same estimate.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..configuration import EstimatorConfig
from ..networks.trees import Estimator, Interval, Tree, TreeSum
from .evidence import OF_IMAGE, OF_NETWORKS, Source

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
    if "model_dice" in evidence:
        dice = _by_networks(evidence["model_dice"], _from_target(estimator.own.of(evidence)))
        return Estimate(dice, *estimator.by_networks.around(dice), "model")
    shape = evidence["shape_dice"]
    source: Source = "image" if OF_IMAGE[0].name in evidence else "mask"
    return Estimate(shape, *estimator.by_shape.around(shape), source)


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
    by_networks = np.empty(len(dice))
    for half in (0, 1):  # of masks that its own trees have not seen, so that the interval is as wide as it must be
        rest = images % 2 == half
        own = _fit_own(cases, dice, is_own & ~rest, config)
        for k in np.flatnonzero(rest).tolist():
            by_networks[k] = _by_networks(cases[k]["model_dice"], _from_target(own.of(cases[k])))
    by_shape = np.array([case["shape_dice"] for case in cases])
    return Estimator(
        own=_fit_own(cases, dice, is_own, config),
        by_shape=_fit_interval(by_shape, dice, config),
        by_networks=_fit_interval(by_networks, dice, config),
    )


def _fit_own(cases: Sequence[Evidence], dice: np.ndarray, chosen: np.ndarray, config: EstimatorConfig) -> TreeSum:
    """Trees for the Dice of the networks' own masks. chosen: the cases to fit to, boolean [M]."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    names = tuple(each.name for each in OF_NETWORKS)
    values = np.array([[case[name] for name in names] for case in cases])
    regressor = HistGradientBoostingRegressor(
        learning_rate=config.learning_rate,
        max_iter=config.trees,
        max_leaf_nodes=config.leaves,
        min_samples_leaf=config.least_in_leaf,
        monotonic_cst=[each.trend for each in OF_NETWORKS],
        early_stopping=False,
    ).fit(values[chosen], _to_target(dice[chosen]))
    # As numbers: scikit-learn's own files can be read by the same version only.
    start = float(np.squeeze(regressor._baseline_prediction))
    return TreeSum(names, _rounded(start), tuple(_as_tree(trees[0].nodes) for trees in regressor._predictors))


def _fit_interval(estimates: np.ndarray, dice: np.ndarray, config: EstimatorConfig) -> Interval:
    """The interval that holds the Dice of masks with about the same estimate; estimates, dice: [M].

    Its ends are quantiles of the Dice of groups of masks, and never fall as the estimate grows.
    """
    order = np.argsort(estimates, kind="stable")
    groups = np.array_split(order, max(1, min(config.knots, len(order) // config.least_in_leaf)))
    means = [round(float(estimates[group].mean()), DIGITS) for group in groups]
    knots, first = np.unique(means, return_index=True)
    ends = np.array([np.quantile(dice[groups[k]], config.quantiles) for k in first])
    low, high = np.maximum.accumulate(ends).T.round(DIGITS)
    return Interval(tuple(knots.tolist()), tuple(low.tolist()), tuple(high.tolist()))


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
