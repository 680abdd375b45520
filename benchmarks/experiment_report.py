"""Tables and a figure of the experiment of self-training."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

REGIMES = ("paper", "narrow", "ours", "fetal")
CONTROL = "SL-1+"
ORACLE = "SL-N"
FROM_SCRATCH = ("SL-1", "scratch-k")
ARMS = (
    *("SL-1", CONTROL, ORACLE, "random-k", "AE-k", "TTA-k", "estimate-k", "oracle-k", "scratch-k"),
    *("careful", "halves", "shapes", "shapes-N", "half-0", "half-1"),
)
BAD = 0.85  # a scan with a lower Dice has failed
RESAMPLED = 5000
GATES = (0.003, 0.01)  # most that further steps may add to SL-1, and least that true masks must add to the control
# Dice of the paper (arXiv 2508.10464), in and out of distribution; its unlabelled scans are those that it scores.
PAPER = {
    "SL-1": "0.950 / 0.897",
    "AE-k": "0.950 / 0.924",
    "TTA-k": "0.863 / 0.624",
    "oracle-k": "0.953 / 0.936",
    "scratch-k": "0.943 / 0.895",
}

Row = dict[str, Any]
Image = tuple[int, str]  # of a fold, by its name


@dataclass(frozen=True)
class Difference:
    """Mean difference of an arm to another over scans, its interval of 95 %, and in how many of the folds it is
    above 0."""

    mean: float
    low: float
    high: float
    folds: int
    gains: int

    def __str__(self) -> str:
        interval = f" ({self.low:+.4f} to {self.high:+.4f})" if self.low < self.high else ""  # one scan a fold
        return f"{self.mean:+.4f}{interval}, {self.gains} of {self.folds}"


class Results:
    """The last score of each scan by each arm of one regime."""

    def __init__(self, rows: Iterable[Row], regime: str) -> None:
        self.rows = [row for row in rows if row.get("regime") == regime]
        self.scores: dict[str, dict[Image, Row]] = {}
        for row in self.rows:
            if row["record"] == "score" and row["group"] != "synthetic":
                self.scores.setdefault(row["arm"], {})[row["fold"], row["image"]] = row
        self.arms = [arm for arm in ARMS if arm in self.scores]

    def of(self, arm: str, group: str, kind: str = "", what: str = "dice") -> dict[Image, float]:
        """A score of each scan of a group, "inductive" for instance; kind: "ID", "OOD", or both."""
        rows = self.scores.get(arm, {}).items()
        return {at: row[what] for at, row in rows if row["group"] == group and kind in ("", row["kind"])}

    def endpoint(self) -> str:
        """What is compared: scans out of distribution, or all where there are no others."""
        return "OOD" if self.of(self.arms[0], "inductive", "OOD") else ""

    def difference(self, arm: str, to: str, group: str, kind: str) -> Difference | None:
        """Between two arms, in pairs of the same scans; bootstrapped over the scans within each fold."""
        ours, theirs = (self.of(name, group, kind) for name in (arm, to))
        pairs: dict[int, list[float]] = {}
        for at in ours.keys() & theirs.keys():
            pairs.setdefault(at[0], []).append(ours[at] - theirs[at])
        if not pairs:
            return None
        generator = np.random.default_rng(0)
        folds = [np.array(sorted(values)) for _, values in sorted(pairs.items())]
        drawn = np.mean([f[generator.integers(len(f), size=(RESAMPLED, len(f)))].mean(1) for f in folds], axis=0)
        means = [fold.mean() for fold in folds]
        low, high = np.percentile(drawn, (2.5, 97.5))
        return Difference(float(np.mean(means)), low, high, len(folds), int(np.sum(np.array(means) > 0)))

    def synthetic(self, arm: str) -> dict[Image, float]:
        """Dice of held-out synthetic images."""
        rows = [row for row in self.rows if row["record"] == "score" and row["group"] == "synthetic"]
        return {(row["fold"], row["image"]): row["dice"] for row in rows if row["arm"] == arm}

    def gates(self) -> list[str]:
        """What the gates fixed beforehand say."""
        lines = []
        gains = []
        for name, of in (("held-out synthetic images", self.synthetic), ("the labelled scan", self._labelled)):
            before, after = of("SL-1"), of(CONTROL)
            common = before.keys() & after.keys()
            if common:
                gains.append((name, float(np.mean([after[at] - before[at] for at in common]))))
        if gains:
            said = " and ".join(f"{gain:+.4f} on {name}" for name, gain in gains)
            passed = all(gain < GATES[0] for _, gain in gains)
            lines.append(f"- Gate 1, SL-1 has converged: further steps add {said}; {_verdict(passed)}.")
        headroom = self.difference(ORACLE, CONTROL, "inductive", self.endpoint())
        if headroom is not None:
            passed = headroom.mean >= GATES[1]
            lines.append(f"- Gate 2, the oracle beats the control: {headroom} folds above 0; {_verdict(passed)}.")
        return lines

    def _labelled(self, arm: str) -> dict[Image, float]:
        return self.of(arm, "labelled")

    def table(self) -> list[str]:
        """A row for each arm."""
        kind = self.endpoint()
        what = kind or "ID"
        lines = [
            f"| arm | {'Dice ID | ' if kind else ''}Dice {what} | HD95 {what}, mm | under 0.85 "
            f"| {what} less SL-1+, inductive | transductive |",
            "|---" * (7 if kind else 6) + "|",
        ]
        for arm in self.arms:
            values = self.of(arm, "inductive", kind)
            cells = [
                *([_mean(self.of(arm, "inductive", "ID"))] if kind else []),
                _mean(values),
                _mean(self.of(arm, "inductive", kind, "hd95_mm"), 1),
                f"{100 * np.mean([value < BAD for value in values.values()]):.0f} %",
                *(self._less_control(arm, group, kind) for group in ("inductive", "transductive")),
            ]
            lines.append(f"| {arm} | " + " | ".join(cells) + " |")
        return lines

    def _less_control(self, arm: str, group: str, kind: str) -> str:
        difference = None if arm == CONTROL else self.difference(arm, CONTROL, group, kind)
        return "" if difference is None else str(difference)

    def pseudo_labels(self) -> list[str]:
        """How good the masks of each teacher are, and the scores of those of SL-1."""
        lines = []
        for teacher in ("SL-1", CONTROL, "half-0", "half-1"):
            rows = [row for row in self.rows if row["record"] == "pseudo-label" and row["teacher"] == teacher]
            known = [row for row in rows if "truth" in row]
            if known:
                dice, volume = ([row[name] for row in known] for name in ("truth", "volume_percent"))
                spread = f"{min(dice):.3f} to {max(dice):.3f}"
                ends = f"{min(volume):+.0f} to {max(volume):+.0f} %"
                lines.append(f"| {teacher} | {len(known)} | {np.mean(dice):.4f}, {spread} | {ends} |")
        if lines:
            lines = ["| teacher | masks | Dice | volume error |", "|---" * 4 + "|", *lines, ""]
        ranked = [row for row in self.rows if row["record"] == "rank" and row["truth"] >= 0]
        if ranked:
            lines += ["| score of SL-1's masks | mean absolute error | Pearson |", "|---|---|---|"]
            truth = np.array([row["truth"] for row in ranked])
            for name in ("estimate", "shape", "agreement"):
                score = np.array([row[name] for row in ranked])
                error, pearson = np.abs(score - truth).mean(), np.corrcoef(score, truth)[0, 1]
                lines.append(f"| {name} | {error:.3f} | {pearson:.2f} |")
        return lines


def _mean(values: dict[Image, float], digits: int = 4) -> str:
    return f"{np.mean(list(values.values())):.{digits}f}" if values else ""


def _verdict(passed: bool) -> str:
    return "passed" if passed else "not passed"


def read_results(paths: Sequence[Path]) -> list[Row]:
    """The lines of files of results; a last line that was cut off does not count."""
    rows = []
    for path in paths:
        for line in path.read_text().splitlines():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                print(f"{path}: a line is damaged")
    return rows


def write_report(results: Sequence[Path], out: Path) -> None:
    """Write results.md, results.csv with the Dice of each scan, and results.png into a folder."""
    rows = read_results(results)
    regimes = {name: Results(rows, name) for name in REGIMES}
    regimes = {name: each for name, each in regimes.items() if CONTROL in each.arms}
    out.mkdir(parents=True, exist_ok=True)
    lines = [
        "Differences are means over folds of the mean over scans, with an interval of 95 % by bootstrap over the",
        "scans within folds, and the number of folds with a gain. The paper has, ID / OOD: "
        + "; ".join(f"{arm} {dice}" for arm, dice in PAPER.items())
        + ".",
    ]
    for name, each in regimes.items():
        # Several runs may have other numbers of steps; each fold comes from one.
        steps = sorted(
            {(row["arm"] in FROM_SCRATCH, row["steps"]) for row in each.rows if row["record"] == "score"}
        )
        counts = [", ".join(str(step) for is_first, step in steps if is_first == first) for first in (True, False)]
        lines += ["", f"## {name}", "", f"SL-1: {counts[0]} steps; later arms: {counts[1]}.", ""]
        lines += [*each.gates(), "", *each.table(), "", *each.pseudo_labels()]
    (out / "results.md").write_text("\n".join(lines).rstrip() + "\n")
    _write_csv(regimes, out / "results.csv")
    _draw(regimes, out / "results.png")
    print("\n".join(lines))


def _write_csv(regimes: dict[str, Results], path: Path) -> None:
    """The Dice of each scan: a row for each scan of a fold, a column for each arm."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["regime", "fold", "group", "kind", "subset", "image", *ARMS])
        for regime, results in regimes.items():
            about = {at: row for scores in results.scores.values() for at, row in scores.items()}
            for (fold, image), row in sorted(about.items()):
                dice = [results.scores.get(arm, {}).get((fold, image), {}).get("dice") for arm in ARMS]
                cells = ["" if value is None else f"{value:.4f}" for value in dice]
                writer.writerow([regime, fold, row["group"], row["kind"], row["subset"], image, *cells])


def _draw(regimes: dict[str, Results], path: Path) -> None:
    """Difference of each arm to the control on inductive scans out of distribution, with its interval."""
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(4 * len(regimes), 3.6), layout="constrained")
    for axes, (name, results) in zip(
        drawing.subplots(1, len(regimes), squeeze=False, sharex=True)[0], regimes.items(), strict=True
    ):
        arms = [arm for arm in results.arms if arm != CONTROL][::-1]
        found = {arm: results.difference(arm, CONTROL, "inductive", results.endpoint()) for arm in arms}
        for place, (arm, each) in enumerate(found.items()):
            if each is None:
                continue
            color = "#b04a1f" if arm == ORACLE else "#1f6fb4"
            axes.plot([each.low, each.high], [place, place], color=color, linewidth=2)
            axes.plot([each.mean], [place], "o", color=color)
        axes.axvline(0, color="grey", linewidth=1)
        axes.set_yticks(range(len(arms)), arms)
        axes.set(
            title=name,
            xlabel=f"Dice less SL-1+, inductive, {results.endpoint() or 'ID'}",
            ylim=(-0.7, len(arms) - 0.3),
        )
        axes.locator_params(axis="x", nbins=5)
    drawing.savefig(path, dpi=110)
