"""Image files to label maps, tables, posteriors and pictures, with networks that know a made-up head."""

import json
import logging
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch
from nibabel.freesurfer.io import _read_annot_ctab_new_format
from phantoms import STRUCTURES, class_cascade, make_head, threshold_cascade

from singlestrip.batch.jobs import Job, SegmentOptions, plan_folder, with_companions
from singlestrip.batch.records import hidden_record
from singlestrip.batch.segment import segment_file, segment_files
from singlestrip.batch.structure_tables import structure_columns, write_agreement, write_volumes
from singlestrip.configuration import EvidenceConfig, TargetClass
from singlestrip.errors import InputError, ModelError, NoBrainError
from singlestrip.io import memory
from singlestrip.io.images import memory_need, volume
from singlestrip.io.text.class_table import read_class_table
from singlestrip.io.text.structure_table import colour_of, write_structures
from singlestrip.io.text.table import parse_table
from singlestrip.networks.cascade import Cascade
from singlestrip.networks.evidence import add_evidence
from singlestrip.space.metrics import dice
from singlestrip.stripping.segmenter import Segmenter
from singlestrip.stripping.stripper import Stripper

MADE = {"SingleStripVersion": "1", "Model": "m.safetensors", "ModelSHA256": "0" * 64}
HEAD = make_head(noise=0.2)
TRUE_LABELS = {24: [101], 3: [102, 103], 511: [3]}


@pytest.fixture(autouse=True)
def plenty_of_memory(monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: 64 * memory.GIB)


@pytest.fixture(scope="module")
def segmenter():
    return Segmenter(Stripper(class_cascade(), views=(), keeps_classes=True))


def save(path, frames=(1.0,), dtype=np.float32):
    """The head, as many times as there are factors of its intensity."""
    stored = np.stack([HEAD.image * factor for factor in frames], axis=-1).astype(dtype)
    image = stored[..., 0] if len(frames) == 1 else stored
    kind = nib.MGHImage if path.suffix in (".mgh", ".mgz") else nib.Nifti1Image
    nib.save(kind(image, HEAD.vox2world), path)
    return path


def job(image, *kinds, suffix=None):
    return plan_folder([image], image.parent / "out", kinds, suffix, with_companions)[0]


def truth(number):
    return np.isin(HEAD.labels, TRUE_LABELS[number])


def test_every_output(segmenter, tmp_path):
    todo = job(save(tmp_path / "a.nii.gz"), "dseg", "probseg", "picture")
    (found,) = segment_file(segmenter, todo)
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["a_dseg.nii.gz", "a_dseg.tsv", "a_picture.png", "a_probseg.json", "a_probseg.nii.gz"]
    labels = volume.read(todo.outputs["dseg"])
    assert labels.stored.dtype == np.int16 and set(np.unique(labels.stored)) == {0, 3, 24, 511}
    np.testing.assert_array_equal(labels.stored[..., 0], found.labels)
    np.testing.assert_array_equal(labels.vox2world, volume.read(todo.image).vox2world)
    for number in TRUE_LABELS:
        assert dice(labels.frame(0) == number, truth(number)) > 0.9, number
    posteriors = volume.read(todo.outputs["probseg"])
    assert posteriors.stored.shape == (*HEAD.image.shape, 3) and posteriors.stored.dtype == np.uint8
    assert posteriors.slope == pytest.approx(1 / 255) and posteriors.intercept == 0
    volumes = posteriors.stored.reshape(-1, 3).sum(0, dtype=int) / 255 * 6.0**3
    np.testing.assert_allclose(volumes, [found.volumes_mm3[each.number] for each in STRUCTURES])
    assert found.intracranial_mm3 == pytest.approx(volumes[1] + volumes[2])
    assert json.loads(todo.outputs["names"].read_text()) == {"LabelMap": ["Scalp", "CSF", "Grey matter"]}
    assert todo.outputs["picture"].read_bytes().startswith(b"\x89PNG")


def test_one_label_type_holds_the_largest_number(segmenter):
    found = segmenter.segment(HEAD.image, HEAD.vox2world)
    small, large = (replace(STRUCTURES[0], number=number) for number in (200, 100_000))
    assert replace(found, classes=(small, *STRUCTURES[1:])).labels.dtype == np.uint8
    assert replace(found, classes=(large, *STRUCTURES[1:])).labels.dtype == np.int32


def test_only_the_largest_piece_of_what_is_one(segmenter):
    """Two bright spots in the scalp are no grey matter, which is one piece; CSF may be several."""
    image = HEAD.image.copy()
    spot = np.s_[15:18, 15:18, 27:29]
    image[spot] = 100
    found = segmenter.segment(image, HEAD.vox2world)
    assert not (found.labels[spot] == 3).any()
    whole = Segmenter(segmenter.stripper)
    whole.largest = set()
    assert (whole.segment(image, HEAD.vox2world).labels[spot] == 3).any()


def test_voxels_that_are_not_finite_are_background(segmenter):
    image = HEAD.image.copy()
    image[14:18, 14, 14] = np.nan
    assert (segmenter.segment(image, HEAD.vox2world, posteriors=True).labels[14:18, 14, 14] == 0).all()


def test_a_class_that_is_not_there(segmenter):
    with pytest.raises(ValueError, match="99"):
        segmenter.segment(HEAD.image, HEAD.vox2world).posterior(99)


def test_a_colour_table_within_mgz_is_freesurfers(segmenter, tmp_path):
    todo = job(save(tmp_path / "a.mgz"), "dseg")
    assert list(todo.outputs) == ["dseg"]
    segment_file(segmenter, todo)
    labels = volume.read(todo.outputs["dseg"])
    footer = labels.footer
    assert footer[20:24] == b"\0\0\0\1"  # TAG_OLD_COLORTABLE
    path = tmp_path / "tag"
    path.write_bytes(footer[24:])
    with path.open("rb") as file:
        version = -int(np.fromfile(file, ">i4", 1)[0])
        table, names = _read_annot_ctab_new_format(file, version)
        assert not file.read()
    assert version == 2 and len(table) == 512
    assert names == [b"Unknown", b"Scalp", b"CSF", b"Grey matter"]
    for each in STRUCTURES:
        assert table[each.number].tolist()[:4] == [*colour_of(each), 0]
    np.testing.assert_array_equal(np.asarray(nib.load(todo.outputs["dseg"]).dataobj), labels.stored[..., 0])


def test_scan_parameters_stay_before_the_colour_table(segmenter, tmp_path):
    image = nib.MGHImage(HEAD.image, HEAD.vox2world)
    image.header["tr"], image.header["te"] = 2300, 3
    nib.save(image, tmp_path / "a.mgz")
    todo = job(tmp_path / "a.mgz", "dseg")
    segment_file(segmenter, todo)
    header = nib.load(todo.outputs["dseg"]).header
    assert (float(header["tr"]), float(header["te"])) == (2300, 3)


@pytest.mark.parametrize("ending", [".tsv", ".txt"])
def test_tables_are_read_back(tmp_path, ending):
    path = tmp_path / f"table{ending}"
    write_structures(path, STRUCTURES)
    read = read_class_table(path)
    assert list(read.labels) == [511, 24, 3]
    assert [each.colour for each in read.labels.values()] == [colour_of(each) for each in STRUCTURES]
    if ending == ".tsv":
        classes = {each.number: each for each in read.classes(list(TRUE_LABELS))}
        for each in STRUCTURES:
            assert classes[each.number] == replace(each, colour=colour_of(each))
    else:
        assert read.labels[3].name == "Grey-matter"  # names of FreeSurfer have no blanks


def test_colours_of_structures_without_one_lie_apart():
    colours = {colour_of(TargetClass(number, "x")) for number in range(1, 60)}
    assert len(colours) == 59 and all(0 <= value <= 255 for colour in colours for value in colour)
    assert colour_of(STRUCTURES[1]) == (60, 60, 60)


def test_posteriors_in_mgz_are_32_bit_numbers(segmenter, tmp_path):
    todo = job(save(tmp_path / "a.nii"), "probseg", suffix=".mgz")
    (found,) = segment_file(segmenter, todo)
    stored = volume.read(todo.outputs["probseg"]).stored
    assert stored.dtype == np.float32 and stored.max() == 1
    np.testing.assert_allclose(stored[..., 2], found.posterior(3), atol=1e-6)


def test_frames_each_and_together(segmenter, tmp_path):
    image = save(tmp_path / "a.nii", (1.0, 2.0))
    todo = job(image, "dseg")
    (outcome,) = segment_files(segmenter, [todo])
    labels = volume.read(todo.outputs["dseg"])
    assert labels.shape == (*HEAD.image.shape, 2) and len(outcome.measured) == 2
    np.testing.assert_array_equal(labels.frame(0), labels.frame(1))  # intensities are relative
    (outcome,) = segment_files(segmenter, [todo], SegmentOptions(mean_frame=True))
    assert volume.read(todo.outputs["dseg"]).shape == HEAD.image.shape and len(outcome.measured) == 1
    with pytest.raises(InputError, match="2 frames"):
        segment_file(segmenter, job(image, "probseg"))
    segment_file(segmenter, job(image, "probseg"), SegmentOptions(mean_frame=True))


def test_an_error_names_its_frame(segmenter, tmp_path):
    with pytest.raises(InputError, match=r"a\.nii: frame 1 of 0 to 1: .*constant"):
        segment_file(segmenter, job(save(tmp_path / "a.nii", (1.0, 0.0)), "dseg"))


def test_no_brain():
    cascade = class_cascade()
    cascade.segmenter.head.bias[0] = 1000  # all is background
    blind = Segmenter(Stripper(cascade, views=(), keeps_classes=True))
    with pytest.raises(NoBrainError):
        blind.segment(HEAD.image, HEAD.vox2world)
    with pytest.raises(InputError, match=r"no brain found around \(0, 0, 0 mm\)"):
        blind.segment(HEAD.image, HEAD.vox2world, centre_mm=(0, 0, 0))


def test_a_model_of_organs_knows_no_brain(tmp_path):
    """All of its classes together are what it looks for."""
    cascade = class_cascade()
    organs = tuple(replace(each, brain=False) for each in STRUCTURES)
    cascade.config = replace(cascade.config, classes=organs)
    outcomes = segment_files(Segmenter(Stripper(cascade, views=(), keeps_classes=True)), scans(tmp_path, "a"))
    assert outcomes[0].measured[0].intracranial_mm3 is None
    write_volumes(tmp_path / "volumes.tsv", outcomes, organs)
    (row,) = rows(tmp_path / "volumes.tsv")
    assert row["total_intracranial"] == "" and float(row["Grey matter"]) > 0
    with pytest.raises(ModelError, match="none of the classes"):
        Stripper(cascade)


def test_a_model_without_classes_segments_nothing():
    with pytest.raises(ModelError, match="no structures"):
        Segmenter(Stripper(threshold_cascade(), keeps_classes=True))


def scans(folder, names="abc"):
    """Jobs of some images, of which b is none."""
    images = [save(folder / f"{name}.nii.gz") for name in names]
    if "b" in names:
        (folder / "b.nii.gz").write_bytes(b"not an image")
    return plan_folder(images, folder / "out", ["dseg"], complete=with_companions)


def rows(path):
    columns, cells = parse_table(path.read_text())
    return [dict(zip(columns, row, strict=True)) for row in cells.values()]


def test_a_broken_image_does_not_stop_the_others(segmenter, tmp_path):
    jobs = scans(tmp_path)
    outcomes = segment_files(segmenter, jobs)
    assert [outcome.failed for outcome in outcomes] == [False, True, False]
    write_volumes(tmp_path / "volumes.tsv", outcomes, STRUCTURES)
    first, broken, third = rows(tmp_path / "volumes.tsv")
    assert list(first) == ["image", "frame", "note", "total_intracranial", "Scalp", "CSF", "Grey matter"]
    assert "b.nii.gz" in broken["note"] and broken["CSF"] == "" and broken["image"] == str(jobs[1].image)
    assert first["CSF"] == third["CSF"] and first["note"] == ""
    total = float(first["total_intracranial"])
    assert total == pytest.approx(float(first["CSF"]) + float(first["Grey matter"]), abs=0.01)
    assert total == pytest.approx(HEAD.mask.sum() * 6.0**3, rel=0.1)


def test_resume_keeps_outputs_and_knows_their_volumes(segmenter, tmp_path, monkeypatch):
    jobs = scans(tmp_path)
    before = segment_files(segmenter, jobs, made_with=MADE)
    monkeypatch.setattr(segmenter, "segment", lambda *arguments, **options: pytest.fail("segmented again"))
    after = segment_files(segmenter, jobs, made_with=MADE, resume=True)
    assert [each.text for each in after] == ["kept", before[1].text, "kept"]
    assert [each.measured for each in after] == [each.measured for each in before]
    tables = [tmp_path / "before.tsv", tmp_path / "after.tsv"]
    for path, outcomes in zip(tables, (before, after), strict=True):
        write_agreement(path, outcomes, STRUCTURES)
    assert tables[0].read_text() == tables[1].read_text()


@pytest.mark.parametrize("gone", ["dseg", "table"])
def test_resume_makes_what_is_missing(segmenter, tmp_path, gone):
    (todo,) = scans(tmp_path, "a")
    segment_files(segmenter, [todo], made_with=MADE)
    todo.outputs[gone].unlink()
    (outcome,) = segment_files(segmenter, [todo], made_with=MADE, resume=True)
    assert outcome.text == "segmented" and todo.outputs[gone].is_file()


def test_resume_makes_anew_what_was_made_in_another_way(segmenter, tmp_path, caplog):
    (todo,) = scans(tmp_path, "a")
    segment_files(segmenter, [todo], made_with=MADE)
    options = SegmentOptions(centre_mm=(0.0, 0.0, 0.0))
    with caplog.at_level(logging.WARNING):
        (outcome,) = segment_files(segmenter, [todo], options, made_with=MADE, resume=True)
    assert outcome.text == "segmented" and "was made with centre in mm default (now 0 0 0)" in caplog.text


def test_nothing_is_known_of_labels_that_another_program_changed(segmenter, tmp_path):
    (todo,) = scans(tmp_path, "a")
    segment_files(segmenter, [todo], made_with=MADE)
    for path in todo.outputs.values():
        hidden_record(path).unlink()
    outcomes = segment_files(segmenter, [todo], made_with=MADE, resume=True)
    assert outcomes[0].text == "kept" and outcomes[0].measured is None
    write_volumes(tmp_path / "volumes.tsv", outcomes, STRUCTURES)
    (row,) = rows(tmp_path / "volumes.tsv")
    assert "not measured" in row["note"] and row["CSF"] == ""


def test_a_row_for_each_frame(segmenter, tmp_path):
    outcomes = segment_files(segmenter, [job(save(tmp_path / "a.nii", (1.0, 2.0)), "dseg")])
    write_agreement(tmp_path / "qc.tsv", outcomes, STRUCTURES)
    found = rows(tmp_path / "qc.tsv")
    assert [row["frame"] for row in found] == ["0", "1"]
    assert list(found[0]) == ["image", "frame", "note", "mean", "lowest", "Scalp", "CSF", "Grey matter"]
    assert found[0]["mean"] == found[0]["CSF"] == "1.0000"  # the only view agrees with itself


def test_views_that_disagree_show(tmp_path):
    """In other contrasts the networks of the phantom take one structure for another."""
    segmenter = Segmenter(Stripper(class_cascade(), keeps_classes=True))
    found = segmenter.segment(HEAD.image, HEAD.vox2world)
    assert len(found.agreement) == 3 and min(found.agreement) < 0.9


def test_columns_have_names_of_their_own():
    structures = [
        TargetClass(1, "image"),
        TargetClass(2, "twice"),
        TargetClass(3, "twice"),
        TargetClass(4, "once"),
    ]
    columns = structure_columns(structures, ("image", "note"))
    assert columns == {1: "image 1", 2: "twice 2", 3: "twice 3", 4: "once"}


def test_memory_is_checked_before_an_image_is_read(segmenter, tmp_path, monkeypatch):
    todo = job(save(tmp_path / "a.nii"), "dseg", "probseg")
    header = volume.read_header(todo.image)
    config = segmenter.stripper.config
    needs = [memory_need.estimate_segmenting(header, config, kept, 1) for kept in (False, True)]
    assert needs[0] < needs[1]
    limit = SegmentOptions(memory_gib=(needs[0] + 1) / memory.GIB)
    segment_file(segmenter, job(todo.image, "dseg"), limit)
    monkeypatch.setattr(volume, "read_quietly", lambda path: pytest.fail("read"))
    with pytest.raises(InputError, match="over the limit"):
        segment_file(segmenter, todo, limit)


def test_a_tight_mask_leaves_out_the_fluid():
    wide, tight = (Stripper(class_cascade(), views=(), fluid=fluid) for fluid in (True, False))
    masks = [stripper.strip(HEAD.image, HEAD.vox2world).mask for stripper in (wide, tight)]
    assert dice(masks[0], HEAD.mask) > 0.95
    assert dice(masks[1], truth(3)) > 0.9 and not (masks[1] & ~masks[0]).any()
    with pytest.raises(ModelError, match="fluid"):
        Stripper(threshold_cascade(), fluid=False)


def test_a_table_of_ones_own(segmenter, tmp_path):
    outputs = with_companions({"dseg": tmp_path / "a.nii", "table": tmp_path / "colours.txt"})
    segment_file(segmenter, Job(save(tmp_path / "image.nii"), outputs))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.nii", "colours.txt", "image.nii"]
    assert (tmp_path / "colours.txt").read_text().splitlines()[1] == "24 CSF 60 60 60 0"


def test_the_image_is_asked_in_all_views():
    """What the stripper adds to the logits of each view is the evidence of that view's image."""
    torch.manual_seed(0)
    config = replace(class_cascade().config, class_evidence=EvidenceConfig())
    model = Cascade(config)
    stripper = Stripper(model, keeps_classes=True)
    shown = np.random.default_rng(0).random((32, 32, 32), dtype=np.float32)
    network = stripper.engine.run("segmenter", shown[None, None])[0]
    told = add_evidence(shown, network, config.mirrored_channels, config.class_evidence)
    np.testing.assert_array_equal(stripper._logits("segmenter", shown), told)
    assert np.abs(told - network).max() > 0.1
    assert stripper._logits("locator", shown).shape == (1, 32, 32, 32)
