"""Mask files in, a table and a page out: names, tables, failures, references, pictures."""

import csv
import json
import math
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import nn

from singlestrip.batch.assess import Assessor, assess_files
from singlestrip.batch.assessment import (
    COLUMNS,
    NUMBERS,
    Assessment,
    Case,
    name_cases,
    quality_values,
    worst_first,
)
from singlestrip.batch.quality_table import check_table, read_growing_table, read_table, update_table, write_table
from singlestrip.batch.report import group_of, write_report
from singlestrip.configuration import AutoencoderConfig
from singlestrip.errors import InputError, OutputError
from singlestrip.io.images.masks import read_mask, read_masks
from singlestrip.io.pictures import figures
from singlestrip.quality.mask_source import fraction
from singlestrip.quality.scores import MaskQuality, QualityModel
from singlestrip.space.metrics import dice
from singlestrip.space.scan import Scan

SHAPE = (32, 32, 32)
VOX2WORLD = np.diag([4.0, 4, 4, 1])
PNG = b"\x89PNG"


class Ball(nn.Module):
    """Rebuilds a ball of 48 mm whatever it sees, voxels at the edge in parts."""

    def __init__(self):
        super().__init__()
        self.config, self.estimator = AutoencoderConfig(), None
        self.anchor = nn.Parameter(torch.zeros(1))

    def forward(self, masks):
        along = (torch.arange(48) - 23.5) * 4
        distance = sum(torch.meshgrid(along**2, along**2, along**2, indexing="ij")).sqrt()
        return torch.logit(fraction(distance - 48, 4), 1e-6).expand(masks.shape)


@pytest.fixture
def model():
    return QualityModel(Ball())


def ball(radius_mm, centre=(15.5, 15.5, 15.5)):
    at = (np.moveaxis(np.indices(SHAPE), 0, -1) - centre) * 4
    return np.linalg.norm(at, axis=-1) < radius_mm


def save(path, values, vox2world=VOX2WORLD):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.asarray(values, dtype=np.int16), vox2world), path)
    return path


@pytest.fixture
def masks(tmp_path):
    """good, small and half: from best to worst for a network that expects a ball of 48 mm."""
    half = ball(48)
    half[16:] = False
    parts = {"good": ball(48), "small": ball(40), "half": half}
    return {name: save(tmp_path / f"{name}_mask.nii.gz", part) for name, part in parts.items()}


@pytest.fixture
def broken(tmp_path, masks):
    path = tmp_path / "broken_mask.nii.gz"
    path.write_bytes(masks["good"].read_bytes()[:400])
    return path


def rows_of(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


# Tables to read


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_a_table_of_masks(tmp_path, mark, end):
    path = tmp_path / "cases.tsv"
    lines = [b"reference\tmask\tage\timage", b"r.mgz\ta b.nii\t7\ti.nii.gz", b"\tb.nii\t8\t", b"\t c.nii "]
    path.write_bytes(mark + end.join(lines) + end)
    assert read_table(path) == [
        Case(Path("a b.nii"), Path("i.nii.gz"), Path("r.mgz")),
        Case(Path("b.nii")),
        Case(Path("c.nii")),
    ]


def test_a_table_may_have_masks_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    path = tmp_path / "cases.tsv"
    path.write_text("mask\n~/a.nii\n/b.nii")
    assert read_table(path) == [Case(tmp_path / "a.nii"), Case(Path("/b.nii"))]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "needs a header with the column mask"),
        (b"mask\timage\n", "at least one row"),
        (b"image\treference\na.nii\tb.nii\n", "needs a header with the column mask"),
        (b"a.nii\nb.nii\n", "needs a header with the column mask"),
        (b"mask,image\na.nii,b.nii\n", "needs a header with the column mask"),
        (b"mask\timage\na.nii\ti.nii\n\tj.nii\n", "no mask in line 3"),
        (b"mask\timage\n\na.nii\ti.nii\n\n\n\tj.nii\n", "no mask in line 6"),
        (b'mask\timage\n"a.nii\ti".nii\n\tj.nii\n', "no mask in line 3"),
        (b"\xff\xfe\x00mask", "cannot be read as a table"),
    ],
)
def test_tables_that_cannot_be_used(tmp_path, content, why):
    path = tmp_path / "cases.tsv"
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"cases\.tsv.*{why}"):
        read_table(path)


def test_quotes_are_part_of_a_name(tmp_path):
    path = tmp_path / "cases.tsv"
    path.write_text('mask\timage\n"a.nii\ti".nii\n"b"\t\n5" c.nii\t""\n')
    assert read_table(path) == [
        Case(Path('"a.nii'), Path('i".nii')),
        Case(Path('"b"')),
        Case(Path('5" c.nii'), Path('""')),
    ]


def test_a_table_that_is_not_there(tmp_path):
    for path in (tmp_path / "gone.tsv", tmp_path):
        with pytest.raises(InputError, match=f"{path}: cannot be read as a table"):
            read_table(path)


# Names


def named(*paths):
    return [case.name for case in name_cases([Case(Path(path)) for path in paths])]


def test_names_come_from_the_files():
    assert named("x/a.nii.gz", "y/b_mask.mgz", "c.d.img") == ["a", "b", "c.d"]


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (("/s/1/t1.nii", "/s/2/t1.nii", "/s/2/t2_mask.nii.gz"), ["1/t1", "2/t1", "2/t2"]),  # below the shared one
        (("/s/x/1/t1.nii", "/s/y/1/t1.nii"), ["x/1/t1", "y/1/t1"]),
        (("/s/t1.nii", "/s/1/t1.nii"), ["t1", "1/t1"]),
        (("/s/x.nii", "/s/x.mgz"), ["x.nii", "x.mgz"]),
        (("/s/1/x.nii", "/s/1/x.mgz", "/s/2/x_mask.nii"), ["1/x.nii", "1/x.mgz", "2/x_mask.nii"]),
        (("/s/x.nii.gz", "/s/x_mask.nii.gz"), ["x", "x_mask"]),
        (("/s/1/x_mask.nii", "/s/2/x.nii"), ["x_mask", "x"]),
        (("/p/a_b/c.nii", "/p/a/b_c.nii", "/p/c.nii"), ["a_b/c", "a/b_c", "c"]),
    ],
)
def test_names_are_distinct(paths, names):
    assert named(*paths) == names


def test_names_keep_the_order_and_the_cases():
    cases = [Case(Path("/b.nii"), Path("i.nii"), Path("r.nii")), Case(Path("/a.nii"))]
    found = name_cases(cases)
    assert [(c.mask, c.image, c.reference) for c in found] == [(c.mask, c.image, c.reference) for c in cases]


def test_a_mask_of_several_cases_has_a_name_in_each(tmp_path, monkeypatch):
    """As with several references; in the names that others have already there is no room."""
    monkeypatch.chdir(tmp_path)
    above = ("d/../a.nii", str(tmp_path / "a.nii"))
    for twice in (("a.nii", "a.nii"), ("a.nii", "./a.nii"), ("a.nii", str(tmp_path / "a.nii")), above):
        assert named(*twice) == ["a", "a-2"]
    assert named("a.nii", "a-2.nii", "a.nii", "b.nii", "a.nii") == ["a", "a-2", "a-3", "b", "a-4"]


# Tables to write


def made(name="a", flag="pass", note="", slice_dice=(), image=None, **values):
    return Assessment(Case(Path(f"{name}.nii"), image, name=name), flag, values, slice_dice, note)


SCORED = made(estimated_dice=0.98765, estimated_hd95_mm=4.0, components=1, holes=0, border=1, volume_ml=1234.5)


def test_a_table_of_tabs(tmp_path):
    path = tmp_path / "q.tsv"
    write_table(path, [SCORED, made("b", "fail", "b.nii: gone")])
    assert path.read_text().splitlines()[0].split("\t") == list(COLUMNS)
    first, second = rows_of(path)
    assert (first["flag"], first["estimated_dice"], first["volume_ml"]) == ("pass", "0.9877", "1234.5000")
    assert (first["components"], first["holes"], first["border"]) == ("1", "0", "1")
    assert (first["mask"], first["image"], first["tta_dice"], first["note"]) == ("a.nii", "", "", "")
    assert (second["flag"], second["mask"], second["note"]) == ("fail", "b.nii", "b.nii: gone")
    assert {second[name] for name in COLUMNS} == {"fail", "b.nii", "b.nii: gone", ""}


def test_columns_keep_the_order_that_was_promised(tmp_path):
    """In docs/stable/tables.md; the measures are the columns of numbers, in that order."""
    stable = (Path(__file__).parents[1] / "docs/stable/tables.md").read_text(encoding="utf-8")
    promise = re.search(r"The columns are ([^.]*)\.", stable)[1]
    assert list(COLUMNS) == re.findall(r"`(\w+)`", promise)
    texts = ("flag", "mask", "image", "reference", "note", "evidence", "reasons")
    assert [column for column in COLUMNS if column not in texts] == list(NUMBERS)
    write_table(tmp_path / "q.tsv", [made(**dict.fromkeys(reversed(NUMBERS), 1))])
    update_table(tmp_path / "grown.tsv", [SCORED])
    for name in ("q.tsv", "grown.tsv"):
        assert (tmp_path / name).read_text().split("\n")[0].split("\t") == list(COLUMNS)


QUALITY = {
    "estimated_dice": 0.9,
    "low": 0.85,
    "high": 0.95,
    "evidence": "image",
    "flag": "pass",
    "reasons": ("has holes", "touches the lower face of the image"),
    "shape_dice": 0.91,
    "view_dice": None,
    "hd95_mm": 3.5,
    "slice_dice": (0.8, 1.0),
    "lowest_slice_dice": 0.8,
    "volume_ml": 1234.5,
    "components": 2,
    "holes": 3,
    "touches_edge": True,
}


def test_the_numbers_of_a_quality_by_column():
    quality = MaskQuality(**QUALITY, frame=4)
    values = quality_values(quality)
    assert values == {
        "estimated_dice": 0.9,
        "estimated_hd95_mm": 3.5,
        "lowest_slice_dice": 0.8,
        "volume_ml": 1234.5,
        "components": 2,
        "holes": 3,
        "border": 1,
        "frame": 4,
        "estimate_low": 0.85,
        "estimate_high": 0.95,
        "shape_dice": 0.91,
    }
    assert type(values["border"]) is int  # a number in the tables
    assert "frame" not in quality_values(MaskQuality(**QUALITY))
    assert quality_values(MaskQuality(**QUALITY | {"view_dice": 0.8}))["view_dice"] == 0.8


def test_what_speaks_against_a_mask_is_a_cell_and_a_list(tmp_path):
    """The interval, the evidence and the reasons of a mask, in both kinds of table."""
    found = Assessment.of(Case(Path("a.nii")), MaskQuality(**QUALITY), {"dice": 0.875}, (0.0, 0.25))
    for name in ("q.tsv", "q.json"):
        write_table(tmp_path / name, [found])
    (row,) = rows_of(tmp_path / "q.tsv")
    assert (row["estimate_low"], row["estimate_high"], row["evidence"]) == ("0.8500", "0.9500", "image")
    assert row["reasons"] == "has holes; touches the lower face of the image" and row["dice"] == "0.8750"
    assert (row["shape_dice"], row["view_dice"]) == ("0.9100", "")
    record = strict((tmp_path / "q.json").read_text())
    assert record["reasons"] == list(QUALITY["reasons"]) and record["evidence"] == "image"
    assert record["slice_doubt"] == [0, 0.25] and record["slice_dice"] == [0.8, 1]
    assert "view_dice" not in record
    assert found.interval == (0.85, 0.95)
    assert made(estimated_dice=0.9, estimate_low=0.0, estimate_high=1.0).interval is made().interval is None


def test_a_table_without_the_columns_of_later_versions_grows(growing):
    """Its rows keep their place and get empty cells."""
    columns, *rows = (line.split("\t") for line in growing.read_text().splitlines())
    fewer = columns.index("frame")
    growing.write_text("".join("\t".join(cells[:fewer]) + "\n" for cells in (columns, *rows)))
    update_table(growing, [Assessment.of(Case(Path("c.nii")), MaskQuality(**QUALITY))])
    assert growing.read_text().split("\n")[0].split("\t") == list(COLUMNS)
    grown = rows_of(growing)
    assert [row["mask"] for row in grown] == ["b.nii", "a.nii", "c.nii"]
    assert [row["evidence"] for row in grown] == ["", "", "image"]
    assert [case.mask.name for case in read_table(growing)] == ["b.nii", "a.nii", "c.nii"]


def test_tabs_and_lines_within_a_note_do_not_break_the_table(tmp_path):
    path = tmp_path / "q.tsv"
    write_table(path, [made("a", "fail", 'one\ttwo\nthree "four" é'), SCORED])
    lines = path.read_text(encoding="utf-8").split("\n")
    assert len(lines) == 4 and lines[3] == ""
    assert all(line.count("\t") == len(COLUMNS) - 1 for line in lines[:3])
    assert rows_of(path)[0]["note"] == r'one\ttwo\nthree "four" é'


def test_what_is_written_can_be_read_back(tmp_path):
    cases = [Case(Path('a"b.nii'), Path("b c.nii"), Path('"d".nii'), 'a"b'), Case(Path("/e.nii"), name="e")]
    write_table(tmp_path / "q.tsv", [Assessment(case, "pass", {"estimated_dice": 0.9}) for case in cases])
    assert name_cases(read_table(tmp_path / "q.tsv")) == name_cases(cases)


HOSTILE = (
    "=1+1.nii",
    "new\nline\t.nii",
    "c\rr.nii",
    "caf\udce9.nii",
    "'a.nii",
    '"a.nii',
    " a.nii ",
    "b\\n.nii",
    "-x.nii",
)


def test_any_name_can_be_read_back(tmp_path):
    cases = [Case(Path(name), Path(f"i/{name}"), note=f"{name}: damaged") for name in HOSTILE]
    written = [Assessment(case, "fail", {}, note=case.note) for case in cases]
    write_table(tmp_path / "q.tsv", written)
    assert read_table(tmp_path / "q.tsv") == cases
    update_table(tmp_path / "q.tsv", written[:3])
    assert sorted(map(str, read_table(tmp_path / "q.tsv"))) == sorted(map(str, cases))
    text = (tmp_path / "q.tsv").read_text(encoding="utf-8")
    assert len(text.splitlines()) == len(HOSTILE) + 1
    assert not any(cell.startswith(tuple('=+-@"')) for line in text.splitlines() for cell in line.split("\t"))
    write_table(tmp_path / "q.json", written)
    assert strict((tmp_path / "q.json").read_text(encoding="utf-8"))[3]["mask"] == "caf\\xe9.nii"


# Tables that grow


@pytest.fixture
def growing(tmp_path):
    path = tmp_path / "qc.tsv"
    update_table(path, [made("a", estimated_dice=0.5, volume_ml=10.0), made("b", "fail", "b.nii: gone")])
    return path


def test_a_table_that_somebody_opened_grows_too(growing):
    """With line ends of Windows, a mark of UTF-8, and a column of their own, whose cells are kept."""
    lines = growing.read_text().splitlines()
    lines = [f"{line}\t{cell}" for line, cell in zip(lines, ("seen", "", "yes"), strict=True)]
    growing.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    update_table(growing, [made("c", estimated_dice=0.1)])
    rows = rows_of(growing)
    assert [(row["mask"], row["seen"]) for row in rows] == [("b.nii", ""), ("c.nii", ""), ("a.nii", "yes")]
    growing.write_bytes(b"")
    update_table(growing, [made("c", estimated_dice=0.1)])
    assert [row["mask"] for row in rows_of(growing)] == ["c.nii"]


def columns_without(name):
    def change(text):
        header = text.split("\n")[0].split("\t")
        return text.replace(
            "\t".join(header), "\t".join("other" if column == name else column for column in header)
        )

    return change


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda text: text.replace("0.5000", "nan"), "line 3 has 'nan' as estimated_dice, not from 0 to 1"),
        (lambda text: text.replace("0.5000", "7"), "not from 0 to 1"),
        (lambda text: text.replace("0.5000", "half"), "line 3 has 'half' as estimated_dice, not a number"),
        (lambda text: text.replace("10.0000", "10,0"), "line 3 has '10,0' as volume_ml, not a number"),
        (lambda text: text.replace("pass", "good"), "line 3 has the flag 'good', which is none of"),
        (lambda text: text[:-4], r"line 3 has \d+ fields, the header \d+"),
        (lambda text: text.replace("gone\t", "gone "), r"line 2 has \d+ fields"),
        (lambda text: text.replace("a.nii", ""), "line 3 names no mask"),
        (lambda text: "\0" * 5000, "cannot be read as a table"),
        (lambda text: "Dear colleague,\n\nthe table is lost.\n", "line 3 has no column mask"),
        *((columns_without(name), f"no column {name}") for name in ("mask", "flag", "estimated_dice")),
    ],
)
def test_damaged_tables_are_told_before_rows_are_lost(growing, change, why):
    growing.write_text(change(growing.read_text()))
    before = growing.read_bytes()
    for attempt in (lambda: read_growing_table(growing), lambda: update_table(growing, [SCORED])):
        with pytest.raises(OutputError, match=why) as caught:
            attempt()
        assert "repair or remove" in str(caught.value) and str(growing) in str(caught.value)
    assert growing.read_bytes() == before


def test_places_where_no_table_can_grow(tmp_path):
    (tmp_path / "qc.tsv").mkdir()
    with pytest.raises(OutputError, match="is a folder"):
        read_growing_table(tmp_path / "qc.tsv")
    assert read_growing_table(tmp_path / "new.tsv") == {}


def strict(text):
    """JSON without the NaN and Infinity that only Python reads."""

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


def test_json_of_one_and_of_several(tmp_path):
    path = tmp_path / "q.json"
    write_table(path, [SCORED])
    one = strict(path.read_text())
    assert one["estimated_dice"] == 0.98765 and one["mask"] == "a.nii" and one["flag"] == "pass"
    assert (one["components"], one["holes"], one["border"]) == (1, 0, 1)
    assert "image" not in one and "note" not in one
    write_table(path, [SCORED, made("b", "fail", "gone\n\tfor good")])
    several = strict(path.read_text())
    assert several[0] == one
    lists = {"slice_dice": [], "slice_doubt": [], "reasons": []}
    assert several[1] == {"flag": "fail", "mask": "b.nii", "note": "gone\n\tfor good"} | lists


def test_what_is_not_finite_is_null(tmp_path):
    path = tmp_path / "q.json"
    odd = made(estimated_dice=0.0, estimated_hd95_mm=math.inf, hd95_mm=math.nan, slice_dice=(0.123456, 1.0))
    write_table(path, [odd])
    found = strict(path.read_text())
    assert found["estimated_hd95_mm"] is None and found["hd95_mm"] is None
    assert found["estimated_dice"] == 0
    assert found["slice_dice"] == [0.1235, 1.0]
    write_table(tmp_path / "q.tsv", [odd])
    assert rows_of(tmp_path / "q.tsv")[0]["estimated_hd95_mm"] == "inf"


def test_tables_are_checked_before_work(tmp_path):
    check_table(tmp_path / "q.tsv")
    check_table(tmp_path / "q.json")
    for path in (tmp_path / "q.csv", tmp_path / "q"):
        with pytest.raises(OutputError, match=r"\.tsv or \.json"):
            check_table(path)
    with pytest.raises(OutputError, match="does not exist"):
        check_table(tmp_path / "no" / "q.tsv")


def test_a_table_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "q.tsv"
    write_table(path, [SCORED])
    before = path.read_bytes()

    def half(partial, text, **how):
        partial.write_bytes(text[:10].encode())
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_text", half)
    with pytest.raises(OutputError, match=r"q\.tsv.*disk full"):
        write_table(path, [SCORED, SCORED])
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_worst_first():
    scored = [made(name, estimated_dice=value) for name, value in (("c", 0.9), ("a", 0.2), ("b", 0.9), ("d", 0.0))]
    failed = [made("z", "fail", "gone"), made("y", "fail", "gone")]
    assert [a.case.name for a in worst_first(scored + failed)] == ["y", "z", "d", "a", "b", "c"]


# Masks


def test_what_counts_as_mask(tmp_path, caplog):
    values = np.zeros((4, 4, 4), dtype=np.float32)
    values[0, 0, :4] = [2.5, -0.1, np.nan, np.inf]
    values[1, 0, 0] = 2.5
    path = tmp_path / "m.nii"
    nib.save(nib.Nifti1Image(values, np.eye(4)), path)
    _, mask = read_mask(path)
    assert mask.dtype == bool and np.argwhere(mask).tolist() == [[0, 0, 0], [1, 0, 0]]
    assert caplog.messages == [f"{path}: 2 voxels are not finite and count as background"]
    nib.save(nib.Nifti1Image(np.stack([values] * 3, -1), np.eye(4)), path)
    with pytest.raises(InputError, match=r"m\.nii: has 3 frames"):
        read_mask(path)
    _, masks = read_masks(path)
    assert masks.shape == (4, 4, 4, 3) and (masks == mask[..., None]).all()
    nib.save(nib.Nifti1Image(values[..., None], np.eye(4)), path)  # one frame, told of in the header
    assert read_mask(path)[1].shape == (4, 4, 4)


def test_scaling_in_the_header_counts(tmp_path):
    """A stored 0 that means 5 is brain."""
    image = nib.Nifti1Image(np.array([[[0, -5]]], dtype=np.int16), np.eye(4))
    image.header.set_slope_inter(1, 5)
    nib.save(image, tmp_path / "m.nii")
    assert read_mask(tmp_path / "m.nii")[1].tolist() == [[[True, False]]]


# Assessing


def test_masks_are_scored_and_sorted(model, masks):
    seen = []
    found = assess_files(
        Assessor(model),
        [Case(path) for path in masks.values()],
        lambda number, a: seen.append((number, a.case.name)),
    )
    assert seen == [(1, "good"), (2, "small"), (3, "half")]
    assert [a.case.name for a in found] == ["half", "small", "good"]
    assert [a.flag for a in found] == ["fail", "fail", "look"]
    good, small = found[2], found[1]
    assert good.estimated_dice > 0.95  # whole voxels against parts of them
    assert small.estimated_dice == pytest.approx(2 * 40**3 / (40**3 + 48**3), abs=0.03)
    expected = model.assess(ball(48), VOX2WORLD)
    assert good.values == quality_values(expected)
    assert good.slice_dice == expected.slice_dice and good.note == ""


def test_a_broken_mask_does_not_stop_the_others(model, masks, broken, tmp_path):
    paths = [broken, tmp_path / "gone.nii", *masks.values()]
    found = assess_files(Assessor(model), [Case(path) for path in paths])
    assert [a.case.name for a in found] == ["broken", "gone", "half", "small", "good"]
    for a, path in zip(found, paths, strict=False):
        if a.note:
            assert (a.flag, a.values, a.estimated_dice) == ("fail", {}, -1.0)
            assert str(path) in a.note
    assert [bool(a.note) for a in found] == [True, True, False, False, False]
    with pytest.raises(InputError, match="broken"):
        assess_files(Assessor(model), [Case(path) for path in paths], debug=True)


def test_a_fault_of_the_program_names_the_mask(model, masks, monkeypatch):
    def fault(*args):
        raise ZeroDivisionError("odd")

    monkeypatch.setattr(model, "measure", fault)
    (found,) = assess_files(Assessor(model), [Case(masks["good"])])
    assert str(masks["good"]) in found.note and "ZeroDivisionError: odd" in found.note
    with pytest.raises(ZeroDivisionError):
        assess_files(Assessor(model), [Case(masks["good"])], debug=True)


@pytest.mark.parametrize("role", ["image", "reference"])
def test_what_lies_on_another_grid_is_a_failure(model, masks, tmp_path, role):
    aside = VOX2WORLD.copy()
    aside[0, 3] = 1
    others = [
        save(tmp_path / "aside.nii", ball(48), aside),
        save(tmp_path / "short.nii", ball(48)[1:]),
        tmp_path / "gone.nii",
    ]
    for other, why in zip(others, ("not on the grid", "", "no such file"), strict=True):
        cases = [Case(masks["good"], **{role: other}), Case(masks["small"])]
        found = assess_files(Assessor(model), cases)
        assert [a.case.name for a in found] == ["good", "small"]
        assert str(other) in found[0].note and why in found[0].note and found[0].values == {}
        assert found[1].note == "" and found[1].values


def test_an_empty_mask_is_scored_0(model, tmp_path):
    (found,) = assess_files(Assessor(model), [Case(save(tmp_path / "m.nii", np.zeros(SHAPE)))])
    assert (found.flag, found.estimated_dice, found.note) == ("fail", 0.0, "")
    assert found.record()["estimated_hd95_mm"] is None


def test_a_reference_gives_the_true_dice(model, tmp_path):
    """Boxes of 10·10·10 and 10·10·5 voxels, one within the other: 2·500 / 1500; the other way round too."""
    large, small = np.zeros(SHAPE), np.zeros(SHAPE)
    large[10:20, 10:20, 10:20] = 1
    small[10:20, 10:20, 10:15] = 1
    a, b = save(tmp_path / "a.nii", large), save(tmp_path / "b.nii", small)
    for mask, reference in ((a, b), (b, a)):
        (found,) = assess_files(Assessor(model), [Case(mask, reference=reference)])
        assert found.values["dice"] == pytest.approx(2 / 3)
        assert found.values["hd95_mm"] == pytest.approx(20)  # five voxels of 4 mm
    (found,) = assess_files(Assessor(model), [Case(a, reference=save(tmp_path / "c.nii", large))])
    assert (found.values["dice"], found.values["hd95_mm"]) == (1, 0)
    (found,) = assess_files(Assessor(model), [Case(a)])
    assert "dice" not in found.values and found.row()["dice"] == ""


@pytest.fixture
def frames(tmp_path):
    """A mask of three frames, of which the one in the middle is half; the frames apart."""
    half = ball(48)
    half[16:] = False
    parts = [ball(48), half, ball(40)]
    alone = [save(tmp_path / f"frame{t}.nii", part) for t, part in enumerate(parts)]
    return save(tmp_path / "frames.nii", np.stack(parts, -1)), alone


def test_of_several_frames_the_worst_counts(model, frames):
    mask, alone = frames
    (found,) = assess_files(Assessor(model), [Case(mask)])
    (worst,) = assess_files(Assessor(model), [Case(alone[1])])
    assert found.values == worst.values | {"frame": 1} and found.slice_dice == worst.slice_dice
    assert found.flag == worst.flag == "fail" and not found.note
    assert (found.row()["frame"], worst.row()["frame"]) == ("1", "")
    assert found.record()["frame"] == 1


def test_references_of_frames(model, frames, tmp_path):
    """One for all of them, or one for each; what goes with none of them is a failure."""
    mask, alone = frames
    for reference in (alone[2], save(tmp_path / "each.nii", np.stack([ball(30), ball(40), ball(20)], -1))):
        (found,) = assess_files(Assessor(model), [Case(mask, reference=reference)])
        (worst,) = assess_files(Assessor(model), [Case(alone[1], reference=alone[2])])
        assert found.values == worst.values | {"frame": 1}
    two = save(tmp_path / "two.nii", np.stack([ball(30)] * 2, -1))
    for case in (Case(mask, reference=two), Case(mask, two), Case(alone[0], reference=two)):
        (found,) = assess_files(Assessor(model), [case])
        assert found.flag == "fail" and "two.nii: has 2 frames" in found.note


def test_pictures_and_augmentation_are_of_the_worst_frame(model, frames, tmp_path, phantom_stripper):
    mask, alone = frames
    noise = np.random.default_rng(0).integers(0, 100, SHAPE)
    shown = [save(tmp_path / f"i{t}.nii", 1000 * ball(r) + noise) for t, r in enumerate((48, 40, 30))]
    series = save(tmp_path / "series.nii", np.stack([nib.load(path).get_fdata() for path in shown], -1))
    found = []
    for name, case in (
        ("all", Case(mask, series)),
        ("one", Case(alone[1], shown[1])),
        ("still", Case(mask, shown[0])),
        ("first", Case(alone[1], series)),  # one mask for all frames: the first is shown, the mean augmented
    ):
        folder = tmp_path / name
        (assessed,) = assess_files(Assessor(model, augmenter=phantom_stripper, report_folder=folder), [case])
        assert not assessed.note, assessed.note
        (picture,) = (folder / "pictures").iterdir()
        found.append(({k: v for k, v in assessed.values.items() if k != "frame"}, picture.read_bytes()))
    every, one, still, first = found
    assert every == one and still[1] == first[1] != one[1]
    of_mask, of_first = ({k: v for k, v in values.items() if "tta" not in k} for values, _ in (still, first))
    assert of_mask == of_first
    assert still[0]["tta_mask_dice"] not in (every[0]["tta_mask_dice"], first[0]["tta_mask_dice"])


def test_soft_masks_and_references_are_cut_and_said(model, tmp_path, caplog):
    soft = save(tmp_path / "soft.nii", np.round(gaussian_filter(ball(48).astype(float), 1) * 100))
    hard = save(tmp_path / "hard.nii", nib.load(soft).get_fdata() >= 50)
    found = assess_files(Assessor(model), [Case(soft, reference=hard), Case(hard, reference=soft)])
    assert [a.values["dice"] for a in found] == [1, 1] and found[0].values == found[1].values
    said = caplog.messages
    assert len(said) == 2 and all("soft.nii" in text and "brain from 50 on" in text for text in said)


def test_remarks_on_the_image_of_a_mask_are_said(model, masks, tmp_path, caplog):
    image = tmp_path / "image.nii.gz"
    image.write_bytes(masks["good"].read_bytes() + b"garbage")
    assess_files(Assessor(model), [Case(masks["good"], image)])
    assert len(caplog.messages) == 1 and caplog.messages[0].startswith(f"{image}: bytes that are not gzip data")


def test_a_label_map_is_not_scored(model, masks, tmp_path):
    labels = save(tmp_path / "labels.nii", ball(48) + 2 * ball(40))
    found = assess_files(Assessor(model), [Case(labels), Case(masks["good"], reference=labels)])
    assert all("labels.nii" in a.note and "label map" in a.note and a.flag == "fail" for a in found)


def test_augmentation_needs_an_image(model, masks, phantom_stripper):
    (found,) = assess_files(Assessor(model, augmenter=phantom_stripper), [Case(masks["good"])])
    assert str(masks["good"]) in found.note and "image" in found.note
    assert found.flag == "fail"


def test_augmentation(model, tmp_path, phantom_stripper):
    """Of an image whose brain every copy finds, and whose file holds half of it as mask."""
    truth = ball(32)
    half = truth.copy()
    half[16:] = False
    at = (np.moveaxis(np.indices(SHAPE), 0, -1) - 15.5) * 4
    noise = np.random.default_rng(0).integers(-100, 100, SHAPE)
    soft = 1000 * np.clip(0.5 + (32 - np.linalg.norm(at, axis=-1)) / 20, 0, 1) + noise
    image = save(tmp_path / "image.nii", soft)
    cases = [
        Case(save(tmp_path / "whole.nii", truth), image),
        Case(save(tmp_path / "half.nii", half), image),
    ]
    found = {a.case.name: a.values for a in assess_files(Assessor(model, augmenter=phantom_stripper), cases)}
    for values in found.values():
        assert 0.85 < values["tta_dice"] <= 1
    assert found["whole"]["tta_dice"] == found["half"]["tta_dice"]
    assert found["whole"]["tta_mask_dice"] > 0.9
    assert found["half"]["tta_mask_dice"] == pytest.approx(dice(half, truth), abs=0.06)  # 2/3
    again = assess_files(Assessor(model, augmenter=phantom_stripper), cases[:1])[0]
    assert again.values == found["whole"]
    other = assess_files(Assessor(model, augmenter=phantom_stripper, seed=1), cases[:1])[0]
    assert other.values["tta_dice"] != again.values["tta_dice"]
    assert other.values["estimated_dice"] == again.values["estimated_dice"]


# The page


def page_data(page):
    html = page.read_text(encoding="utf-8")
    start = html.index('<script type="application/json" id="data">')
    return json.loads(html[html.index(">", start) + 1 : html.index("</script", start)])


def test_a_page_and_its_pictures(model, masks, broken, tmp_path):
    folder = tmp_path / "new" / "report"
    image = save(tmp_path / "image.nii", np.arange(32**3).reshape(SHAPE))
    cases = [Case(masks["good"], image, masks["small"]), Case(masks["half"]), Case(broken)]
    found = assess_files(Assessor(model, report_folder=folder), cases)
    page = write_report(folder, found, "a title", "about it")
    assert page == folder / "index.html"
    assert sorted(p.name for p in (folder / "pictures").iterdir()) == ["good.png", "half.png"]
    assert all(p.read_bytes().startswith(PNG) for p in (folder / "pictures").iterdir())
    data = page_data(page)
    assert (data["title"], data["about"]) == ("a title", "about it")
    assert [(s["name"], s["flag"]) for s in data["scans"]] == [
        ("broken", "fail"),
        ("half", "fail"),
        ("good", "look"),
    ]
    assert [s["picture"] for s in data["scans"]] == [None, "pictures/half.png", "pictures/good.png"]
    assert [s["estimated_dice"] for s in data["scans"]] == [None, *(a.estimated_dice for a in found[1:])]
    assert data["scans"][0]["note"] == found[0].note and set(data["scans"][0]["numbers"]) == {""}
    numbers = dict(zip(data["columns"], data["scans"][2]["numbers"], strict=True))
    assert numbers["true Dice"] == f"{dice(ball(48), ball(40)):.3f}"
    assert (numbers["parts"], numbers["holes"], numbers["at border"]) == ("1", "0", "0")
    assert float(numbers["volume ml"]) == pytest.approx(np.count_nonzero(ball(48)) * 0.064, abs=0.5)
    assert "TTA Dice" not in numbers


def test_the_picture_shows_the_slices_of_most_doubt(monkeypatch, tmp_path):
    """Above, planes through the place of most doubt; below, slices by their number in the file, which counts from
    the top down and whose axes are in another order."""
    at = np.indices((20, 24, 28))
    inside = (np.abs(at - np.array([10, 12, 14]).reshape(3, 1, 1, 1)) < 6).all(0)
    doubt = np.zeros(inside.shape, dtype=np.float32)
    doubt[11, 10:14, 10:14] = 1
    vox2world = np.array([[0, 0, 2, 0], [0, -2, 0, 0], [-2, 0, 0, 0], [0, 0, 0, 1.0]])
    scan, slices = Scan(at[0].astype(np.float32), vox2world), [(11, 0.5), (4, 0.1)]
    view = figures.QualityView(scan, inside, inside, doubt, np.array([11, 12, 12]), 0, slices)
    drawn = []
    monkeypatch.setattr(figures, "_save", lambda figure, path: drawn.append(figure))
    figures.quality_figure(view, tmp_path / "p.png")
    above, below = (part.axes for part in drawn[0].subfigs)
    assert [axis.get_title() for axis in above] == ["axial 11", "coronal 12", "sagittal 12"]
    assert [axis.get_title() for axis in below] == ["slice 11: doubt 0.50", "slice 4: doubt 0.10", "", ""]
    assert {np.unique(axis.images[0].get_array()).tolist()[0] for axis in (above[0], below[0])} == {11}
    assert np.unique(below[1].images[0].get_array()).tolist() == [4] and not below[2].images
    overlay = above[0].images[1].get_array()
    assert np.count_nonzero(overlay[..., 3]) == 16 and not below[1].images[1].get_array().any()
    coronal = above[1].images[0].get_array()
    assert coronal[0, 0] > coronal[-1, 0]  # up is up


def test_reasons_of_one_kind_share_their_words():
    faces = ("lower face", "left and upper faces", "right face")
    groups = {group_of(f"touches the {each} of the image") for each in faces}
    assert groups == {"touches a face of the image"}
    assert group_of("12 % of it is dark") == group_of("7.5 % of it is dark") == "… of it is dark"
    small = "brain of {} ml, smaller than any that this model is for ({} to 2000 ml)"
    assert group_of(small.format(80, 900)) == "brain of …, smaller than any that this model is for"


def test_a_page_of_failures_alone(model, broken, tmp_path):
    folder = tmp_path / "report"
    found = assess_files(Assessor(model, report_folder=folder), [Case(broken)])
    data = page_data(write_report(folder, found, "t", ""))
    assert [(s["picture"], s["numbers"]) for s in data["scans"]] == [(None, [])]


def test_pictures_of_equal_names_are_apart(model, tmp_path):
    """Each under its folders, so that names with the same letters in other folders do not meet."""
    folder = tmp_path / "report"
    radii = {"a_b/c.nii": 48, "a/b_c.nii": 40, "c.nii": 30}
    cases = [Case(save(tmp_path / "p" / name, ball(radius))) for name, radius in radii.items()]
    found = assess_files(Assessor(model, report_folder=folder), cases)
    scans = page_data(write_report(folder, found, "t", ""))["scans"]
    assert {s["name"]: s["picture"] for s in scans} == {
        name: f"pictures/{name}.png" for name in ("a_b/c", "a/b_c", "c")
    }
    contents = {(folder / s["picture"]).read_bytes() for s in scans}
    assert len(contents) == 3 and all(content.startswith(PNG) for content in contents)


def test_an_empty_mask_has_a_page_too(model, tmp_path):
    folder = tmp_path / "report"
    case = Case(save(tmp_path / "m.nii", np.zeros(SHAPE)))
    data = page_data(write_report(folder, assess_files(Assessor(model, report_folder=folder), [case]), "t", ""))
    assert data["scans"][0]["estimated_dice"] == 0 and data["scans"][0]["picture"] == "pictures/m.png"


def test_a_report_folder_that_cannot_be_made(model, masks, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be made"):
        assess_files(Assessor(model, report_folder=tmp_path / "file"), [Case(masks["good"])])
