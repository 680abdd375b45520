"""What estimates the Dice of masks, as a model file holds it: small regression trees, and intervals. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from msgspec import Meta

Numbers = tuple[Annotated[float, Meta(ge=-1e6, le=1e6)], ...]
Places = tuple[Annotated[int, Meta(ge=0, le=1000)], ...]


@dataclass(frozen=True)
class Tree:
    """A regression tree of N nodes, the first of which is its root.

    measurement: [N], which measurement a node asks for, by its place in the list of the trees. threshold: [N].
    below, above: [N], the nodes for values up to the threshold and above it; both 0 in a leaf. value: [N], of the
    leaves.
    """

    measurement: Places
    threshold: Numbers
    below: Places
    above: Places
    value: Numbers

    def __post_init__(self) -> None:
        parts = (self.measurement, self.threshold, self.below, self.above, self.value)
        count = len(self.value)
        if not count or any(len(part) != count for part in parts):
            raise ValueError("tree: expected lists of the same length")
        for node, (below, above) in enumerate(zip(self.below, self.above, strict=True)):
            is_leaf = below == above == 0
            if not is_leaf and not (node < below < count and node < above < count):
                raise ValueError("tree: expected that nodes lead to later nodes")

    def leaf(self, values: Sequence[float]) -> float:
        """The value of the leaf that measurements lead to."""
        node = 0
        while self.below[node]:
            is_below = values[self.measurement[node]] <= self.threshold[node]
            node = self.below[node] if is_below else self.above[node]
        return self.value[node]


@dataclass(frozen=True)
class TreeSum:
    """A number plus the values of trees. measurements: the names of what the trees ask for."""

    measurements: tuple[str, ...]
    start: Annotated[float, Meta(ge=-1e6, le=1e6)]
    trees: Annotated[tuple[Tree, ...], Meta(max_length=1000)]

    def __post_init__(self) -> None:
        for tree in self.trees:
            if max(tree.measurement) >= len(self.measurements):
                raise ValueError("trees: a measurement has no name")

    def of(self, evidence: Mapping[str, float]) -> float:
        """The sum for measurements by their names."""
        values = [evidence[name] for name in self.measurements]
        return self.start + sum(tree.leaf(values) for tree in self.trees)


@dataclass(frozen=True)
class Interval:
    """The interval around an estimate, by the estimate: between its K knots, in rising order, it is interpolated.

    estimate, low, high: [K].
    """

    estimate: Numbers
    low: Numbers
    high: Numbers

    def __post_init__(self) -> None:
        if not self.estimate or not len(self.estimate) == len(self.low) == len(self.high):
            raise ValueError("interval: expected lists of the same length")
        if list(self.estimate) != sorted(set(self.estimate)):
            raise ValueError("interval: expected estimates in rising order")

    def around(self, estimate: float) -> tuple[float, float]:
        """The low and the high end; both ends include the estimate."""
        low, high = (float(np.interp(estimate, self.estimate, ends)) for ends in (self.low, self.high))
        return min(low, estimate), max(high, estimate)


@dataclass(frozen=True)
class Estimator:
    """What estimates the Dice of masks from evidence.

    own: the Dice of the mask of the networks that strip, by what they tell of it. by_shape, by_networks: the
    intervals around estimates by the shape of a mask, and by way of the networks.
    """

    own: TreeSum
    by_shape: Interval
    by_networks: Interval
