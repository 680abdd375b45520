"""How far a scan may depart from the usual before its mask suffers: Dice against severity.

    python benchmarks/robustness.py --data DATA --out FOLDER [--model MODEL] [--scans NAME ...]
        [--changes turn-x ...]

Changes scans of DATA/scans.tsv, one change and severity at a time, strips them, and compares with the
mask changed alike. DATA is laid out as for score.py. Writes robustness.csv (a row per scan, change and
severity), robustness.md (mean Dice, least, and the loss against the unchanged scans) and robustness.png.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scans import find_scans
from scipy import ndimage
from scipy.spatial.transform import Rotation

from singlestrip import SingleStripError, Stripper
from singlestrip.io.images import volume
from singlestrip.space.grid import voxel_sizes
from singlestrip.space.metrics import dice

Scan = tuple[np.ndarray, np.ndarray, np.ndarray]  # image [X, Y, Z], mask boolean, vox2world
COLUMNS = ("change", "severity", "image", "dice")
SCANS = ("sub-02_T1w", "sub-06_T1w", "sub-04_T2w", "sub-07_T2w", "patient01_study1_FLAIR", "patient04_study1_T2w")
ALLOWED_LOSS = 0.03


def turn(axis: str) -> Callable[[Scan, float], Scan]:
    """The head turned in the scanner about a RAS axis through the middle of the brain, by degrees."""

    def change(scan: Scan, degrees: float) -> Scan:
        image, mask, vox2world = scan
        middle = vox2world @ [*ndimage.center_of_mass(mask), 1.0]
        turned = np.eye(4)
        turned[:3, :3] = Rotation.from_euler(axis, degrees, degrees=True).as_matrix()
        turned[:3, 3] = middle[:3] - turned[:3, :3] @ middle[:3]
        return image, mask, turned @ vox2world

    return change


def cropped(low: bool) -> Callable[[Scan, float], Scan]:
    """Slices cut away, along the voxel axis closest to superior, up to a depth in mm into the brain."""

    def change(scan: Scan, depth_mm: float) -> Scan:
        image, mask, vox2world = scan
        axis = int(np.abs(vox2world[2, :3]).argmax())
        upward = vox2world[2, axis] > 0
        size = voxel_sizes(vox2world)[axis]
        filled = np.flatnonzero(mask.any(axis=tuple(k for k in range(3) if k != axis)))
        depth = round(depth_mm / size)
        start, stop = 0, image.shape[axis]
        if upward == low:
            start = filled[0] + depth
        else:
            stop = filled[-1] + 1 - depth
        part = tuple(slice(start, stop) if k == axis else slice(None) for k in range(3))
        moved = np.eye(4)
        moved[axis, 3] = start
        return image[part], mask[part], vox2world @ moved

    return change


def coarser(axes: int) -> Callable[[Scan, float], Scan]:
    """Voxels of so many mm, along one axis (the thickest already) or along all three."""

    def change(scan: Scan, size_mm: float) -> Scan:
        image, mask, vox2world = scan
        sizes = voxel_sizes(vox2world)
        chosen = range(3) if axes == 3 else [int(sizes.argmax())]
        factors = [max(1, round(size_mm / sizes[k])) if k in chosen else 1 for k in range(3)]
        shape = [n // f * f for n, f in zip(image.shape, factors, strict=True)]
        box = tuple(slice(n) for n in shape)
        split = [m for n, f in zip(shape, factors, strict=True) for m in (n // f, f)]
        matrix = np.diag([*factors, 1.0]).astype(float)
        matrix[:3, 3] = (np.array(factors) - 1) / 2
        small = image[box].reshape(split).mean(axis=(1, 3, 5))
        return small, mask[box].reshape(split).mean(axis=(1, 3, 5)) > 0.5, vox2world @ matrix

    return change


def bias(scan: Scan, strength: float) -> Scan:
    """A smooth gain whose logarithm has this standard deviation; knots 80 mm apart."""
    image, mask, vox2world = scan
    extent = voxel_sizes(vox2world) * image.shape
    knots = np.random.default_rng(0).standard_normal([max(2, round(e / 80) + 1) for e in extent])
    at = np.meshgrid(
        *(np.linspace(0, k - 1, n) for k, n in zip(knots.shape, image.shape, strict=True)), indexing="ij"
    )
    field = ndimage.map_coordinates(knots, at, order=3, mode="nearest")
    return image * np.exp(strength * field / field.std()), mask, vox2world


def noise(scan: Scan, share: float) -> Scan:
    """Rician noise, its standard deviation a share of the 99th percentile."""
    image, mask, vox2world = scan
    sigma = share * np.percentile(image, 99)
    rng = np.random.default_rng(0)
    real, imaginary = (rng.standard_normal(image.shape) * sigma for _ in range(2))
    return np.hypot(image + real, imaginary), mask, vox2world


def scaled(scan: Scan, factor: float) -> Scan:
    """A head of another size."""
    image, mask, vox2world = scan
    return image, mask, np.diag([factor, factor, factor, 1.0]) @ vox2world


def inverted(scan: Scan, _: float) -> Scan:
    image, mask, vox2world = scan
    highest = np.percentile(image, 99.9)
    return highest - np.minimum(image, highest), mask, vox2world


def stripped(scan: Scan, rim_mm: float) -> Scan:
    """Everything blank beyond a rim around the brain: another tool has been here."""
    image, mask, vox2world = scan
    far = ndimage.distance_transform_edt(~mask, sampling=voxel_sizes(vox2world)) > rim_mm
    return np.where(far, 0, image), mask, vox2world


def padded(scan: Scan, margin_mm: float) -> Scan:
    """Air of this width around the head, with the noise of the scan's corners."""
    image, mask, vox2world = scan
    wide = [int(margin_mm / s) for s in voxel_sizes(vox2world)]
    corner = image[:8, :8, :3].ravel()
    out = np.random.default_rng(0).choice(corner, [n + 2 * w for n, w in zip(image.shape, wide, strict=True)])
    inner = tuple(slice(w, w + n) for n, w in zip(image.shape, wide, strict=True))
    out[inner] = image
    moved = np.eye(4)
    moved[:3, 3] = [-w for w in wide]
    return out, np.pad(mask, [(w, w) for w in wide]), vox2world @ moved


def without_signal(scan: Scan, radius_mm: float) -> Scan:
    """No signal around three points at the base of the brain: above the sinuses and both ear canals."""
    image, mask, vox2world = scan
    at = np.argwhere(mask) @ vox2world[:3, :3].T + vox2world[:3, 3]
    low, high = np.percentile(at, 1, axis=0), np.percentile(at, 99, axis=0)
    middle = (low + high) / 2
    kept = np.ones(image.shape)
    for right, front, up in ((0.5, 0.88, 0.3), (0.06, 0.5, 0.25), (0.94, 0.5, 0.25)):
        point = low + np.array([right, front, up]) * (high - low)
        column = at[np.hypot(*(at[:, :2] - point[:2]).T) < 6]
        # The lowest brain there is the middle of the ball; all of it below the brain would change nothing.
        point[2] = column[:, 2].min() if len(column) else middle[2]
        voxel = np.linalg.solve(vox2world, [*point, 1.0])[:3]
        axes = [
            ((np.arange(n) - v) * s) ** 2
            for n, v, s in zip(image.shape, voxel, voxel_sizes(vox2world), strict=True)
        ]
        away = np.sqrt(axes[0][:, None, None] + axes[1][:, None] + axes[2])
        kept *= 1 - 0.95 / (1 + np.exp((away - radius_mm) / 1.5))
    return image * kept, mask, vox2world


def distorted(scan: Scan, most_mm: float) -> Scan:
    """Moved along the axis nearest to front-back by up to so many mm at the front of the base, with its signal."""
    image, mask, vox2world = scan
    axis = int(np.abs(vox2world[1, :3]).argmax())
    size = voxel_sizes(vox2world)[axis]
    at = np.argwhere(mask) @ vox2world[:3, :3].T + vox2world[:3, 3]
    low, high = at.min(axis=0), at.max(axis=0)
    source = np.indices(image.shape, dtype=np.float64)
    world = np.einsum("ij,jxyz->ixyz", vox2world[:3, :3], source) + vox2world[:3, 3].reshape(3, 1, 1, 1)
    spot = low + np.array([0.5, 0.85, 0.25]) * (high - low)
    squares = sum(((world[k] - spot[k]) / 35.0) ** 2 for k in range(3))
    shift = most_mm / size * np.exp(-squares / 2)
    source[axis] += shift
    squeezed = np.maximum(1 + np.gradient(shift, axis=axis), 0)
    moved = ndimage.map_coordinates(image, source, order=1, mode="nearest") * squeezed
    return moved, ndimage.map_coordinates(mask.astype(np.float32), source, order=1) > 0.5, vox2world


def ghosted(scan: Scan, strength: float) -> Scan:
    """A copy of this strength over the image, half a field of view away along the axis nearest to front-back."""
    image, mask, vox2world = scan
    axis = int(np.abs(vox2world[1, :3]).argmax())
    return image + strength * np.roll(image, image.shape[axis] // 2, axis), mask, vox2world


CHANGES: dict[str, tuple[str, Callable[[Scan, float], Scan], tuple[float, ...]]] = {
    "turn-x": ("nodded, degrees", turn("x"), (15, 30, 60, 90, 135, 180)),
    "turn-y": ("leant to a side, degrees", turn("y"), (15, 30, 60, 90, 135, 180)),
    "turn-z": ("turned about the long axis, degrees", turn("z"), (15, 30, 60, 90, 135, 180)),
    "vertex": ("cut at the vertex, mm into the brain", cropped(low=False), (0, 10, 20, 40)),
    "neck": ("cut from below, mm into the brain", cropped(low=True), (0, 10, 20, 40)),
    "slices": ("slice thickness, mm", coarser(1), (4, 6, 8)),
    "voxels": ("voxel size, mm", coarser(3), (2, 3, 4)),
    "bias": ("bias, standard deviation of its logarithm", bias, (0.2, 0.4, 0.6)),
    "noise": ("noise, share of the 99th percentile", noise, (0.05, 0.1, 0.2)),
    "size": ("size of the head", scaled, (0.6, 0.7, 0.8, 0.9, 1.1, 1.2)),
    "inverted": ("contrast inverted", inverted, (1,)),
    "stripped": ("blank beyond mm from the brain", stripped, (0, 3, 10)),
    "signal": ("no signal around three points of the base, mm", without_signal, (8, 14, 20)),
    "distorted": ("distorted along one axis, mm", distorted, (4, 8, 12)),
    "ghost": ("ghost, share of the signal", ghosted, (0.1, 0.2, 0.3)),
    "padded": ("air around the head, mm", padded, (50, 100, 150)),
}


def strip_dice(stripper: Stripper, scan: Scan) -> float:
    image, mask, vox2world = scan
    try:
        return dice(stripper.strip(image, vox2world).mask, mask)
    except SingleStripError:
        return 0.0


def table(rows: list[dict]) -> str:
    """A Markdown line per change and severity; `!` where more is lost than allowed."""
    easy = {r["image"]: r["dice"] for r in rows if r["change"] == "none"}
    lines = [f"Unchanged: mean Dice {np.mean(list(easy.values())):.4f} on {len(easy)} scans.", ""]
    lines += ["| change | severity | mean Dice | least | loss |", "|---|---|---|---|---|"]
    for change, (text, _, severities) in CHANGES.items():
        for severity in severities:
            members = [r for r in rows if (r["change"], r["severity"]) == (change, severity)]
            if members:
                dices = [r["dice"] for r in members]
                loss = np.mean([easy[r["image"]] - r["dice"] for r in members])
                mark = " !" if loss > ALLOWED_LOSS else ""
                lines.append(
                    f"| {text} | {severity:g} | {np.mean(dices):.4f} | {min(dices):.4f} | {loss:+.4f}{mark} |"
                )
    return "\n".join(lines) + "\n"


def figure(rows: list[dict], path: Path) -> None:
    """Dice over severity for each change: each scan a line, their mean a thick one."""
    from matplotlib.figure import Figure

    present = [change for change in CHANGES if any(r["change"] == change for r in rows)]
    drawing = Figure(figsize=(14, 2.6 * -(-len(present) // 4)), layout="constrained")
    axes = np.atleast_1d(drawing.subplots(-(-len(present) // 4), 4, sharey=True)).ravel()
    for panel, change in zip(axes, present, strict=False):
        members = [r for r in rows if r["change"] == change]
        at = sorted({r["severity"] for r in members})
        lines = [
            [next(r["dice"] for r in members if (r["image"], r["severity"]) == (image, s)) for s in at]
            for image in dict.fromkeys(r["image"] for r in members)
        ]
        for line in lines:
            panel.plot(at, line, color="#9ab", linewidth=0.8)
        panel.plot(at, np.mean(lines, axis=0), "o-", color="#1f6fb4")
        panel.set(title=CHANGES[change][0], ylim=(0.5, 1))
        panel.grid(alpha=0.3)
    for panel in axes[len(present) :]:
        panel.remove()
    drawing.savefig(path, dpi=90)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", help="default: the shipped weights")
    parser.add_argument(
        "--scans", nargs="+", default=list(SCANS), help="names of images without folder and suffix"
    )
    parser.add_argument("--changes", nargs="+", choices=CHANGES, default=list(CHANGES))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    stripper = Stripper.load(args.model)
    listed = {scan.image.name.split(".")[0]: scan for scan in find_scans(args.data)}
    rows = []
    for name in args.scans:
        scan = volume.read(listed[name].image)
        truth = volume.read(listed[name].mask).stored[..., 0] > 0
        usual = (scan.scaled().astype(np.float32), truth, scan.vox2world)
        rows.append({"change": "none", "severity": 0, "image": name, "dice": strip_dice(stripper, usual)})
        for change in args.changes:
            _, apply, severities = CHANGES[change]
            for severity in severities:
                score = strip_dice(stripper, apply(usual, severity))
                rows.append({"change": change, "severity": severity, "image": name, "dice": score})
        print(f"{name}: done", flush=True)
    with (args.out / "robustness.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows({**row, "dice": f"{row['dice']:.4f}"} for row in rows)
    text = table(rows)
    (args.out / "robustness.md").write_text(text)
    figure(rows, args.out / "robustness.png")
    print(text)


if __name__ == "__main__":
    main()
