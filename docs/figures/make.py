"""Makes the figures of the documentation with the tool itself: python docs/figures/make.py DATA

DATA/adults holds sub-01_T1w.nii.gz, its mask sub-01_T1w_mask.nii.gz, and sub-02_T1w.nii.gz. Both people are of
OpenNeuro ds000011 (public domain, PDDL 1.0; Foerde, Knowlton & Poldrack, PNAS 103:11778, 2006), with the face
removed. Every command that runs is printed.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image, ImageOps

from singlestrip import Scan, Stripper
from singlestrip.space.grid import Grid
from singlestrip.space.resample import coarsened, conform

FOLDER = Path(__file__).parent
WIDTH = 860  # pixels
GREYS, COLOURS = 40, 24  # of a palette, so that a figure stays below 150 kB
COLOURED = 40  # a pixel has a colour if its channels differ by this much


def run(*words: str | Path) -> None:
    """Run a command of singlestrip."""
    line = ["singlestrip", *map(str, words)]
    print(shlex.join(line), flush=True)
    subprocess.run([sys.executable, "-m", *line], check=True)


def save(picture: Image.Image, name: str, width: int = WIDTH) -> None:
    """Save a picture at a width in pixels, with a palette of greys and of the picture's own colours."""
    picture = picture.convert("RGB")
    picture = picture.crop(ImageOps.invert(picture).getbbox())  # without white margins
    height = round(picture.height * width / picture.width)
    picture = picture.resize((width, height), Image.Resampling.LANCZOS)
    pixels = np.asarray(picture)
    coloured = pixels[np.ptp(pixels, axis=-1) > COLOURED][None]
    palette = np.repeat(np.linspace(0, 255, GREYS).astype(np.uint8), 3).tolist()
    if coloured.size:
        palette += Image.fromarray(coloured).quantize(COLOURS).getpalette()[: 3 * COLOURS]
    colours = Image.new("P", (1, 1))
    colours.putpalette(palette)
    picture.quantize(palette=colours, dither=Image.Dither.NONE).save(FOLDER / name, optimize=True)


def load(path: Path) -> Scan:
    """A scan with its axes along right, anterior and superior."""
    image = nib.as_closest_canonical(nib.load(path))
    return Scan(np.asarray(image.dataobj, dtype=np.float32), image.affine)


def fault(mask: Path, out: Path) -> None:
    """A mask that lacks its back 35 mm."""
    image = nib.load(mask)
    brain = np.asarray(image.dataobj) > 0
    voxels = np.argwhere(brain)
    anterior = (np.c_[voxels, np.ones(len(voxels))] @ image.affine.T)[:, 1]
    lost = voxels[anterior < anterior.min() + 35]
    brain[tuple(lost.T)] = False
    nib.save(nib.Nifti1Image(brain.astype(np.uint8), image.affine), out)


def cascade(scan: Scan) -> Image.Image:
    """What the two networks see of a scan: sagittal slices through the middle of the segmenter's window."""
    stripper = Stripper.load(device="cpu")
    field = stripper.field(scan)
    mask = stripper.strip(scan).mask
    low, high = field.grid.bounds_mm()
    middle = (low + high) / 2
    window = Scan(conform(scan, field.grid).numpy(), field.vox2world)
    coarse = coarsened(scan, stripper.config.locator_voxel_size_mm)
    logit = Scan(field.logit.cpu().numpy(), field.vox2world)
    panels = (
        (coarse, None, "1. The locator sees the whole scan, 4 mm"),
        (window, logit, "2. The segmenter sees a window, 2 mm"),
        (scan, Scan(mask.astype(np.float32) - 0.5, scan.vox2world), "3. The mask, on the scan's own grid"),
    )
    figure = Figure(figsize=(12, 4.4), layout="constrained")
    for axis, (shown, border, title) in zip(figure.subplots(1, 3), panels, strict=True):
        grey, extent = sagittal(shown, middle[0])
        axis.imshow(grey, cmap="gray", origin="lower", extent=extent, vmin=0, vmax=np.percentile(grey, 99.5))
        if border is not None:
            axis.contour(sagittal(border, middle[0])[0], [0.0], colors="red", extent=extent, linewidths=2)
        else:
            axis.add_patch(Rectangle(low[1:], *(high - low)[1:], fill=False, edgecolor="orange", linewidth=2))
            axis.plot(*middle[1:], "+", color="orange", markersize=12)
        axis.set(xlim=bounds(scan.grid, low, high, 1), ylim=bounds(scan.grid, low, high, 2), facecolor="black")
        axis.set_title(title, fontsize=12)
        axis.set_xticks([])
        axis.set_yticks([])
    figure.set_dpi(120)
    with tempfile.TemporaryFile() as file:
        figure.savefig(file, format="png")
        return Image.open(file).copy()


def bounds(grid: Grid, low: np.ndarray, high: np.ndarray, axis: int) -> tuple[float, float]:
    """What both a grid and a window cover along an axis, in mm."""
    edges = grid.bounds_mm()
    return min(edges[0][axis], low[axis]) - 4, max(edges[1][axis], high[axis]) + 4


def sagittal(scan: Scan, at_mm: float) -> tuple[np.ndarray, tuple[float, ...]]:
    """The slice [Z, Y] of an upright scan at a place in mm, and its extent for imshow."""
    low, high = scan.grid.bounds_mm()
    index = int((at_mm - low[0]) / (high[0] - low[0]) * scan.shape[0])
    return scan.array[index].T, (low[1], high[1], low[2], high[2])


def main(data: Path) -> None:
    labelled, mask = data / "adults/sub-01_T1w.nii.gz", data / "adults/sub-01_T1w_mask.nii.gz"
    other = data / "adults/sub-02_T1w.nii.gz"
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        run("fit-gmm", "-i", labelled, "-m", mask, "-o", work / "labels.nii.gz", "--picture", work / "labels.png")
        run("train", "-i", labelled, "-m", mask, "--picture", work / "samples.png")
        run("strip", "-i", other, "-m", work / "whole.nii.gz", "-p", work / "strip.png")
        fault(work / "whole.nii.gz", work / "cut.nii.gz")
        masks = [work / "whole.nii.gz", work / "cut.nii.gz"]
        run("qc", "-m", *masks, "-i", other, other, "--report", work / "report")
        save(Image.open(work / "labels.png"), "labels.png", width=780)
        sheet = Image.open(work / "samples.png")
        save(sheet.crop((0, 0, sheet.width, sheet.height // 2)), "samples.png")
        save(Image.open(work / "strip.png"), "strip.png")
        pages = [Image.open(work / f"report/pictures/{path.name[:-7]}.png").convert("RGB") for path in masks]
        both = Image.new("RGB", (pages[0].width, sum(page.height for page in pages)))
        both.paste(pages[0], (0, 0))
        both.paste(pages[1].resize(pages[0].size), (0, pages[0].height))
        save(both, "estimate.png", width=720)
        save(cascade(load(other)), "cascade.png")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python docs/figures/make.py DATA")
    main(Path(sys.argv[1]))
