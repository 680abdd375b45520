"""Lesions that a model finds: of pasted lesions how many and how well, and how many in scans as they are.

    python benchmarks/found_lesions.py --data DATA --model MODEL --out FOLDER [--brain-model MODEL]
        [--scans NAME ...] [--ml 5 20 60] [--datasets NAME ...]

Pastes the lesions of `pasted_lesions.py` into scans of DATA/scans.tsv, as lesions.py does, strips them, and looks
for lesions in the mask. Then looks for lesions in all scans of the data sets without any. Those in healthy people
are false; patients with multiple sclerosis have lesions, of which there is no reference. DATA is laid out as for
score.py. Writes found.csv (a row per scan and pasted lesion), as_they_are.csv (a row per scan), and
found_lesions.md (means of both).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from lesions import Example, argument_parser, by_kind_and_volume, name_of, strip, write_rows
from scans import find_scans
from scipy import ndimage

from singlestrip import Scan, SingleStripError, Stripper
from singlestrip.space.grid import voxel_volume_ml
from singlestrip.space.metrics import dice
from singlestrip.stripping.lesion_finder import LesionFinder

FOUND = ("image", "kind", "ml", "found", "marked", "dice", "elsewhere_ml")
AS_THEY_ARE = ("image", "people", "contrast", "lesions", "ml")
LABELLED = "sub-01"  # the person whose scan networks learn from
LEAST_MARKED = 0.2  # share of a lesion's voxels from which it counts as found
PEOPLE = {"adults": "healthy", "clinical": "multiple sclerosis"}  # by data set


def find(stripper: Stripper, finder: LesionFinder, scan: Scan) -> np.ndarray:
    """The lesions in a scan, boolean [X, Y, Z]; none if no brain is found."""
    mask = strip(stripper, scan)
    try:
        return finder.find(scan, mask) if mask.any() else mask
    except SingleStripError:
        return np.zeros_like(mask)


def pasted_rows(
    stripper: Stripper, finder: LesionFinder, example: Example, volumes: Sequence[float]
) -> Iterator[dict]:
    """A row for each lesion that is pasted into a scan.

    marked: share of its voxels that are marked. dice: within 10 mm of it. elsewhere_ml: marked further away, more
    than in the scan as it is.
    """
    voxel_ml = voxel_volume_ml(example.vox2world)
    before = find(stripper, finder, example.scan)
    for lesion, scan, pasted in example.with_lesions(volumes):
        lesions = find(stripper, finder, scan)
        marked = float(lesions[pasted.lesion].mean())
        elsewhere = lesions & ~before & ~pasted.near
        yield {
            **lesion,
            "found": int(marked >= LEAST_MARKED),
            "marked": marked,
            "dice": dice(lesions & pasted.near, pasted.lesion),
            "elsewhere_ml": float(elsewhere.sum()) * voxel_ml,
        }


def row_as_it_is(stripper: Stripper, finder: LesionFinder, example: Example, people: str) -> dict:
    """The number of lesions found in a scan as it is, and their volume."""
    lesions = find(stripper, finder, example.scan)
    return {
        "image": example.name,
        "people": people,
        "contrast": example.contrast,
        "lesions": ndimage.label(lesions)[1],
        "ml": float(lesions.sum()) * voxel_volume_ml(example.vox2world),
    }


def found_table(rows: list[dict]) -> str:
    """A Markdown line for each kind and volume of pasted lesions, and for all of a kind."""
    lines = [
        "| lesion | ml | cases | found | voxels marked | Dice | least | ml elsewhere |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for cells, members in by_kind_and_volume(rows):
        means = {key: np.mean([row[key] for row in members]) for key in FOUND[3:]}
        cells += [str(sum(row["found"] for row in members)), f"{means['marked']:.2f}", f"{means['dice']:.3f}"]
        cells += [f"{min(row['dice'] for row in members):.3f}", f"{means['elsewhere_ml']:.2f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def table_as_they_are(rows: list[dict]) -> str:
    """A Markdown line for the scans of each contrast of healthy people and of patients."""
    lines = [
        "| people | contrast | scans | without any | lesions a scan | ml a scan | most ml |",
        "|---|---|---|---|---|---|---|",
    ]
    for people, contrast in sorted({(row["people"], row["contrast"]) for row in rows}):
        members = [row for row in rows if (row["people"], row["contrast"]) == (people, contrast)]
        none = sum(row["lesions"] == 0 for row in members)
        means = [f"{np.mean([row[key] for row in members]):.2f}" for key in ("lesions", "ml")]
        most = f"{max(row['ml'] for row in members):.2f}"
        lines.append(f"| {' | '.join([people, contrast, str(len(members)), str(none), *means, most])} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--model", required=True, help="the model that finds lesions")
    parser.add_argument("--brain-model", help="default: the shipped weights")
    parser.add_argument("--datasets", nargs="+", default=list(PEOPLE), help="of scans to look at as they are")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    stripper, finder = Stripper.load(args.brain_model), LesionFinder.load(args.model)
    listed = {name_of(scan): scan for scan in find_scans(args.data)}
    pasted: list[dict] = []
    for name in args.scans:
        pasted += pasted_rows(stripper, finder, Example.read(listed[name]), args.ml)
        print(f"{name}: done", flush=True)
    write_rows(args.out / "found.csv", FOUND, pasted, exact=4)
    rows = []
    for scan in find_scans(args.data, args.datasets):
        if scan.person != LABELLED:
            people = PEOPLE.get(scan.dataset, scan.dataset)
            rows.append(row_as_it_is(stripper, finder, Example.read(scan), people))
    write_rows(args.out / "as_they_are.csv", AS_THEY_ARE, rows, exact=4)
    text = f"{found_table(pasted)}\n{table_as_they_are(rows)}"
    (args.out / "found_lesions.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
