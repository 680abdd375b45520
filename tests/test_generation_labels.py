"""Label maps of other programs: which labels are brain, and the classes that images are made of."""

import json
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from phantoms import AIR, BRAIN, SCALP, SKULL, make_head
from scipy import ndimage

from singlestrip.cli.commands import train as train_command
from singlestrip.cli.main import main
from singlestrip.configuration import INSIDE_BASE, GenerationConfig
from singlestrip.errors import BrainLabelsError, InputError, LabelNamesError
from singlestrip.io.text.label_table import read_label_table
from singlestrip.synthesis.brain_labels import labels_meant
from singlestrip.synthesis.generation_labels import generation_labels
from singlestrip.synthesis.generation_maps import read_generation_maps
from singlestrip.synthesis.gmm import is_inside
from singlestrip.synthesis.label_groups import group_labels
from singlestrip.synthesis.streams import RandomStreams
from singlestrip.training import cascade as cascade_training

CONFIG = GenerationConfig()
STREAMS = RandomStreams((0, 0))
# Labels as another program may have them.
OTHER = {AIR: 0, SKULL: 7, SCALP: 1001, BRAIN[0]: 14175, BRAIN[1]: 3, BRAIN[2]: 12}
IS_BRAIN = (3, 12, 14175)
FREESURFER = """\
# No. Name          R G B A
0   Unknown         0 0 0 0

3   Cortex          205 62 78 0
12  Left-Putamen    236 13 176 0
7   Skull           1 2 3 0
1001 Scalp          9 9 9 0
14175 wm_rh_S_temporal_transverse 221 60 60 0
"""
BIDS = "index\tname\tcolor\n0\tBackground\t#000000\n3\tCortex\t#111111\n12\tLeft putamen\tn/a\n14175\tWhite\tn/a\n"


@pytest.fixture(scope="module")
def head():
    return make_head(32)


@pytest.fixture(scope="module")
def values(head):
    return np.vectorize(OTHER.get)(head.labels)


def make(values, brain, vox2world, image=None, streams=STREAMS, config=CONFIG):
    """The classes of a map, each of which has voxels of its own labels alone, and of all of them on its side."""
    made = generation_labels(values, brain, vox2world, config, streams, image)
    labels = made.map.labels
    assert labels.dtype == np.uint8 and set(np.unique(labels)) == set(made.labels)
    for label, of in made.labels.items():
        assert set(np.unique(values[labels == label])) <= set(of)
    inside = [label for label in made.labels if label > INSIDE_BASE]
    assert sorted(inside) == list(range(INSIDE_BASE + 1, INSIDE_BASE + 1 + len(inside)))
    assert sorted(set(made.labels) - set(inside)) == list(range(1, 1 + len(made.labels) - len(inside)))
    return made


def count_sides(made):
    """Number of classes inside and outside."""
    inside = sum(label > INSIDE_BASE for label in made.labels)
    return inside, len(made.labels) - inside


def test_brain_is_what_is_said_and_air_is_the_first_class(head, values):
    made = make(values, IS_BRAIN, head.vox2world)
    np.testing.assert_array_equal(is_inside(made.map.labels), head.mask)
    np.testing.assert_array_equal(made.map.labels == 1, values == 0)
    assert made.map.levels is None and made.remarks == ()
    assert made.map.vox2world is head.vox2world


def test_large_labels_are_parted(head, values):
    made = make(values, IS_BRAIN, head.vox2world)
    parts = {label: sum(label in of for of in made.labels.values()) for label in OTHER.values()}
    # Skull and scalp are the tissue outside, of which air is no part.
    share = np.count_nonzero(values == 1001) / np.isin(values, (7, 1001)).sum()
    assert parts[1001] == round(CONFIG.outside * share) > 2
    assert parts[0] == 1
    assert sum(parts[label] for label in IS_BRAIN) >= CONFIG.inside


def test_small_labels_stay_whole(head):
    values = head.labels.astype(int)
    values[head.labels == SCALP] += 100 * np.random.default_rng(0).integers(1, 13, np.sum(head.labels == SCALP))
    made = make(values, BRAIN, head.vox2world)
    assert all(sum(label in of for of in made.labels.values()) == 1 for label in np.unique(values) if label > 300)


def test_one_label_is_parted_into_head_and_air(head):
    """A map of the brain alone: what is near it is head, in parts; what is far is air, in one."""
    values = head.mask.astype(np.uint8)
    config = replace(CONFIG, head=0.1)
    made = make(values, [1], head.vox2world, config=config)
    assert count_sides(made)[0] == config.inside
    assert config.outside <= count_sides(made)[1] <= config.outside + 1
    away = ndimage.distance_transform_edt(~head.mask)
    labels = made.map.labels
    mean = [away[labels == label].mean() for label in range(1, 1 + count_sides(made)[1])]
    assert mean[0] == max(mean) and mean[1:] == sorted(mean[1:])
    faces = [labels.take(end, axis) for axis in range(3) for end in (0, -1)]
    assert (np.concatenate(faces) == 1).mean() > 0.9
    assert not (labels[(away > 0) & (away < 1.1)] == 1).any()


def test_air_is_that_label_0_where_the_head_has_labels(head, values):
    """Also if tissue reaches the faces of the field, as a neck does."""
    values = values.copy()
    values[10:22, 10:22, 0] = 1001
    np.testing.assert_array_equal(make(values, IS_BRAIN, head.vox2world).map.labels == 1, values == 0)


def test_fluid_around_the_brain_is_no_head(head):
    """Maps of tissue leave scalp and air to label 0, although fluid parts it from the brain."""
    fluid = ndimage.binary_dilation(head.mask) & ~head.mask
    made = make(np.where(head.mask, 2, fluid.astype(int)), [2], head.vox2world)
    assert sum(0 in of for of in made.labels.values()) > 3


def test_a_background_of_another_number(head):
    """As tight fields have no air, what reaches the faces most is parted too."""
    made = make(np.where(head.mask, 9, 4), [9], head.vox2world)
    assert count_sides(made)[1] > 4


@pytest.mark.parametrize("only_brain", [False, True])
def test_the_same_streams_give_the_same_classes(head, values, only_brain):
    values = head.mask.astype(np.int16) if only_brain else values
    brain = [1] if only_brain else IS_BRAIN
    first, second = (make(values, brain, head.vox2world) for _ in range(2))
    np.testing.assert_array_equal(first.map.labels, second.map.labels)
    assert first.labels == second.labels
    other = make(values, brain, head.vox2world, streams=RandomStreams((1, 0)))
    assert (other.map.labels != first.map.labels).any()
    np.testing.assert_array_equal(is_inside(other.map.labels), is_inside(first.map.labels))


def test_an_image_parts_labels_by_intensity(head):
    """One label for the brain, one for all else: the classes are those of the image, in order of their means."""
    config = replace(CONFIG, gmm=replace(CONFIG.gmm, inside=3, outside=3))
    made = make(head.mask.astype(int), [1], head.vox2world, head.image, config=config)
    np.testing.assert_array_equal(made.map.labels, head.labels)
    low, high = head.image.min(), np.percentile(head.image, 99.5)
    for label in np.unique(head.labels):
        level = (head.image[head.labels == label].mean() - low) / (high - low)
        assert made.map.levels[label] == pytest.approx(level, abs=0.01)


def test_levels_of_labels_that_are_not_parted(head, values):
    image = np.where(np.isfinite(head.image), head.image, 0)
    image[0, 0, 0] = np.nan
    config = replace(CONFIG, gmm=replace(CONFIG.gmm, inside=1, outside=1))
    made = make(values, IS_BRAIN, head.vox2world, image, config=config)
    assert made.labels == {1: [0], 2: [7], 3: [1001], 101: [14175], 102: [3], 103: [12]}
    assert (np.diff(made.map.levels[101:104]) > 0).all()


def test_an_image_that_is_constant_in_a_label_parts_it_not(head):
    image = np.where(head.mask, head.image, 0)
    made = make(head.mask.astype(int), [1], head.vox2world, image)
    assert count_sides(made) == (CONFIG.gmm.inside, 1)


def mirrored_values(shape=(40, 30, 20)):
    """A brain 2 to 5 in the middle of 0: halves 2 and 5, and a small structure 3 and 4 in each."""
    values = np.zeros(shape, dtype=int)
    values[5:20, 5:25, 5:15] = 5
    values[20:35, 5:25, 5:15] = 2
    values[12:16, 8:12, 8:12] = 4
    values[25:29, 8:12, 8:12] = 3
    return values


def test_left_and_right_share_a_class():
    values = mirrored_values()
    made = make(values, [2, 3, 4, 5], np.eye(4))
    assert {tuple(of) for label, of in made.labels.items() if label > INSIDE_BASE} == {(2, 5), (3, 4)}
    # Along another axis of the array, and to the left.
    turned = make(
        np.moveaxis(values, 0, 2),
        [2, 3, 4, 5],
        np.array([[0, 0, -1, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]]),
    )
    assert {tuple(of) for of in turned.labels.values()} == {tuple(of) for of in made.labels.values()}
    # Front and back do not.
    front = make(np.moveaxis(values, 0, 1), [2, 3, 4, 5], np.eye(4))
    assert all(len(of) == 1 for of in front.labels.values())


def test_what_lies_within_another_is_no_partner():
    values = np.zeros((30, 30, 30), dtype=int)
    values[5:25, 5:25, 5:25] = 2
    values[7:23, 7:23, 7:23] = 3
    made = make(values, [2, 3], np.eye(4))
    assert all(len(of) == 1 for of in made.labels.values())


def test_many_labels_are_taken_together():
    """Neighbours in number, the smallest first; large ones stay alone."""
    number = np.repeat(np.arange(60), 50 * np.r_[40, np.ones(58, dtype=int), 40]).reshape(-1, 1, 1)
    inside = np.arange(60) >= 30
    groups = group_labels(number, inside, np.eye(4), 1.0, replace(CONFIG, most=5))
    assert len(groups) == 10
    assert [label for group in groups for label in group] == list(range(60))
    assert [0] in groups and [59] in groups
    assert all(len({bool(inside[label]) for label in group}) == 1 for group in groups)


def test_a_parcellation_fits_into_a_label_map(head):
    """180 labels of a side are more than there is room for."""
    rng = np.random.default_rng(0)
    values = np.where(
        head.mask, rng.integers(11101, 11281, head.mask.shape), rng.integers(0, 180, head.mask.shape)
    )
    made = make(values, range(11101, 11281), head.vox2world)
    np.testing.assert_array_equal(is_inside(made.map.labels), head.mask)
    assert max(count_sides(made)) <= CONFIG.most + 10
    assert f"{2 * CONFIG.most} are left" in made.remarks[0]


def test_pieces_apart_from_the_brain_are_outside(head, values):
    """Eyes, in some maps. Large ones stay: hemispheres."""
    eye = np.zeros_like(head.mask)
    eye[3:7, 14:18, 14:18] = True
    assert not (eye & ndimage.binary_dilation(head.mask)).any()
    values = np.where(eye, 3, values)
    made = make(values, IS_BRAIN, head.vox2world)
    np.testing.assert_array_equal(is_inside(made.map.labels), head.mask)
    assert "apart from the brain" in made.remarks[0]
    made = make(values, IS_BRAIN, head.vox2world, config=replace(CONFIG, island=0.0))
    np.testing.assert_array_equal(is_inside(made.map.labels), head.mask | eye)


@pytest.mark.parametrize(
    ("brain", "sentence"), [([4], "none of the labels"), ([*OTHER.values()], "nothing outside")]
)
def test_maps_without_brain_or_with_nothing_else(head, values, brain, sentence):
    with pytest.raises(BrainLabelsError, match=sentence):
        generation_labels(values, brain, head.vox2world, CONFIG, STREAMS)


# Which labels are meant


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("3", [3]),
        ("0", [0]),
        ("-2", [-2]),
        ("1-3", [2, 3]),
        ("1001-1035", [1001, 1035]),
        ("40", []),
        ("cortex", [3]),
        ("LEFT-PUTAMEN", [12]),
        ("Both", [2, 1035]),
    ],
)
def test_words_mean_labels(word, meant):
    present = np.array([-2, 0, 2, 3, 12, 1001, 1035, 1036])
    names = {3: "Cortex", 12: "Left-Putamen", 4: "Absent", 2: "both", 1035: "BOTH"}
    assert labels_meant(word, present, lambda: names).tolist() == meant


@pytest.mark.parametrize(
    ("word", "error", "sentence"),
    [
        ("5-3", BrainLabelsError, "5-3: .*from the lower to the higher"),
        ("0-3", BrainLabelsError, "0-3: label 0 is the background"),
        ("Left-Putamin", LabelNamesError, "Left-Putamin; near are Left-Putamen"),
        ("xyz", LabelNamesError, "no label has the name xyz$"),
    ],
)
def test_words_that_mean_no_label(word, error, sentence):
    with pytest.raises(error, match=sentence):
        labels_meant(word, np.array([0, 3]), lambda: {3: "Cortex", 12: "Left-Putamen"})


def test_a_number_needs_no_names():
    assert labels_meant("3", np.array([0, 3]), lambda: pytest.fail("asked for names")).tolist() == [3]


# Tables of names


def test_tables_of_both_kinds(tmp_path):
    path = tmp_path / "labels"
    path.write_text(FREESURFER)
    names = read_label_table(path)
    assert names[12] == "Left-Putamen" and names[14175] == "wm_rh_S_temporal_transverse" and len(names) == 6
    path.write_text(BIDS)
    assert read_label_table(path) == {0: "Background", 3: "Cortex", 12: "Left putamen", 14175: "White"}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "names no label"),
        ("# nothing\n", "names no label"),
        ("0 Unknown 0 0 0 0\nthree Cortex 1 2 3 0\n", "line 2: 'three' is no label number"),
        ("3 Cortex 1 2 3\n", "line 1: label 3 has no name"),
        ("index\tcolor\n3\t#000000\n", "line 2: label 3 has no name"),
        ("index\tname\n1.5\tCortex\n", "line 2: '1.5' is no label number"),
    ],
)
def test_tables_that_are_none(tmp_path, text, sentence):
    path = tmp_path / "labels.txt"
    path.write_text(text)
    with pytest.raises(InputError, match=f"labels.txt: .*{sentence}"):
        read_label_table(path)


# From files


def save(path, values, vox2world, slope=None):
    image = nib.Nifti1Image(values, vox2world)
    if slope is not None:
        image.header.set_slope_inter(slope, 0)
    nib.save(image, path)
    return path


@pytest.fixture
def label_file(head, values, tmp_path):
    return save(tmp_path / "head_dseg.nii.gz", values.astype(np.int16), head.vox2world)


@pytest.mark.parametrize(
    ("kind", "slope"),
    [(np.uint16, None), (np.int32, None), (np.float32, None), (np.float64, None), (np.int32, 0.1)],
)
def test_labels_of_any_type(head, values, label_file, tmp_path, kind, slope):
    stored = values.astype(kind)
    if slope:
        stored *= 10
    path = save(tmp_path / "other.nii", stored, head.vox2world)
    if slope:  # nibabel itself would store other values
        raw = bytearray(path.read_bytes())
        raw[112:116] = np.float32(slope).tobytes()
        path.write_bytes(raw)
    words = [*map(str, IS_BRAIN)]
    (expected,), (made,) = (read_generation_maps([each], words) for each in (label_file, path))
    np.testing.assert_array_equal(made.map.labels, expected.map.labels)


def test_what_is_unusual_is_said(head, tmp_path, caplog):
    values = np.where(head.mask, 5, 0).astype(np.int16)
    values[1:6, 1:6, 1:6] = 5
    path = save(tmp_path / "m.nii", values, head.vox2world)
    (made,) = read_generation_maps([path], ["5"])
    np.testing.assert_array_equal(is_inside(made.map.labels), head.mask)
    assert f"{path}: " in caplog.text and "apart from the brain" in caplog.text


def test_negative_labels_are_labels(head, values, tmp_path):
    path = save(tmp_path / "m.nii", np.where(values == 7, -1, values).astype(np.int16), head.vox2world)
    (made,) = read_generation_maps([path], ["3-14175"])
    # 1001 lies in that range.
    inside = is_inside(made.map.labels)
    named = np.isin(values, (3, 12, 1001, 14175))
    assert inside[named].all() and not inside[values == 0].any()


def test_labels_beyond_32_bit_floats_stay_apart(head, tmp_path):
    values = np.where(head.mask, 614454277, 614454278).astype(np.uint32)
    (made,) = read_generation_maps([save(tmp_path / "m.nii", values, head.vox2world)], ["614454277"])
    np.testing.assert_array_equal(is_inside(made.map.labels), head.mask)


@pytest.mark.parametrize(("half_width", "is_brain"), [(1, True), (3, False)])
def test_furrows_of_the_brain_are_brain_up_to_a_width(half_width, is_brain):
    """A brain of 40 mm with a chamber in it and a furrow of twice the half width; 0.05 of 40 mm is closed."""
    values = np.zeros((60, 60, 60), dtype=np.int16)
    values[10:50, 10:50, 10:50] = 3
    values[28:32, 28:32, 28:32] = 24
    values[10:20, 30 - half_width : 30 + half_width, 10:50] = 24
    made = generation_labels(values, [3], np.eye(4), replace(CONFIG, closing=0.05), RandomStreams((0,)))
    inside = is_inside(made.map.labels)
    assert inside[28:32, 28:32, 28:32].all() and inside[values == 3].all()
    assert inside[15, 30, 30] == is_brain
    assert not inside[values == 0].any()
    assert {3, 24} <= {label for number, labels in made.labels.items() if number > INSIDE_BASE for label in labels}


@pytest.mark.parametrize("wrong", [0.5, np.nan, np.inf])
def test_what_is_no_label_map(head, values, tmp_path, wrong):
    values = values.astype(np.float32)
    values[0, 0, 0] = wrong
    with pytest.raises(InputError, match=r"m\.nii: not a label map: its values are not whole numbers"):
        read_generation_maps([save(tmp_path / "m.nii", values, head.vox2world)], ["3"])


def test_a_label_may_lack_in_some_maps(head, values, label_file, tmp_path):
    other = save(tmp_path / "other.nii", np.where(values == 12, 3, values).astype(np.int16), head.vox2world)
    made = read_generation_maps([label_file, other], ["3", "12", "14175"])
    for each in made:
        np.testing.assert_array_equal(is_inside(each.map.labels), head.mask)
    assert [each.source["brain"] for each in made] == [[3, 12, 14175], [3, 14175]]
    with pytest.raises(BrainLabelsError, match=r"head_dseg.nii.gz, .*other.nii: has no label 4-6"):
        read_generation_maps([label_file, other], ["3", "4-6"])
    with pytest.raises(BrainLabelsError, match=r"other\.nii: has none of the labels"):
        read_generation_maps([label_file, other], ["12"])


def test_names_from_a_table(head, label_file, tmp_path, caplog):
    caplog.set_level("INFO")
    table = tmp_path / "colours.txt"
    table.write_text(FREESURFER)
    words = ["cortex", "LEFT-Putamen", "14000-15000"]
    (made,) = read_generation_maps([label_file], words, table)
    np.testing.assert_array_equal(is_inside(made.map.labels), head.mask)
    assert made.source["table"]["name"] == "colours.txt" and f"names of labels from {table}" in caplog.text
    with pytest.raises(LabelNamesError, match=r"head_dseg.nii.gz: its labels have no names"):
        read_generation_maps([label_file], words)
    # The table beside the map.
    (tmp_path / "head_dseg.tsv").write_text(BIDS)
    (made,) = read_generation_maps([label_file], ["cortex", "left putamen", "white"])
    np.testing.assert_array_equal(is_inside(made.map.labels), head.mask)
    assert made.source["table"]["name"] == "head_dseg.tsv"


def test_a_table_that_is_not_needed_is_not_read(label_file, tmp_path):
    (tmp_path / "head_dseg.tsv").write_text("nothing of the kind")
    (made,) = read_generation_maps([label_file], ["3"])
    assert "table" not in made.source


def test_an_image_comes_with_its_map(head, label_file, tmp_path):
    image_path, _, _ = head.save(tmp_path)
    (made,) = read_generation_maps([label_file], [*map(str, IS_BRAIN)], images=[image_path])
    np.testing.assert_array_equal(made.scan.mask, head.mask)
    np.testing.assert_array_equal(made.scan.scan.array, head.image)
    assert made.map.levels is not None and made.source["parted_by"] == "image"
    assert made.source["image"]["name"] == "image.nii.gz"
    aside = save(tmp_path / "aside.nii", head.image, head.vox2world + np.diag([1.0, 0, 0, 0]))
    with pytest.raises(InputError, match=r"head_dseg.nii.gz: not on the grid of .*aside.nii"):
        read_generation_maps([label_file], ["3"], images=[aside])


# The command


def train(label_file, *options):
    command = ["train", "-o", "m.safetensors", "--device", "cpu", "--no-quality", "--init", "none"]
    return main([*command, "-l", str(label_file), *map(str, options)])


@pytest.fixture
def given(tmp_path, monkeypatch):
    """The data that training is given, in place of training."""
    data = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train_command, "_show_labelled", lambda *arguments: None)
    monkeypatch.setattr(cascade_training, "train_cascade", lambda first, *rest, **options: data.append(first))
    return data


def test_the_command_trains_on_maps_of_another_program(head, label_file, tmp_path, given):
    (tmp_path / "head_dseg.tsv").write_text(BIDS)
    other = save(tmp_path / "other.nii", np.where(head.mask, 3, 0).astype(np.int16), head.vox2world)
    assert train(label_file, other, "--brain", "12", "1100-15000", "--brain", "3", "white", "-q") == 1  # no table
    (tmp_path / "other.tsv").write_text(BIDS)
    assert train(label_file, other, "--brain", "12", "1100-15000", "--brain", "3", "white", "-q") == 0
    (data,) = given
    for each in data.maps:
        np.testing.assert_array_equal(is_inside(each.labels), head.mask)
    assert data.scans == []
    source = data.provenance["labelled"][0]
    assert source["labels"]["name"] == "head_dseg.nii.gz" and len(source["table"]["sha256"]) == 64
    assert source["brain"] == [3, 12, 14175] and source["parted_by"] == "position"
    assert source["classes"]["1"] == [0] and source["configuration"]["seed"] == 0
    assert json.loads(json.dumps(source)) == source


def test_the_command_takes_the_image_of_a_map(head, label_file, tmp_path, given):
    """The border is calibrated on it."""
    head.save(tmp_path)
    assert train(label_file, "-i", "image.nii.gz", "--brain", *IS_BRAIN, "-q") == 0
    (data,) = given
    assert len(data.maps) == len(data.scans) == len(data.provenance["labelled"]) == 1
    np.testing.assert_array_equal(data.scans[0].mask, head.mask)
    np.testing.assert_array_equal(data.scans[0].scan.array, head.image)
    assert data.maps[0].levels is not None


def test_images_with_masks_are_not_of_the_maps(head, label_file, tmp_path, given):
    head.save(tmp_path)
    assert train(label_file, "-i", "image.nii.gz", "-m", "mask.nii.gz", "--brain", *IS_BRAIN, "-q") == 0
    (data,) = given
    assert [each.levels is None for each in data.maps] == [False, True]
    assert len(data.scans) == 1


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ([], "say which of its labels are brain (--brain)"),
        (["--brain", "4"], "has no label 4 (--brain)"),
        (
            ["--brain", "cortex"],
            "its labels have no names; give numbers, or a table of names (--brain, --label-table)",
        ),
        (["--brain", "0-5"], "leave it out, or name it by itself (--brain)"),
        (
            ["--brain", "0", "1-15000"],
            "all of its labels are brain; there is nothing outside to learn from (--brain)",
        ),
        (
            ["--brain", "x", "--label-table", "gone.txt"],
            "gone.txt: cannot be read as a table of labels (no such file)",
        ),
    ],
)
def test_the_command_says_what_to_do(label_file, tmp_path, monkeypatch, capsys, options, error):
    monkeypatch.chdir(tmp_path)
    assert train("head_dseg.nii.gz", *options) == 1
    assert error in capsys.readouterr().err
    assert not (tmp_path / "m.safetensors").exists()


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (
            ["-l", "a.nii", "-i", "i.nii", "j.nii", "--brain", "3"],
            "2 images and 1 label maps: give one image per map",
        ),
        (["-i", "i.nii", "-m", "m.nii", "--brain", "3"], "--brain is about label maps"),
        (["-l", "a.nii", "--label-table", "t.txt"], "--label-table has the names for --brain"),
        (["-l", "a.nii", "-i", "i.nii"], "1 images and 0 masks"),
    ],
)
def test_options_that_do_not_fit_together(capsys, options, error):
    with pytest.raises(SystemExit):
        main(["train", "-o", "m.safetensors", *options])
    assert error in capsys.readouterr().err


# Real maps


@pytest.mark.parametrize(
    ("name", "brain", "least"),
    [("mouse", [3, 4], 0.96), ("rat", [5, 6], 0.97), ("monkey", [1, 2], 0.89)],
)
def test_maps_of_species(data, name, brain, least):
    file = nib.load(data / "species_maps" / f"{name}_dseg.nii.gz")
    values = np.asarray(file.dataobj)
    made = make(values, brain, file.affine)
    labels = made.map.labels
    share = np.count_nonzero(is_inside(labels)) / np.isin(values, brain).sum()
    assert least < share < 1.05  # without eyes and specks, with closed furrows
    assert count_sides(made)[0] >= CONFIG.inside and CONFIG.outside < count_sides(made)[1] <= 12
    np.testing.assert_array_equal(labels == 1, values == 0)
