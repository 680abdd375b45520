"""GMM classes: known mixtures are found again, and what cannot be fitted is said in a sentence."""

import json
from dataclasses import asdict, replace

import nibabel as nib
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from singlestrip.configuration import GMMConfig
from singlestrip.errors import InputError, OutputError
from singlestrip.io.images.pairs import read_pair
from singlestrip.synthesis import gmm, labelling

SHAPE = (20, 20, 12)
INSIDE, OUTSIDE = (50.0, 80.0, 120.0), (5.0, 200.0)
CONFIG = GMMConfig(inside=3, outside=2, seed=4)


def head(seed=0):
    """Image, mask, and the class every voxel was drawn from; classes lie 15 deviations apart."""
    rng = np.random.default_rng(seed)
    mask = np.zeros(SHAPE, dtype=bool)
    mask[5:15, 5:15, 2:10] = True
    truth = np.where(mask, rng.choice(3, SHAPE, p=(0.5, 0.3, 0.2)) + 101, rng.choice(2, SHAPE, p=(0.8, 0.2)) + 1)
    means = np.zeros(104)
    means[101:], means[1:3] = INSIDE, OUTSIDE
    return (means[truth] + rng.normal(0, 2, SHAPE)).astype(np.float32), mask, truth


def save(path, data, affine=None):
    nib.Nifti1Image(data, np.diag([2, 2, 3, 1]) if affine is None else affine).to_filename(path)
    return path


@pytest.fixture
def pair(tmp_path):
    image, mask, _ = head()
    return save(tmp_path / "head.nii.gz", image), save(tmp_path / "mask.nii.gz", mask.astype(np.uint8))


def test_separate_classes_are_found():
    image, mask, truth = head()
    labels, record = gmm.fit_label_map(image, mask, CONFIG)
    assert labels.dtype == np.uint8
    np.testing.assert_array_equal(labels, truth)
    np.testing.assert_array_equal(gmm.is_inside(labels), mask)
    for side, means, base in (("inside", INSIDE, 100), ("outside", OUTSIDE, 0)):
        counts = np.bincount(truth[truth > 100] - 101 if base else truth[truth < 100] - 1)
        assert record[side]["label"] == list(range(base + 1, base + 1 + len(means)))
        assert record[side]["count"] == counts.tolist()
        np.testing.assert_allclose(record[side]["mean"], means, atol=0.3)
        np.testing.assert_allclose(record[side]["standard_deviation"], 2, atol=0.3)
        np.testing.assert_allclose(record[side]["weight"], counts / counts.sum(), atol=0.01)
        assert record[side]["converged"]
    assert record["seed"] == 4


def test_classes_are_sorted_by_mean():
    """Overlapping classes too: many more than there are."""
    image, mask, _ = head()
    labels, record = gmm.fit_label_map(image, mask, GMMConfig(inside=7, outside=5))
    for side in ("inside", "outside"):
        assert record[side]["mean"] == sorted(record[side]["mean"])
        assert sum(record[side]["count"]) == (mask if side == "inside" else ~mask).sum()
    assert set(np.unique(labels)) <= {*range(1, 6), *range(101, 108)}


def test_the_same_seed_gives_the_same_map():
    image, mask, _ = head()
    config = GMMConfig(inside=4, outside=3, seed=1, sample=500)  # fewer than there are: a random part
    first, second = (gmm.fit_label_map(image, mask, config) for _ in range(2))
    np.testing.assert_array_equal(first[0], second[0])
    assert first[1] == second[1]
    other = gmm.fit_label_map(image, mask, GMMConfig(inside=4, outside=3, seed=2, sample=500))
    assert other[1]["inside"]["mean"] != first[1]["inside"]["mean"]


@pytest.mark.parametrize("scale, shift", [(1e-4, 0), (1e4, 0), (1, 3000), (0.01, -7), (1e-30, 0), (1e35, 0)])
def test_scale_and_shift_do_not_matter(scale, shift):
    """Also of values whose squares single precision does not hold."""
    image, mask, truth = head()
    labels, record = gmm.fit_label_map(image * scale + shift, mask, CONFIG)
    np.testing.assert_allclose(
        gmm.levels_of(record), gmm.levels_of(gmm.fit_label_map(image, mask, CONFIG)[1]), atol=0.01
    )
    np.testing.assert_array_equal(labels, truth)
    np.testing.assert_allclose(record["inside"]["mean"], np.multiply(INSIDE, scale) + shift, atol=0.5 * scale)


@pytest.mark.filterwarnings("ignore:Best performing initialization")
@pytest.mark.parametrize("change", [{"iterations": 1}, {"tolerance": 10.0}])
def test_the_fit_goes_on_as_long_as_it_is_told(change):
    image, mask, _ = head()
    config = GMMConfig(inside=7, outside=5)
    short = gmm.fit_label_map(image, mask, replace(config, **change))[1]
    assert short["inside"]["mean"] != gmm.fit_label_map(image, mask, config)[1]["inside"]["mean"]


def test_the_fewest_voxels_of_a_class_can_be_set():
    image, mask, config = broken("few voxels")
    labels, _ = gmm.fit_label_map(image, mask, replace(config, voxels_per_class=9))
    np.testing.assert_array_equal(gmm.is_inside(labels), mask)


def test_voxels_that_are_not_finite_count_as_the_lowest():
    image, mask, _ = head()
    lowest = image.copy()
    image[0, :5], image[10, 10, 5] = np.nan, np.inf
    bad = ~np.isfinite(image)
    lowest[bad] = lowest[~bad].min()
    labels, record = gmm.fit_label_map(image, mask, CONFIG)
    expected, expected_record = gmm.fit_label_map(lowest, mask, CONFIG)
    np.testing.assert_array_equal(labels, expected)
    assert record == expected_record


def broken(name):
    image, mask, _ = head()
    config = CONFIG
    if name == "shape":
        mask = mask[1:]
    elif name == "empty":
        mask[:] = False
    elif name == "full":
        mask[:] = True
    elif name == "constant":
        image[mask] = 7
    elif name == "few voxels":
        mask[:] = False
        mask[:29, 0, 0] = True
        mask[0, :9, 0] = True
    elif name == "few intensities":
        image[mask] = np.round(image[mask] / 100)
    elif name == "not finite":
        image[:] = np.nan
    elif name == "no classes":
        config = GMMConfig(inside=0)
    elif name == "many classes":
        config = GMMConfig(outside=91)
    return image, mask, config


@pytest.mark.parametrize(
    "name, sentence",
    [
        ("shape", "differ in shape"),
        ("empty", "mask is empty"),
        ("full", "covers the whole image"),
        ("constant", "constant inside the brain mask"),
        ("few voxels", r"only 28 voxels inside the brain mask: too few for 3 classes"),
        ("few intensities", "only 2 different intensities inside the brain mask: too few for 3 classes"),
        ("not finite", "no finite voxel"),
        ("no classes", "0 classes inside: choose from 1"),
        ("many classes", "91 classes outside: choose from 1"),
    ],
)
def test_what_cannot_be_fitted(name, sentence):
    with pytest.raises(InputError, match=sentence):
        gmm.fit_label_map(*broken(name))


def test_levels_place_each_class_between_the_ends_of_the_scan():
    image, mask, _ = head()
    _, record = gmm.fit_label_map(image, mask, CONFIG)
    levels = gmm.levels_of(record)
    low, high = image.min(), np.percentile(image, 99.5)
    for label, mean in zip((101, 102, 103, 1, 2), (*INSIDE, *OUTSIDE), strict=True):
        assert levels[label] == pytest.approx(min(1, (mean - low) / (high - low)), abs=0.01)
    assert not levels[[0, 3, 100, 104, 255]].any()


@pytest.fixture
def record_of(pair, tmp_path):
    """A label map, and the path of the record beside it."""
    labelling.fit_files(*pair, tmp_path / "labels.nii.gz", CONFIG)
    return tmp_path / "labels.nii.gz", tmp_path / "labels.json"


@pytest.mark.parametrize("text", [None, '{"LabelMap": {"1": "air"}, "Sources": []}'])
def test_a_label_map_of_another_program_has_no_levels_which_is_said(record_of, text, caplog):
    out, record = record_of
    labelling.read_label_map(out)
    assert not caplog.messages
    record.unlink()
    if text is not None:
        record.write_text(text)
    assert labelling.read_label_map(out).levels is None
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith(f"{out}: no record of its fit lies beside it (labels.json): images")


def test_remarks_on_a_label_map_are_said(record_of, caplog):
    out, _ = record_of
    out.write_bytes(out.read_bytes() + b"garbage")
    labelling.read_label_map(out)
    assert len(caplog.messages) == 1 and caplog.messages[0].startswith(f"{out}: bytes that are not gzip data")


def test_fields_beside_those_that_levels_need_may_change(record_of):
    out, path = record_of
    levels = labelling.read_label_map(out).levels
    path.write_text(json.dumps(json.loads(path.read_text()) | {"seed": "none", "more": [1]}))
    np.testing.assert_array_equal(labelling.read_label_map(out).levels, levels)


def inside(**values):
    return lambda record: record["inside"].update(values)


DAMAGE = [
    inside(mean=[1.0, 2.0]),
    inside(mean=[1.0, 2.0, None]),
    inside(mean=[1.0, 2.0, "3"]),
    inside(mean=[1.0, 2.0, 1e300]),
    inside(mean=[1.0, 2.0, float("nan")]),
    inside(mean=5),
    inside(mean=None),
    inside(label=[101, 102, 256]),
    inside(label=[101, 102, -1]),
    inside(label=[101, 102, 10**30]),
    inside(label=[101, 102, 102]),
    inside(label=[101, 102, 103.5]),
    inside(label=[1, 2, 3]),
    inside(label=[101] * 100_000),
    inside(label=[], mean=[]),
    inside(label={"101": 1}),
    lambda record: record.update(intensity_range=[200, 0]),
    lambda record: record.update(intensity_range=[0]),
    lambda record: record.update(intensity_range=3),
    lambda record: record.update(intensity_range=["0", "1"]),
    lambda record: record.update(intensity_range=[0, float("inf")]),
    lambda record: record.update(inside=None),
    lambda record: record.pop("outside"),
]


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_record_is_said(record_of, damage):
    out, path = record_of
    record = json.loads(path.read_text())
    damage(record)
    path.write_text(json.dumps(record))
    with pytest.raises(InputError, match=rf"{path}: the record of labels\.nii\.gz is damaged .*fit-gmm"):
        labelling.read_label_map(out)


@pytest.mark.parametrize(
    "data",
    [b"", b"{}", b"[]", b"5", b"null", b"no JSON", b"\xff\xfe", b"[" * 100_000, b'{"inside": 1', bytes(2**20 + 1)],
)
def test_a_record_of_other_things_is_said(record_of, data):
    out, path = record_of
    path.write_bytes(data)
    with pytest.raises(InputError, match=rf"{path}: the record .* is damaged"):
        labelling.read_label_map(out)


def test_a_folder_in_place_of_a_record_is_said(record_of):
    out, path = record_of
    path.unlink()
    path.mkdir()
    with pytest.raises(InputError, match="a folder, not a text file"):
        labelling.read_label_map(out)


def test_a_record_of_another_label_map_is_said(record_of):
    out, path = record_of
    record = json.loads(path.read_text())
    for part in record["inside"].values():
        if isinstance(part, list):
            part.pop()
    path.write_text(json.dumps(record))
    with pytest.raises(InputError, match=r"another label map \(no label 103 in it\)"):
        labelling.read_label_map(out)


def test_files(pair, tmp_path):
    out, figure = tmp_path / "labels.nii.gz", tmp_path / "labels.png"
    labelling.fit_files(*pair, out, CONFIG, figure)
    found = labelling.read_label_map(out)
    np.testing.assert_array_equal(found.labels, head()[2])
    np.testing.assert_array_equal(found.vox2world, np.diag([2, 2, 3, 1]))
    np.testing.assert_array_equal(found.levels, labelling.labelled_example(*pair, CONFIG)[0].levels)
    record = json.loads((tmp_path / "labels.json").read_text())
    assert record["configuration"] == asdict(CONFIG)
    assert record["image"]["name"] == "head.nii.gz" and len(record["mask"]["sha256"]) == 64
    assert record["image"]["sha256"] != record["mask"]["sha256"]
    assert set(record["versions"]) == {"singlestrip", "scikit-learn", "numpy"}
    assert figure.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "out, figure",
    [
        ("labels.txt", None),
        ("no/labels.nii", None),
        ("l.nii", "l.doc"),
        ("l.nii", "no/l.png"),
        ("l.nii", f"{'l' * 252}.png"),
        (f"{'l' * 251}.nii", None),
        ("folder.nii", None),
        ("folder.nii.gz", None),
        ("l.nii", "folder.png"),
    ],
)
def test_outputs_are_checked_first(pair, tmp_path, out, figure, monkeypatch):
    for name in ("folder.nii", "folder.json", "folder.png"):
        (tmp_path / name).mkdir()
    before = sorted(tmp_path.iterdir())
    monkeypatch.setattr(labelling, "read_pair", lambda *arguments: pytest.fail("too late"))
    with pytest.raises(OutputError):
        labelling.fit_files(*pair, tmp_path / out, CONFIG, figure and tmp_path / figure)
    assert sorted(tmp_path.iterdir()) == before


def test_classes_are_checked_first(pair, tmp_path, monkeypatch):
    monkeypatch.setattr(labelling, "read_pair", lambda *arguments: pytest.fail("too late"))
    with pytest.raises(InputError, match="91 classes inside"):
        labelling.fit_files(*pair, tmp_path / "labels.nii", GMMConfig(inside=91))


def test_errors_name_the_files(pair, tmp_path):
    image, mask, _ = head()
    moved = save(tmp_path / "moved.nii.gz", mask.astype(np.uint8), np.diag([2, 2, 2, 1]))
    with pytest.raises(InputError, match=r"moved.nii.gz: not on the grid of .*head.nii.gz: .* up to 11.5 mm"):
        read_pair(pair[0], moved)
    bright = save(tmp_path / "bright.nii.gz", np.where(image > np.median(image), np.inf, image).astype("f4"))
    with pytest.raises(InputError, match=r"bright.nii.gz: [0-9.]+ % of the voxels are infinite"):
        labelling.fit_files(bright, pair[1], tmp_path / "labels.nii.gz", CONFIG)
    frames = save(tmp_path / "frames.nii.gz", np.stack([image] * 2, -1))
    with pytest.raises(InputError, match=r"frames.nii.gz: has 2 frames"):
        read_pair(frames, pair[1])
    empty = save(tmp_path / "empty.nii.gz", np.zeros(SHAPE, np.uint8))
    with pytest.raises(InputError, match=r"head.nii.gz, .*empty.nii.gz: the brain mask is empty"):
        labelling.labelled_example(pair[0], empty, CONFIG)


def test_a_soft_mask_is_cut_and_said(pair, tmp_path, caplog):
    """Its rim would double the brain; the labels inside are those of the mask that it was made from, or nearly."""
    mask = head()[1]
    soft = np.round(gaussian_filter(mask.astype(np.float32), 1) * 100).astype(np.uint8)
    path = save(tmp_path / "soft.nii", soft)
    example, scan = labelling.labelled_example(pair[0], path, CONFIG)
    np.testing.assert_array_equal(scan.mask, soft >= soft.max() / 2)
    np.testing.assert_array_equal(gmm.is_inside(example.labels), scan.mask)
    assert scan.mask.mean() < 1.05 * mask.mean() and (soft > 0).mean() > 1.9 * mask.mean()
    np.testing.assert_array_equal(labelling.labelled_scan(pair[0], path).mask, scan.mask)
    labelling.fit_files(pair[0], path, tmp_path / "labels.nii", CONFIG)
    assert len(caplog.messages) == 3 and len(set(caplog.messages)) == 1
    assert f"{path}: " in caplog.messages[0] and "soft mask" in caplog.messages[0]


@pytest.mark.parametrize("name, sentence", [("labels", "a label map"), ("sdt", "signed distance")])
def test_what_is_no_mask_is_not_fitted(pair, tmp_path, name, sentence):
    values = head()[2] if name == "labels" else np.where(head()[1], -3.0, 5.0)
    path = save(tmp_path / f"{name}.nii", values.astype(np.float32))
    with pytest.raises(InputError, match=f"{name}.nii: .*{sentence}"):
        labelling.fit_files(pair[0], path, tmp_path / "out.nii", CONFIG)
    assert not (tmp_path / "out.nii").exists()


@pytest.mark.parametrize(
    "values, sentence",
    [
        ([0.5, 101], "whole numbers"),
        ([np.nan, 101], "whole numbers"),
        ([-1, 101], "-1 to 101"),
        ([1, 300], "1 to 300"),
        ([1, 2], "both sides"),
        ([101, 102], "both sides"),
        ([0, 101], "both sides"),
    ],
)
def test_label_maps_that_are_none(tmp_path, values, sentence):
    path = save(tmp_path / "map.nii", np.resize(np.array(values, np.float32), (4, 4, 4)))
    with pytest.raises(InputError, match=f"map.nii: .*{sentence}"):
        labelling.read_label_map(path)


def test_label_map_of_frames(tmp_path):
    with pytest.raises(InputError, match="not a label map"):
        labelling.read_label_map(save(tmp_path / "m.nii", np.resize(np.array([1, 101], np.uint8), (4, 4, 4, 2))))
