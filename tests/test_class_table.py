"""Tables of classes: what they tell, and what is wrong with them."""

from pathlib import Path

import pytest

from singlestrip.configuration import CascadeConfig, TargetClass
from singlestrip.errors import InputError
from singlestrip.io.text.class_table import plain_class_table, read_class_table, side_of

TISSUES = Path(__file__).parents[1] / "models/tissues.tsv"
COLUMNS = "index\tname\tcolor\ttarget\tside\tbrain\tfluid\tlargest\n"
SOUND = (
    COLUMNS
    + "4\tLeft-Ventricle\t#781286\t4\tleft\t1\t0\t1\n"
    + "5\tLeft-Horn\tn/a\t4\tleft\t1\t0\t0\n"
    + "24\tCSF\t\t\tn/a\tyes\ttrue\tn/a\n"
    + "43\tRight-Ventricle\t#781286\t43\tright\t1\t0\t1\n"
    + "99\tVessel\tn/a\t0\tn/a\t0\t0\t0\n"
)


def table_of(folder: Path, text: str):
    path = folder / "classes.tsv"
    path.write_text(text, encoding="utf-8")
    return read_class_table(path)


def test_a_bids_table_with_our_columns(tmp_path):
    table = table_of(tmp_path, SOUND)
    present = {0, 4, 5, 24, 43, 99}
    assert table.targets_of(present) == {0: 0, 4: 4, 5: 4, 24: 24, 43: 43, 99: 0}
    assert table.classes(present) == (
        TargetClass(4, "Left-Ventricle", "left", 43, brain=True, largest=True, colour=(120, 18, 134)),
        TargetClass(24, "CSF", brain=True, fluid=True),
        TargetClass(43, "Right-Ventricle", "right", 4, brain=True, largest=True, colour=(120, 18, 134)),
    )
    assert table.knows_sides


def test_a_class_is_there_if_one_of_its_labels_is(tmp_path):
    assert [each.number for each in table_of(tmp_path, SOUND).classes({0, 5, 24, 43})] == [4, 24, 43]


def test_labels_said_to_be_brain_count_instead_of_the_column(tmp_path):
    classes = table_of(tmp_path, SOUND).classes({4, 24, 43}, brain={24})
    assert [each.brain for each in classes] == [False, True, False]


def test_a_colour_table_lists_more_than_maps_have(tmp_path):
    path = tmp_path / "lut.txt"
    path.write_text(
        "# a comment\n0 Unknown 0 0 0 0\n\n10 Left-Thalamus 0 118 14 0\n49 Right-Thalamus 0 118 14 0\n"
        "11 Left-Caudate 122 186 220 0\n50 Right-Caudate 122 186 220 0\n511 Skin 1 2 3 0\n"
    )
    table = read_class_table(path)
    classes = table.classes({0, 10, 49, 511})
    assert [(each.number, each.side, each.partner) for each in classes] == [
        (10, "left", 49),
        (49, "right", 10),
        (511, "none", None),
    ]
    assert classes[0].colour == (0, 118, 14) and table.knows_sides


@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("Left-Thalamus", "left"),
        ("ctx-rh-insula", "right"),
        ("thalamus_L", "left"),
        ("Right Putamen", "right"),
        ("Brain-Stem", "none"),
        ("left-right-fissure", "none"),
        ("Leftover", "none"),
    ],
)
def test_side_of_a_name(name, side):
    assert side_of(name) == side


def test_without_a_table_each_label_is_a_class():
    table = plain_class_table({0, 3, 7})
    assert table.classes({0, 3, 7}) == (TargetClass(3, "3"), TargetClass(7, "7"))
    assert not table.knows_sides


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("4\tAgain\tn/a\t4\tn/a\t0\t0\t0", "line 7: label 4 is there twice"),
        ("6\tHorn\tn/a\t77\tn/a\t0\t0\t0", "line 7: the target 77 of label 6 is no label of the table"),
        ("6\tHorn\tn/a\t5\tn/a\t0\t0\t0", "line 7: the target 5 of label 6 has another target itself"),
        ("6\tHorn\tn/a\tcortex\tn/a\t0\t0\t0", "line 7: the target cortex is no label number"),
        ("6\tHorn\tn/a\t43\tleft\t0\t0\t0", "line 7: label 6 does not lie on the right as its target 43 does"),
        ("6\tHorn\tn/a\t6\tmiddle\t0\t0\t0", "line 7: the side middle is neither left nor right"),
        ("6\tHorn\tn/a\t6\tn/a\tmaybe\t0\t0", "line 7: brain is 1 or 0, not maybe"),
        ("-1\tHorn\tn/a\t6\tn/a\t0\t0\t0", "line 7: label -1 is not between 0 and"),
        ("0\tAir\tn/a\t24\tn/a\t0\t0\t0", "line 7: label 0 is the background"),
        ("six\tHorn\tn/a\t6\tn/a\t0\t0\t0", "line 7: 'six' is no label number"),
    ],
)
def test_faults_of_a_table(tmp_path, line, fault):
    with pytest.raises(InputError, match=fault):
        table_of(tmp_path, SOUND + line + "\n")


@pytest.mark.parametrize(
    ("present", "fault"),
    [
        ({0, 4, 24, 43, 502}, "has the label 502, which the table of classes does not list"),
        ({0, 4, 43}, r"has no voxel of class 24 \(CSF\)"),
    ],
)
def test_a_table_that_does_not_fit_the_maps(tmp_path, present, fault):
    with pytest.raises(InputError, match=fault):
        table_of(tmp_path, SOUND).classes(present)


def test_a_class_without_a_partner_is_refused(tmp_path):
    text = "index\tname\n4\tLeft-Ventricle\n43\tRight-Thalamus\n"
    with pytest.raises(InputError, match=r"class 4 \(Left-Ventricle\) lies on the left and has no partner"):
        table_of(tmp_path, text).classes({4, 43})


def test_two_classes_of_one_name_and_side_are_refused(tmp_path):
    text = "index\tname\n4\tLeft-Ventricle\n5\tventricle_L\n43\tRight-Ventricle\n"
    with pytest.raises(InputError, match="has no partner"):
        table_of(tmp_path, text).classes({4, 5, 43})


def test_only_background_is_refused(tmp_path):
    with pytest.raises(InputError, match="has no voxel of any class"):
        table_of(tmp_path, "index\tname\n4\tVentricle\n").classes({0})


def test_the_table_of_tissues():
    table = read_class_table(TISSUES)
    classes = table.classes(table.labels)
    assert len(classes) == 35 and len(CascadeConfig(classes=classes).brain_channels) == 30
    assert [each.name for each in classes if each.fluid] == ["CSF"]
    assert all(each.colour for each in classes)
