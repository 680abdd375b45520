"""Table and figure of `comparison.py`, from the rows of its CSV files."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from comparison_tools import OURS, TOOLS
from matplotlib.figure import Figure

Row = dict[str, str]
MADE_THE_REFERENCES = {("deepbet", "adults T1w")}  # its scores there say nothing
BEGIN, END = "<!-- by benchmarks/comparison.py -->", "<!-- end -->"
PANELS = ("adults", "clinical")  # the datasets in the figure
DOT_AREA = 120.0  # in square points, of 1 GiB


@dataclass(frozen=True)
class Measure:
    """A figure of a set of rows, and how it is written; less is better unless `more`."""

    name: str
    of: Callable[[list[Row]], float]
    digits: int
    more: bool = False

    def better(self, one: float, other: float) -> bool:
        """Whether the first figure is better, as far as the digits show."""
        one, other = round(one, self.digits), round(other, self.digits)
        return one > other if self.more else one < other


def mean_of(column: str, change: Callable[[float], float] = float) -> Callable[[list[Row]], float]:
    """What gives the mean of a column of rows, after a change of each value."""
    return lambda rows: statistics.fmean(change(float(row[column])) for row in rows)


def median_of(column: str) -> Callable[[list[Row]], float]:
    """What gives the median of a column of rows."""
    return lambda rows: statistics.median(float(row[column]) for row in rows)


def greatest_of(column: str) -> Callable[[list[Row]], float]:
    """What gives the greatest value of a column of rows."""
    return lambda rows: max(float(row[column]) for row in rows)


ACCURACY = (
    Measure("Dice", mean_of("dice"), 4, more=True),
    Measure("HD95, mm", mean_of("hd95_mm"), 2),
    Measure("volume error, %, without its sign", mean_of("volume_error_percent", abs), 1),
)
PEAK = Measure("peak memory, GiB", greatest_of("peak_gib"), 2)
COST = (Measure("wall time, s", median_of("wall_s"), 1), PEAK)
SIGNED_VOLUME = mean_of("volume_error_percent")


def subset(row: Row) -> str:
    """The kind of a scan: dataset and contrast."""
    return f"{row['dataset']} {row['contrast']}"


def by(rows: Iterable[Row], key: Callable[[Row], str]) -> dict[str, list[Row]]:
    """The rows in groups, in the order in which these first occur."""
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        groups[key(row)].append(row)
    return dict(groups)


def by_tool(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """The rows of each tool, in the order of TOOLS."""
    groups = by(rows, lambda row: row["tool"])
    return {tool.name: groups[tool.name] for tool in TOOLS if tool.name in groups}


def same_scans(rows: list[Row], others: list[Row]) -> list[Row]:
    """The rows of the images that the others have too."""
    images = {row["image"] for row in others}
    return [row for row in rows if row["image"] in images]


def scored(results: Iterable[Row]) -> list[Row]:
    """The rows that have a reference that the tool did not make."""
    return [row for row in results if row["dice"] and (row["tool"], subset(row)) not in MADE_THE_REFERENCES]


def table(heads: list[str], rows: Iterable[list[str]]) -> str:
    """A Markdown table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def where_peers_are_better(results: list[Row], times: list[Row]) -> str:
    """A table of every figure in which a peer is better than singlestrip, on the scans that both have."""
    lines = []
    cases = [(name, rows, ACCURACY) for name, rows in by(scored(results), subset).items()]
    cases += [(f"{size}³", rows, COST) for size, rows in by(times, lambda row: row["size"]).items()]
    for name, rows, measures in cases:
        tools = by_tool(rows)
        ours = tools.pop(OURS.name, [])
        for measure in measures:
            for tool, theirs in tools.items():
                common = ours if measures is COST else same_scans(ours, theirs)
                if not common:
                    continue
                other, own = measure.of(theirs), measure.of(common)
                if measure.better(other, own):
                    scans = "" if measures is COST else str(len(common))
                    figures = [f"{figure:.{measure.digits}f}" for figure in (other, own)]
                    lines.append([name, scans, measure.name, tool, *figures])
    if not lines:
        return "No peer is better in any figure.\n"
    return table(["", "scans", "measure", "peer", "its figure", OURS.name], lines)


def accuracy_cell(rows: list[Row], full: int) -> str:
    """Dice, HD95 and volume error of a tool on a kind of scans."""
    if not rows:
        return ""
    figures = f"{ACCURACY[0].of(rows):.3f} / {ACCURACY[1].of(rows):.1f} / {SIGNED_VOLUME(rows):+.1f}"
    failed = sum(bool(row["error"]) for row in rows)
    notes = [f"{len(rows)} of {full}"] * (len(rows) < full) + [f"{failed} failed"] * bool(failed)
    return f"{figures} ({', '.join(notes)})" if notes else figures


def all_figures(results: list[Row], times: list[Row]) -> str:
    """The table of all tools: time and memory on each grid, and accuracy on each kind of scans."""
    kinds = by(scored(results), subset)
    full = {kind: len({row["image"] for row in rows}) for kind, rows in kinds.items()}
    sizes = by(times, lambda row: row["size"])
    costs = {size: by_tool(rows) for size, rows in sizes.items()}
    memory = by_tool(row for row in results if not row["error"])
    accuracy = {kind: by_tool(rows) for kind, rows in kinds.items()}

    def line(tool: str, name: str, alike: str = "") -> list[str]:
        """A row of the table; on the scans of the tool `alike` only, if it is named."""
        cells = [name]
        for size in sizes:
            rows = [] if alike else costs[size].get(tool, [])
            cells.append(", ".join(f"{measure.of(rows):.{measure.digits}f}" for measure in COST) if rows else "")
        cells.append(f"{PEAK.of(memory[tool]):.2f}" if tool in memory and not alike else "")
        for kind in kinds:
            rows = accuracy[kind].get(tool, [])
            rows = same_scans(rows, accuracy[kind].get(alike, [])) if alike else rows
            own = (tool, kind) in MADE_THE_REFERENCES
            cells.append("made the references" if own else accuracy_cell(rows, full[kind]))
        return cells

    lines, present = [], {row["tool"] for row in (*results, *times)}
    for tool in TOOLS:
        if tool.name in present:
            lines.append(line(tool.name, tool.name))
            if tool.every > 1:
                lines.append(line(OURS.name, f"{OURS.name}, on the scans of {tool.name}", tool.name))
    heads = [
        "tool",
        *(f"{size}³: s, GiB" for size in sizes),
        "peak GiB",
        *(f"{kind} ({full[kind]})" for kind in kinds),
    ]
    return table(heads, lines)


def agreement_table(agreement: list[Row]) -> str:
    """For each scan without a reference, the median Dice of each tool's mask with those of the others."""
    names = [tool.name for tool in TOOLS if any(tool.name in (row["tool"], row["other"]) for row in agreement)]
    lines = []
    for image, rows in by(agreement, lambda row: row["image"]).items():
        pairs = {name: [row for row in rows if name in (row["tool"], row["other"])] for name in names}
        figures = [f"{median_of('dice')(pairs[name]):.3f}" if pairs[name] else "" for name in names]
        lines.append([image, rows[0]["contrast"], *figures])
    return table(["scan", "contrast", *names], lines)


def report(results: list[Row], agreement: list[Row], times: list[Row], figure: str) -> str:
    """The tables in Markdown: where peers are better, all figures, agreement, and failures.

    figure: the address of the picture, which there is if there are times.
    """
    parts = ["Where a peer is better, on the scans that both have:\n", where_peers_are_better(results, times)]
    parts.append(
        "All tools. Accuracy is mean Dice / mean HD95 in mm / mean volume error in %. Peaks are of any scan."
    )
    if times:
        runs = max(int(row["run"]) for row in times) + 1
        machine = f"{times[0]['machine']} with {times[0]['threads']} threads"
        of = "of one run" if runs == 1 else f"the median of {runs} runs at most"
        parts.append(f"Time is {of}, memory its peak, on {machine}.")
    parts += ["", all_figures(results, times)]
    if times:
        parts.append(f"![mean Dice over seconds; the area of a dot is the peak memory]({figure})\n")
    if agreement:
        parts.append("Scans without a reference: the median Dice of a tool's mask with the masks of the others.\n")
        parts.append(agreement_table(agreement))
    failures = [
        [row["tool"], row["image"], f"`{row['error'].replace('|', ' ')}`"] for row in results if row["error"]
    ]
    if failures:
        parts += ["Scans on which a tool failed:\n", table(["tool", "scan", "its last words"], failures)]
    return "\n".join(parts)


def fill_in(page: str, tables: str) -> str:
    """A page with the tables between its two marks. Raises ValueError if it lacks them."""
    before, begun, rest = page.partition(BEGIN)
    _, ended, after = rest.partition(END)
    if not (begun and ended):
        raise ValueError(f"the page lacks the marks {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n{tables}\n{END}{after}"


def draw(results: list[Row], times: list[Row], path: Path) -> None:
    """Draw mean Dice over seconds on the largest grid that most tools ran on, a panel for each kind of scans.

    The area of a dot is the peak memory. A tool without masks is a line.
    """
    sizes = {size: by_tool(rows) for size, rows in by(times, lambda row: row["size"]).items()}
    size = max(sizes, key=lambda size: (len(sizes[size]), int(size)))
    kinds = {kind: rows for kind, rows in by(scored(results), subset).items() if rows[0]["dataset"] in PANELS}
    masked = by_tool(results)
    figure = Figure(figsize=(2.6 * len(kinds), 3.6), layout="constrained")
    for axis, (kind, rows) in zip(figure.subplots(1, len(kinds), squeeze=False)[0], kinds.items(), strict=True):
        accuracy = by_tool(rows)
        for number, (tool, runs) in enumerate(sizes[size].items()):
            seconds, gib = (measure.of(runs) for measure in COST)
            if tool in accuracy:
                dot = {"color": f"C{number}", "alpha": 0.6, "linewidths": 0}
                axis.scatter(seconds, ACCURACY[0].of(accuracy[tool]), s=DOT_AREA * gib, **dot)
                axis.scatter([], [], label=tool, **dot)
            elif tool not in masked:
                axis.axvline(seconds, label=tool, color="0.6", linestyle=":")
        axis.set_xscale("log")
        axis.margins(0.25)
        axis.set_title(kind, fontsize=9)
        axis.set_xlabel(f"s at {size}³", fontsize=8)
        axis.tick_params(labelsize=7)
    figure.axes[0].set_ylabel("mean Dice", fontsize=8)
    labels = {
        label: handle
        for axis in figure.axes
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    figure.legend(
        labels.values(), labels, loc="outside lower center", ncols=len(labels), fontsize=8, frameon=False
    )
    figure.savefig(path, dpi=110)
