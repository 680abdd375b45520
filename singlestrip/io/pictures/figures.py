"""Pictures of masks, label maps, synthetic images and training curves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np

from ...configuration import INSIDE_BASE, DoubtConfig, TargetClass
from ...space.grid import voxel_sizes
from ...space.morphology import bounding_box
from ...space.scan import Scan
from ..output import atomic_write
from ..text.escaping import printable
from ..text.structure_table import colour_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

OUTLINE = "#ff3b30"
TRUE_OUTLINE = "#34c759"
REBUILT_OUTLINE = "#0a84ff"
LOSS_COLOURS = ("#1f6fb4", "#9bb8d3")
QUALITY_MARGIN_MM = 30.0  # shown around the mask, to see what it misses
QUALITY_INCHES = (9, 4)  # the page keeps this proportion
PLANES = ("sagittal", "coronal", "axial")
BESIDE_MIDDLE_MM = 12.0  # of the sagittal plane that shows structures, to the right
TITLE: dict[str, Any] = {"fontsize": 7, "color": "white", "pad": 2}
LEAST_DOUBT = 0.02  # shown; votes are never quite sure
DARKEST, MOST_OPAQUE = 0.3, 0.75  # of the ramp of doubt: its lowest colour, and the share of its highest


def _figure(rows: int, columns: int, width: float, height: float) -> tuple[Figure, np.ndarray]:
    """A figure, in inches, and its axes [rows, columns], without frames. Uses no window system."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    return figure, axes


def _save(figure: Figure, path: Path) -> None:
    """Write a figure, whole or not at all."""
    with atomic_write(path) as (partial,):
        figure.savefig(partial, dpi=110)


def _in_font(text: str) -> str:
    """The text with characters escaped that the figures' font lacks; file names may have any character."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    charmap = get_font(findfont(FontProperties())).get_charmap()
    return "".join(c if ord(c) in charmap else c.encode("unicode_escape").decode() for c in text)


def _upright(array: np.ndarray, vox2world: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The array with its axes turned towards right, anterior and superior, and its voxel sizes [3] in mm."""
    order = nib.orientations.io_orientation(vox2world)
    size = voxel_sizes(vox2world)[np.argsort(order[:, 0])]
    return nib.orientations.apply_orientation(array, order), size


def _views(array: np.ndarray, size: np.ndarray, at: np.ndarray) -> Iterator[tuple[np.ndarray, float]]:
    """The sagittal, coronal and axial slice through voxel `at`, each with its pixels' height over width."""
    for axis in range(3):
        across, up = (k for k in range(3) if k != axis)
        yield array.take(int(at[axis]), axis).T, size[up] / size[across]


def _middle(mask: np.ndarray) -> np.ndarray:
    """The voxel [3] in the middle of a mask, or of the image if the mask is empty."""
    where = np.argwhere(mask)
    return where.mean(0).round().astype(int) if len(where) else np.array(mask.shape) // 2


def _around(mask: np.ndarray, margin: np.ndarray) -> tuple[slice, ...]:
    """Slices [3] of the box around a mask, with a margin [3] in voxels; of the image if the mask is empty."""
    box = bounding_box(mask)
    if box is None:
        return tuple(slice(0, size) for size in mask.shape)
    return tuple(slice(max(0, int(s.start - m)), int(s.stop + m)) for s, m in zip(box, margin, strict=True))


def _grey_range(image: np.ndarray) -> tuple[float, float]:
    """The values shown as black and as white: the 0.5th and the 99.5th percentile of the finite values."""
    finite = image[np.isfinite(image)]
    if not finite.size:
        return 0.0, 1.0
    low, high = np.percentile(finite[:: 1 + finite.size // 200_000], (0.5, 99.5))
    return float(low), float(high)


def _outline(axis: Axes, mask: np.ndarray, colour: str = OUTLINE) -> None:
    """Draw the outline of a mask's slice, if it has one."""
    if mask.any() and not mask.all() and min(mask.shape) > 1:
        axis.contour(mask, levels=[0.5], colors=colour, linewidths=0.8)


def mask_figure(scan: Scan, mask: np.ndarray, path: Path, title: str = "") -> None:
    """Draw sagittal, coronal and axial slices through the brain with the mask's outline.

    mask: boolean [X, Y, Z].
    """
    figure, axes = _figure(1, 3, 9, 3.2)
    image, size = _upright(scan.array, scan.vox2world)
    mask, _ = _upright(mask, scan.vox2world)
    low, high = _grey_range(image)
    at = _middle(mask)
    for axis, (grey, aspect), (inside, _) in zip(
        axes[0], _views(image, size, at), _views(mask, size, at), strict=True
    ):
        axis.imshow(grey, cmap="gray", origin="lower", aspect=aspect, vmin=low, vmax=high, interpolation="nearest")
        _outline(axis, inside)
    figure.suptitle(_in_font(printable(title)), parse_math=False)
    _save(figure, path)


def structure_figure(
    scan: Scan, channels: np.ndarray, structures: Sequence[TargetClass], path: Path, title: str = ""
) -> None:
    """Draw sagittal, coronal and axial slices with the outline of each structure in its colour.

    They lie near the middle of the brain, or of all structures if none is brain. channels: [X, Y, Z], 0 for the
    background, then the structures in their order.
    """
    figure, axes = _figure(1, 3, 12, 4.2)
    image, size = _upright(scan.array, scan.vox2world)
    channels, _ = _upright(channels, scan.vox2world)
    low, high = _grey_range(image)
    brain = np.isin(channels, [channel for channel, each in enumerate(structures, start=1) if each.brain])
    at = _middle(brain if brain.any() else channels > 0)
    # The planes between the halves of the brain would show little of them.
    at[0] = min(at[0] + round(BESIDE_MIDDLE_MM / size[0]), channels.shape[0] - 1)
    for axis, (grey, aspect), (labels, _) in zip(
        axes[0], _views(image, size, at), _views(channels, size, at), strict=True
    ):
        axis.imshow(grey, cmap="gray", origin="lower", aspect=aspect, vmin=low, vmax=high, interpolation="nearest")
        for channel in np.unique(labels[labels > 0]).tolist():
            _outline(axis, labels == channel, "#" + bytes(colour_of(structures[channel - 1])).hex())
    figure.suptitle(_in_font(printable(title)), parse_math=False)
    _save(figure, path)


@dataclass(frozen=True, eq=False)
class QualityView:
    """What a picture shows of a mask.

    scan: with values float32. mask, rebuilt: boolean; doubt: in [0, 1]; all [X, Y, Z] on the scan's grid. place:
    the voxel [3] that the three planes go through. axis: the one across axial slices. slices: number and doubt of
    axial slices, in the order in which they are shown, as many as DoubtConfig says at most.
    """

    scan: Scan
    mask: np.ndarray
    rebuilt: np.ndarray
    doubt: np.ndarray
    place: np.ndarray
    axis: int
    slices: Sequence[tuple[int, float]]


def quality_figure(view: QualityView, path: Path) -> None:
    """Draw three planes through the place of most doubt above axial slices, the doubt over the image.

    The outline of the mask is red, that of the rebuilt mask blue.
    """
    figure, panels = _quality_panels()
    order = nib.orientations.io_orientation(view.scan.vox2world)
    image, size = _upright(view.scan.array, view.scan.vox2world)
    low, high = _grey_range(image)
    layers = [image, *(_upright(each, view.scan.vox2world)[0] for each in (view.mask, view.rebuilt, view.doubt))]
    box = _around(layers[1] | layers[2] | (layers[3] > LEAST_DOUBT), QUALITY_MARGIN_MM / size)
    layers = [layer[box] for layer in layers]

    def draw(panel: Axes, axis: int, index: int) -> None:
        """A slice across an upright axis, by its index in the image."""
        across, up = (k for k in range(3) if k != axis)
        grey, mask, rebuilt, doubt = (layer.take(index - box[axis].start, axis).T for layer in layers)
        aspect = size[up] / size[across]
        panel.imshow(
            grey, cmap="gray", origin="lower", aspect=aspect, vmin=low, vmax=high, interpolation="nearest"
        )
        panel.imshow(_doubt_colours(doubt), origin="lower", aspect=aspect, interpolation="nearest")
        _outline(panel, rebuilt, REBUILT_OUTLINE)
        _outline(panel, mask)

    def upright(axis: int, number: int) -> tuple[int, int]:
        """The upright axis of an axis of the image, and the index along it of the slice of this number."""
        towards, sign = int(order[axis, 0]), order[axis, 1]
        return towards, number if sign > 0 else view.mask.shape[axis] - 1 - number

    for axis, number in enumerate(view.place.tolist()):
        towards, index = upright(axis, number)
        draw(panels[0][2 - towards], towards, index)
        panels[0][2 - towards].set_title(f"{PLANES[towards]} {number}", **TITLE)
    for panel, (number, doubt) in zip(panels[1], view.slices, strict=False):
        draw(panel, *upright(view.axis, number))
        panel.set_title(f"slice {number}: doubt {doubt:.2f}", **TITLE)
    _save(figure, path)


def _quality_panels() -> tuple[Figure, list[list[Axes]]]:
    """A black figure, and its axes in two rows: one for each plane, and one for each slice."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=QUALITY_INCHES, layout="constrained", facecolor="black")
    figure.set_layout_engine("constrained", w_pad=0.01, h_pad=0.01, wspace=0.01, hspace=0.01)
    figure.subfigures(2, 1)
    rows = [part.subplots(1, count) for part, count in zip(figure.subfigs, (3, DoubtConfig.slices), strict=True)]
    for part in figure.subfigs:
        part.set_facecolor("black")
    for panel in (panel for row in rows for panel in row):
        panel.axis("off")
    return figure, [list(row) for row in rows]


def _doubt_colours(doubt: np.ndarray) -> np.ndarray:
    """Colours RGBA [.., 4] of doubts in [0, 1]: lighter and less transparent with more, none without doubt."""
    from matplotlib import colormaps

    colours = colormaps["plasma"](DARKEST + (1 - DARKEST) * doubt)
    colours[..., 3] = np.minimum(1, MOST_OPAQUE * np.sqrt(doubt))
    colours[doubt < LEAST_DOUBT] = 0
    return colours


def comparison_figure(cases: list[tuple[Scan, np.ndarray, np.ndarray, str]], path: Path) -> None:
    """Draw a row of slices for each scan, with the outline of a mask in red over that of the true mask in green.

    cases: the scan, the mask and the true mask, both boolean [X, Y, Z], and the title of each row.
    """
    figure, axes = _figure(len(cases), 3, 9, 3.2 * len(cases))
    for row, (scan, mask, truth, title) in zip(axes, cases, strict=True):
        image, size = _upright(scan.array, scan.vox2world)
        outlines = [
            (_upright(m, scan.vox2world)[0], colour) for m, colour in ((truth, TRUE_OUTLINE), (mask, OUTLINE))
        ]
        at = _middle(outlines[0][0])
        low, high = _grey_range(image)
        for axis, (grey, aspect) in zip(row, _views(image, size, at), strict=True):
            axis.imshow(grey, cmap="gray", origin="lower", aspect=aspect, vmin=low, vmax=high)
        for outline, colour in outlines:
            for axis, (inside, _) in zip(row, _views(outline, size, at), strict=True):
                _outline(axis, inside, colour)
        row[0].set_title(_in_font(printable(title)).replace(": ", "\n"), loc="left", fontsize=9, parse_math=False)
    _save(figure, path)


def label_figure(scan: Scan, labels: np.ndarray, path: Path) -> None:
    """Draw three slices of a scan above those of its label map: classes outside in blue, inside warm colours."""
    from matplotlib import colormaps

    figure, axes = _figure(2, 3, 9, 6.4)
    image, size = _upright(scan.array, scan.vox2world)
    labels, _ = _upright(labels, scan.vox2world)
    inside = labels > INSIDE_BASE
    colours = np.zeros((256, 3))
    for chosen, name in ((~inside, "Blues_r"), (inside, "inferno")):
        present = np.unique(labels[chosen & (labels > 0)])
        colours[present] = colormaps[name](np.linspace(0.15, 0.9, len(present)))[:, :3]
    low, high = _grey_range(image)
    at = _middle(inside)
    for column, ((grey, aspect), (classes, _)) in enumerate(
        zip(_views(image, size, at), _views(labels, size, at), strict=True)
    ):
        axes[0, column].imshow(grey, cmap="gray", origin="lower", aspect=aspect, vmin=low, vmax=high)
        axes[1, column].imshow(colours[classes], origin="lower", aspect=aspect, interpolation="nearest")
    _save(figure, path)


def synthesis_figure(images: np.ndarray, brains: np.ndarray, path: Path, columns: int = 8) -> None:
    """Draw three slices of each synthetic image, with the outline of the brain that the network should find.

    images, brains: [N, X, Y, Z], values from 0 to 1, on a conformed grid.
    """
    rows = -(-len(images) // columns)
    figure, axes = _figure(3 * rows, columns, 2 * columns, 6 * rows)
    for number, (image, brain) in enumerate(zip(images, brains, strict=True)):
        row, column = 3 * (number // columns), number % columns
        at = np.array(image.shape) // 2
        for view, ((grey, _), (inside, _)) in enumerate(
            zip(_views(image, np.ones(3), at), _views(brain > 0.5, np.ones(3), at), strict=True)
        ):
            axes[row + view, column].imshow(grey, cmap="gray", origin="lower", vmin=0, vmax=1)
            _outline(axes[row + view, column], inside)
    _save(figure, path)


def curve_figure(rows: list[dict[str, str]], path: Path) -> None:
    """Draw all losses, and the validation Dice if there is any, over the steps. rows: of metrics.csv."""
    figure, axes = _figure(1, 1, 7, 4)
    axis = axes[0, 0]
    axis.axis("on")
    steps = [int(row["step"]) for row in rows]
    losses = [column for column in rows[0] if column.endswith("_loss")] if rows else []
    for column, colour in zip(losses, LOSS_COLOURS, strict=False):
        values = [float(row[column]) for row in rows]
        axis.plot(steps, values, color=colour, label=column.replace("_", " "), lw=1)
    axis.set(xlabel="step", ylabel="loss", yscale="log")
    scored = [(int(row["step"]), float(row["validation_dice"])) for row in rows if row.get("validation_dice")]
    if scored:
        right = axis.twinx()
        right.plot(*zip(*scored, strict=True), color=OUTLINE, marker="o", ms=3)
        right.set_ylabel("validation Dice", color=OUTLINE)
    axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False)  # no corner stays free
    _save(figure, path)
