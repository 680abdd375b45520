"""Self-training: what is kept and why, the record, and that a run killed anywhere ends as if it had not been."""

import csv
import json
import logging
import os
import signal
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import torch
from phantoms import make_head, tiny_cascade
from safetensors.torch import load_file

import singlestrip
from singlestrip.batch.report import picture_path
from singlestrip.cli.commands import self_train
from singlestrip.cli.log import show_log
from singlestrip.cli.main import main
from singlestrip.cli.parser import build_parser
from singlestrip.configuration import (
    AutoencoderConfig,
    GMMConfig,
    GuardConfig,
    MaskGridConfig,
    QualityPartTrainConfig,
    RoundTrainConfig,
    SelfTrainConfig,
    SynthConfig,
    TargetClass,
    TrainConfig,
    TransferConfig,
)
from singlestrip.errors import EarlierRunError, GridError, InputError, Interrupted, OutputError, SingleStripError
from singlestrip.io.checksum import checksum
from singlestrip.networks import checkpoint
from singlestrip.networks.autoencoder import Autoencoder
from singlestrip.networks.cascade import Cascade
from singlestrip.networks.model_files import find_model
from singlestrip.networks.model_header import Anatomy, read_header
from singlestrip.quality.scores import QualityModel
from singlestrip.self_training import changes, guard, record, rounds, scans
from singlestrip.self_training.rounds import Inputs, Listeners, Options, SelfTraining
from singlestrip.self_training.select import (
    Score,
    best_round,
    compared_images,
    held_out_images,
    images_left_out,
    select,
)
from singlestrip.stripping.brain_field import BrainField
from singlestrip.stripping.stripper import Stripped
from singlestrip.training import cascade as cascade_training
from singlestrip.training.fitting import continued_cascade
from singlestrip.training.maps import MapUse
from singlestrip.training.run import Run

CPU = torch.device("cpu")
VOXEL_MM = 6.0
OPTIONS = Options(
    # Tiny networks learn nothing in three steps, and all scans are needed to choose from.
    rounds=SelfTrainConfig(
        rounds=2, keep=2, threshold=0.0, held_out=0.0, accept_worse=True, guard=GuardConfig(images=2)
    ),
    first=TrainConfig(steps=2, warmup=1, amp="off"),
    later=TrainConfig(steps=3, warmup=1, amp="off", save_every=1),
    quality=QualityPartTrainConfig(epochs=1, masks_per_epoch=2, batch=2),
    gmm=GMMConfig(inside=2, outside=2, sample=2000),
)


def stripped_as(mask, vox2world):
    """What stripping returns where the networks are sure of a mask."""
    logit = np.where(mask, np.float32(5), np.float32(-5))
    return Stripped(mask, BrainField(logit, vox2world))


@pytest.fixture(autouse=True)
def bright_is_brain(monkeypatch):
    """Stripping that is right for these heads, whatever the networks have learned in three steps."""

    def strip(stripper, scan):
        mask = scan.scaled() > 40
        if not mask.any():
            raise InputError(f"{scan.path}: no brain found")
        return stripped_as(mask, scan.vox2world)

    monkeypatch.setattr(scans, "strip_image", strip)


@pytest.fixture
def real_pictures():
    """Asks for pictures that are really drawn, which takes most of the time of a run."""


@pytest.fixture(autouse=True)
def quick_pictures(monkeypatch, request):
    """Pictures that are empty files, unless a test asks for real ones."""
    if "real_pictures" in request.fixturenames:
        return

    def touch(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()

    draw_quickly = SimpleNamespace(comparison_figure=lambda cases, path: touch(path))
    monkeypatch.setattr(changes, "figures", draw_quickly)
    monkeypatch.setattr(scans, "draw_picture", lambda folder, name, *rest: touch(folder / picture_path(name)))


@pytest.fixture
def inputs(tmp_path) -> Inputs:
    """A labelled head, five unlabelled ones of which two are broken, and tiny networks to begin with."""
    image, mask, _ = make_head(24, VOXEL_MM).save(tmp_path)
    paths = []
    for number in range(3):
        head = make_head(24, VOXEL_MM, noise=2.0 + number)
        brain = head.mask.copy()
        brain[: 9 + number] = False  # each lacks more of its brain than the one before
        path = tmp_path / f"scan{number}.nii.gz"
        nib.save(
            nib.Nifti1Image(np.where(head.mask & ~brain, 10, head.image).astype(np.float32), head.vox2world), path
        )
        nib.save(nib.Nifti1Image(head.mask.astype(np.uint8), head.vox2world), tmp_path / f"true{number}.nii.gz")
        paths.append(path)
    broken = tmp_path / "broken.nii.gz"
    broken.write_bytes(b"not an image")
    frames = tmp_path / "frames.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4, 2), np.float32), np.eye(4)), frames)
    torch.manual_seed(0)
    checkpoint.save_model(tmp_path / "first.safetensors", Cascade(tiny_cascade(VOXEL_MM)), {})
    config = AutoencoderConfig(size=16, voxel_size_mm=9.0, layers=((4, 2, 4), (4, 2, 4), (4, 2, 4), (4, 2, 8)))
    checkpoint.save_model(tmp_path / "quality.safetensors", Autoencoder(config), {})
    return Inputs(
        image,
        mask,
        (paths[0], broken, paths[1], frames, paths[2]),
        model=tmp_path / "first.safetensors",
        quality=tmp_path / "quality.safetensors",
    )


def by_truth(inputs: Inputs) -> Inputs:
    folder = inputs.image.parent
    return replace(inputs, references=tuple(folder / f"true{n}.nii.gz" for n in (0, 0, 1, 0, 2)))


TRUTH = replace(OPTIONS, rounds=replace(OPTIONS.rounds, rank="truth"))


def rows(folder, number=1):
    with (folder / f"round-{number}" / "scores.tsv").open() as file:
        return list(csv.DictReader(file, delimiter="\t"))


def contents(folder):
    """What a run leaves: weights, tables, label maps, record."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.suffix == ".safetensors":
            found |= {f"{name}:{key}": value for key, value in load_file(path).items()}
        elif path.name.endswith(".nii.gz"):
            found[name] = torch.from_numpy(np.asarray(nib.load(path).dataobj))
        elif path.name.endswith(".metrics.csv"):
            with path.open() as file:
                found[name] = [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]
        elif path.is_file() and path.suffix != ".png":
            found[name] = path.read_text()
        else:
            found[name] = path.is_dir()
    return found


def same_cascade(a, b):
    """Whether two model files hold the same networks to strip with."""
    first, second = (checkpoint.load_model(path)[0].state_dict() for path in (a, b))
    return all(torch.equal(value, second[name]) for name, value in first.items())


def assert_same(a, b):
    assert a.keys() == b.keys()
    for name, value in a.items():
        same = torch.equal(value, b[name]) if isinstance(value, torch.Tensor) else value == b[name]
        assert same, name


def test_the_best_are_kept_and_the_rest_say_why(inputs, tmp_path, caplog):
    SelfTraining(tmp_path / "run", by_truth(inputs), TRUTH, CPU).run()
    table = rows(tmp_path / "run")
    # Dice falls with what each scan lacks; the broken ones come last.
    assert [row["image"].split("/")[-1] for row in table[:3]] == ["scan0.nii.gz", "scan1.nii.gz", "scan2.nii.gz"]
    assert [row["kept"] for row in table] == ["1", "1", "0", "0", "0"]
    assert table[2]["note"] == "not among the best 2"
    assert {row["score"] for row in table[3:]} == {""} and all(row["note"] for row in table[3:])
    assert any("frames" in row["note"] for row in table[3:])
    head = make_head(24, VOXEL_MM)
    lacking = head.mask.copy()
    lacking[:9] = False
    expected = 2 * lacking.sum() / (lacking.sum() + head.mask.sum())
    assert float(table[0]["score"]) == pytest.approx(expected, abs=1e-6)
    labels = sorted(p.name for p in (tmp_path / "run" / "round-1" / "labels").glob("*.nii.gz"))
    assert labels == ["00000.nii.gz", "00002.nii.gz"]
    kept = np.asarray(nib.load(tmp_path / "run" / "round-1" / "labels" / labels[0]).dataobj)
    assert np.array_equal(kept > 100, lacking)
    assert any("2 scans could not be used" in text for text in caplog.messages)


def test_remarks_on_an_unlabelled_scan_are_said_once(inputs, tmp_path, capsys):
    odd = inputs.unlabelled[0]
    odd.write_bytes(odd.read_bytes() + b"garbage")
    with show_log(quiet=False):
        SelfTraining(tmp_path / "run", inputs, OPTIONS, CPU).run()
    said = capsys.readouterr().err.splitlines()
    assert sum(text.startswith(f"singlestrip: {odd}: bytes that are not gzip data") for text in said) == 1


IMAGES = [Path(f"{name}.nii") for name in "abcde"]


@pytest.mark.parametrize(
    ("keep", "threshold", "unusable", "expected"),
    [
        (2, 0.0, "", {"b": "", "a": "", "c": "not among the best 2", "e": "not among the best 2"}),
        (2, 0.0, "b", {"b": "no classes", "a": "", "c": "", "e": "not among the best 2"}),
        (4, 0.5, "", {"b": "", "a": "", "c": "", "e": "score below 0.5"}),
        (4, 0.91, "", {"b": "score below 0.91", "a": "score below 0.91", "c": "score below 0.91"}),
        (4, None, "", {"b": "", "a": "", "c": "score below 0.8", "e": "score below 0.8"}),
    ],
)
def test_selection(keep, threshold, unusable, expected):
    """Scans b, a, c, e from the best down; d could not be stripped."""
    scores = [Score(image, score) for image, score in zip(IMAGES, (0.8, 0.9, 0.5, None, 0.4), strict=True)]
    scores[3] = replace(scores[3], note="no brain found")
    config = SelfTrainConfig(keep=keep, threshold=threshold, rank="ae")
    selected = select(scores, config, {Path(f"{name}.nii"): "no classes" for name in unusable})
    assert [score.image.stem for score in selected] == ["b", "a", "c", "e", "d"]
    notes = {score.image.stem: score.note for score in selected}
    assert notes == notes | expected | {"d": "no brain found"}
    assert all(score.kept == (not score.note) for score in selected)


def test_what_is_flagged_fail_is_selected_only_by_a_threshold():
    scores = [Score(Path("a.nii"), 0.9, 0.9, "fail"), Score(Path("b.nii"), 0.85, 0.85, "look")]
    selected = select(scores, SelfTrainConfig(keep=2), {})
    assert [(score.kept, score.note) for score in selected] == [(False, "flagged fail"), (True, "")]
    selected = select(scores, SelfTrainConfig(keep=2, threshold=0.87), {})
    assert [(score.kept, score.note) for score in selected] == [(True, ""), (False, "score below 0.87")]


def test_a_scan_with_a_note_is_not_kept():
    scores = [Score(Path("a.nii"), 0.9, note="brain of 3 ml"), Score(Path("b.nii"), 0.8)]
    assert [(score.kept, score.note) for score in select(scores, SelfTrainConfig(keep=1, threshold=0.0), {})] == [
        (False, "brain of 3 ml"), (True, ""),
    ]  # fmt: skip


@pytest.mark.parametrize(("count", "expected"), [(4, []), (5, [2]), (10, [2, 7]), (100, [*range(5, 100, 10)])])
def test_a_fifth_of_the_scans_is_kept_apart_ten_at_most(count, expected):
    images = [Path(f"{number}.nii") for number in range(count)]
    config = SelfTrainConfig()
    held_out = held_out_images(images, config)
    assert held_out == [images[number] for number in expected]
    assert set(images_left_out(images, 1, config)) == set(held_out)
    assert compared_images(images, config) == (held_out or images)
    assert held_out_images(images, replace(config, held_out=0.0)) == []


def test_two_halves_of_the_scans_take_turns():
    images = [Path(f"{number}.nii") for number in range(11)]
    config = SelfTrainConfig(halves=True)
    learned = [set(images) - set(images_left_out(images, number, config)) for number in (1, 2, 3)]
    assert learned[0] == learned[2] and not learned[0] & learned[1]
    assert learned[0] | learned[1] == set(images) - set(held_out_images(images, config))
    assert abs(len(learned[0]) - len(learned[1])) <= 1


def test_the_best_round():
    assert best_round({}, 3) == 3
    assert best_round({"0": 0.5, "1": 0.9, "2": 0.9, "3": 0.7}, 3) == 2


def test_each_round_starts_from_the_one_before(inputs, tmp_path, monkeypatch):
    seen = []
    real = cascade_training.train_cascade

    def spy(data, *arguments, **keywords):
        seen.append((len(data.maps), None if data.init is None else data.init.state_dict()))
        return real(data, *arguments, **keywords)

    monkeypatch.setattr(rounds, "train_cascade", spy)
    folder = tmp_path / "run"
    SelfTraining(folder, inputs, OPTIONS, CPU).run()
    assert [count for count, _ in seen] == [3, 3]  # the labelled example and two pseudo-labels
    first = load_file(inputs.model)
    assert all(torch.equal(first[name], value) for name, value in seen[0][1].items())
    second = load_file(folder / "round-1" / "model.safetensors")
    assert all(torch.equal(second[name].float(), value) for name, value in seen[1][1].items())
    assert same_cascade(folder / "model.safetensors", folder / "round-2" / "model.safetensors")
    seen.clear()
    anew = replace(OPTIONS, rounds=replace(OPTIONS.rounds, from_scratch=True))
    SelfTraining(tmp_path / "anew", inputs, anew, CPU).run()
    assert [init for _, init in seen] == [None, None]


def test_threshold_and_too_few(inputs, tmp_path, caplog):
    options = replace(TRUTH, rounds=replace(TRUTH.rounds, rounds=1, keep=4, threshold=0.8))
    SelfTraining(tmp_path / "run", by_truth(inputs), options, CPU).run()
    table = rows(tmp_path / "run")
    kept = [row for row in table if row["kept"] == "1"]
    assert 0 < len(kept) < 3 and all(float(row["score"]) >= 0.8 for row in kept)
    refused = [row for row in table if row["score"] and row["kept"] == "0"]
    assert refused and all(row["note"] == "score below 0.8" for row in refused)
    assert any(f"only {len(kept)} of the 4" in text for text in caplog.messages)


def test_no_usable_scan_is_an_error(inputs, tmp_path):
    alone = replace(inputs, unlabelled=(inputs.unlabelled[1],))
    with pytest.raises(InputError, match="none could be stripped"):
        SelfTraining(tmp_path / "run", alone, OPTIONS, CPU).run()
    high = replace(TRUTH, rounds=replace(TRUTH.rounds, threshold=0.999))
    with pytest.raises(InputError, match=r"the best score is 0\.925"):
        SelfTraining(tmp_path / "high", by_truth(inputs), high, CPU).run()
    gone = replace(inputs, unlabelled=(tmp_path / "gone.nii.gz", tmp_path / "lost.nii.gz"))
    with pytest.raises(InputError, match=r"gone\.nii\.gz: no such file"):
        SelfTraining(tmp_path / "gone", gone, OPTIONS, CPU)
    assert not (tmp_path / "gone").exists()


@pytest.fixture
def judged(monkeypatch):
    """Estimates of the scans of a run by quality network and stripping networks, and by shape alone."""
    qualities = [(0.95, 0.80, "pass"), (0.84, 0.95, "fail"), (0.90, 0.85, "look")]
    seen = []
    real = QualityModel.measure

    def measure(self, mask, reconstruction, image=None, field=None):
        quality = real(self, mask, reconstruction)
        if len(seen) == len(qualities):  # of scans that models are compared on
            return quality
        seen.append((mask, image, field))
        estimated_dice, shape_dice, flag = qualities[len(seen) - 1]
        return replace(quality, estimated_dice=estimated_dice, shape_dice=shape_dice, flag=flag, reasons=("dark",))

    monkeypatch.setattr(QualityModel, "measure", measure)
    return seen


@pytest.mark.parametrize(
    ("rank", "expected"),
    [
        ("estimate", {"scan0": "", "scan2": "", "scan1": "flagged fail"}),
        ("ae", {"scan1": "", "scan2": "", "scan0": ""}),
    ],
)
def test_masks_are_ranked_by_the_networks_that_made_them_or_by_shape_alone(
    inputs, tmp_path, judged, rank, expected
):
    config = replace(OPTIONS.rounds, rounds=1, keep=3, threshold=None, rank=rank)
    SelfTraining(tmp_path / "run", inputs, replace(OPTIONS, rounds=config), CPU).run()
    table = [row for row in rows(tmp_path / "run") if row["score"]]
    assert {Path(row["image"]).name.split(".")[0]: row["note"] for row in table} == expected
    assert [Path(row["image"]).name.split(".")[0] for row in table] == [*expected]
    assert {row["estimate"] for row in table} == {"0.950000", "0.840000", "0.900000"}
    assert {row["reasons"] for row in table} == {"dark"}
    for mask, image, field in judged:  # what the estimate needs
        assert image.shape == mask.shape and np.array_equal(field.logit > 0, mask.array)


@pytest.mark.parametrize("usual_volumes", [True, False])
def test_a_brain_of_unusual_volume_is_no_pseudo_label(inputs, tmp_path, monkeypatch, usual_volumes):
    strip = scans.strip_image
    monkeypatch.setattr(
        scans,
        "strip_image",
        lambda stripper, image: replace(
            strip(stripper, image), unusual="brain of 9 ml" if "scan0" in image.path.name else ""
        ),
    )
    config = replace(TRUTH.rounds, rounds=1, keep=3, usual_volumes=usual_volumes)
    SelfTraining(tmp_path / "run", by_truth(inputs), replace(TRUTH, rounds=config), CPU).run()
    first = rows(tmp_path / "run")[0]
    assert "scan0" in first["image"]
    assert (first["kept"], first["note"]) == (("0", "brain of 9 ml") if usual_volumes else ("1", ""))


def test_rounds_know_the_volumes_of_the_brains_that_the_model_is_for(inputs, tmp_path, monkeypatch):
    seen = []
    real = scans.strip_image
    monkeypatch.setattr(
        scans, "strip_image", lambda stripper, image: seen.append(stripper) or real(stripper, image)
    )
    cascade = checkpoint.load_model(inputs.model)[0]
    checkpoint.save_model(inputs.model, cascade, {}, anatomy=Anatomy((100.0, 300.0)))
    options = replace(OPTIONS, rounds=replace(OPTIONS.rounds, rounds=1))
    SelfTraining(tmp_path / "run", inputs, options, CPU).run()
    assert {stripper.usual_ml for stripper in seen} == {(50.0, 600.0)}
    assert {len(stripper.views) for stripper in seen} == {2}  # beside the window itself: three in all


def test_a_fault_in_one_scan_is_noted_and_a_full_disk_is_not(inputs, tmp_path, monkeypatch):
    real = scans.checksum
    monkeypatch.setattr(scans, "checksum", lambda path: 1 / 0 if "scan1" in path.name else real(path))
    options = replace(OPTIONS, rounds=replace(OPTIONS.rounds, rounds=1))
    SelfTraining(tmp_path / "run", inputs, options, CPU).run()
    assert any("ZeroDivisionError" in row["note"] for row in rows(tmp_path / "run"))

    def full(*arguments):
        raise OutputError("no space left")

    monkeypatch.setattr(scans, "draw_picture", full)
    with pytest.raises(OutputError, match="no space"):
        SelfTraining(tmp_path / "full", inputs, options, CPU).run()


def test_a_folder_with_other_things_is_left_alone(inputs, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "model.safetensors").write_bytes(inputs.model.read_bytes())
    for resume in (False, True):
        with pytest.raises(OutputError, match="not empty"):
            SelfTraining(tmp_path / "run", inputs, OPTIONS, CPU, resume=resume)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["model.safetensors"]


def test_a_scan_named_twice(inputs, tmp_path):
    twice = replace(inputs, unlabelled=(inputs.unlabelled[0], tmp_path / "x" / ".." / "scan0.nii.gz"))
    with pytest.raises(InputError, match="more than once"):
        SelfTraining(tmp_path / "run", twice, OPTIONS, CPU)


def test_a_scan_whose_classes_cannot_be_fitted_makes_way(inputs, tmp_path, monkeypatch):
    real = scans.fit_label_map
    calls = []

    def fit(image, mask, config):
        calls.append(1)
        if len(calls) == 1:
            raise InputError("too few voxels")
        return real(image, mask, config)

    task = SelfTraining(tmp_path / "run", by_truth(inputs), TRUTH, CPU)
    monkeypatch.setattr(scans, "fit_label_map", fit)
    task.run()
    table = rows(tmp_path / "run")
    assert [row["kept"] for row in table[:3]] == ["0", "1", "1"] and "too few voxels" in table[0]["note"]


def test_everything_from_the_labelled_example(inputs, tmp_path, monkeypatch):
    """No models given: both are trained first, and the listener of each hears how far it is."""
    monkeypatch.setattr(rounds, "fitting_cascade", lambda maps: tiny_cascade(VOXEL_MM))
    bare = replace(inputs, model=None, quality=None)
    folder = tmp_path / "run"
    quality = replace(OPTIONS.quality, epochs=3)
    options = replace(OPTIONS, rounds=replace(OPTIONS.rounds, rounds=1), quality=quality)
    training, quality_training = [], []
    listeners = Listeners(training.append, quality_training.append)
    SelfTraining(folder, bare, options, CPU, listeners=listeners).run()
    assert [(p.step, p.steps) for p in training] == [(2, 2), (3, 3)]
    assert [(p.epoch, p.epochs) for p in quality_training] == [(1, 3), (2, 3), (3, 3)]
    _, header = checkpoint.load_model(folder / "round-0" / "model.safetensors")
    assert header["provenance"]["step"] == 2
    assert checkpoint.load_model(folder / "round-0" / "model.safetensors", kind=Autoencoder)
    assert not list(folder.rglob("*.checkpoint"))


def test_the_first_model_begins_as_train_does(inputs, tmp_path, monkeypatch):
    """With the weights of another anatomy, at the voxel size that suits the labelled brain."""
    seen = []
    real = cascade_training.train_cascade

    def spy(data, out, cascade, config, **keywords):
        seen.append((data.init, cascade, config))
        return real(data, out, cascade, config, **keywords)

    monkeypatch.setattr(rounds, "train_cascade", spy)
    other = Cascade(tiny_cascade(0.5))
    checkpoint.save_model(tmp_path / "other.safetensors", other, {})
    begun = replace(inputs, model=None, init=tmp_path / "other.safetensors")
    options = replace(OPTIONS, rounds=replace(OPTIONS.rounds, rounds=1))
    SelfTraining(tmp_path / "run", begun, options, CPU).run()
    init, cascade, config = seen[0]
    assert torch.equal(init.segmenter.head.weight, other.segmenter.head.weight) and config == options.first
    example = rounds.labelled_example(inputs.image, inputs.mask, OPTIONS.gmm)[0]
    assert cascade == continued_cascade([example], other.config) and cascade.voxel_size_mm > 1


def test_pseudo_labels_may_give_their_shapes_alone(inputs, tmp_path, monkeypatch):
    """Which deform the label map of the example: nothing else of them is learned from."""
    seen = []
    real = cascade_training.train_cascade

    def spy(data, *arguments, **keywords):
        seen.append(data)
        return real(data, *arguments, **keywords)

    monkeypatch.setattr(rounds, "train_cascade", spy)
    options = replace(OPTIONS, rounds=replace(OPTIONS.rounds, rounds=1, shapes=True))
    SelfTraining(tmp_path / "run", inputs, options, CPU).run()
    (data,) = seen
    (label_map,) = data.maps
    example = rounds.labelled_example(inputs.image, inputs.mask, OPTIONS.gmm)[0]
    assert np.array_equal(label_map.labels, example.labels) and not data.uses
    assert len(label_map.bank.components) > 0 and float(label_map.bank.mean.abs().max()) > 1


def test_a_model_of_structures_is_refused(inputs, tmp_path):
    classes = (TargetClass(1, "tissue", brain=True), TargetClass(2, "fluid"))
    checkpoint.save_model(inputs.model, Cascade(replace(tiny_cascade(VOXEL_MM), classes=classes)), {})
    with pytest.raises(InputError, match="tells structures apart"):
        SelfTraining(tmp_path / "run", inputs, OPTIONS, CPU)


def test_the_final_model_holds_the_quality_network(inputs, tmp_path):
    """So that strip --qc with it judges the anatomy by its own network."""
    folder = tmp_path / "run"
    options = replace(OPTIONS, rounds=replace(OPTIONS.rounds, rounds=1))
    SelfTraining(folder, inputs, options, CPU).run()
    network, expected = (
        checkpoint.load_model(path, kind=Autoencoder)[0].state_dict()
        for path in (folder / "model.safetensors", inputs.quality)
    )
    assert all(torch.allclose(network[name], value, atol=1e-3) for name, value in expected.items())
    assert read_header(folder / "model.safetensors").anatomy is not None


def test_images_are_made_of_the_example_and_of_pseudo_labels_by_their_shares(inputs, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(
        rounds, "train_cascade", lambda data, out, *_, **__: seen.append(data.uses) or out.write_bytes(weights)
    )
    weights = inputs.model.read_bytes()
    for share, voxels in ((0.5, 1.0), (0.2, 0.0)):
        config = replace(OPTIONS.rounds, rounds=1, example_share=share, spared_voxels=voxels)
        SelfTraining(tmp_path / str(share), inputs, replace(OPTIONS, rounds=config), CPU).run()
    assert seen == [
        [MapUse(0.5), MapUse(0.25, 1.0), MapUse(0.25, 1.0)], [MapUse(0.2), MapUse(0.4), MapUse(0.4)],
    ]  # fmt: skip


def test_masks_without_geometry_are_those_of_right_headers_if_voxels_are_trusted(inputs, tmp_path, monkeypatch):
    """The example, what the quality network learns from, and references to rank by."""
    bare = replace(by_truth(inputs), quality=None)
    masks, trained = [bare.mask, *bare.references], []
    options = replace(TRUTH, rounds=replace(TRUTH.rounds, rounds=1))

    network = checkpoint.load_model(inputs.quality, kind=Autoencoder)[0]
    monkeypatch.setattr(rounds, "quality_part_task", lambda mask, *others: trained.append(mask))
    monkeypatch.setattr(
        rounds,
        "train_quality_part",
        lambda task, model, **keywords: checkpoint.add_quality(model, checkpoint.QualityPart(network, {})),
    )
    SelfTraining(tmp_path / "right", bare, options, CPU).run()
    for path in set(masks):
        nib.save(nib.Nifti1Image(np.asarray(nib.load(path).dataobj), np.eye(4)), path)
    with pytest.raises(GridError, match="aside"):
        SelfTraining(tmp_path / "trusted", bare, options, CPU)
    trusting = replace(bare, grids=MaskGridConfig(trust_voxels=True))
    SelfTraining(tmp_path / "trusted", trusting, options, CPU).run()
    np.testing.assert_array_equal(trained[1].array, trained[0].array)
    np.testing.assert_array_equal(trained[1].vox2world, trained[0].vox2world)
    right, trusted = (
        {name: value for name, value in contents(tmp_path / run).items() if name.endswith(("tsv", "gz"))}
        for run in ("right", "trusted")
    )
    assert right
    assert_same(right, trusted)
    with pytest.raises(InputError, match="began with another trust_voxels"):
        SelfTraining(tmp_path / "trusted", bare, options, CPU, resume=True)


def test_a_record_of_an_older_version_trusted_no_voxels(inputs, tmp_path):
    SelfTraining(tmp_path / "run", inputs, OPTIONS, CPU)
    path = tmp_path / "run" / "run.json"
    values = json.loads(path.read_text())
    assert values.pop("trust_voxels") is False
    path.write_text(json.dumps(values))
    SelfTraining(tmp_path / "run", inputs, OPTIONS, CPU, resume=True)


def test_the_record(inputs, tmp_path):
    folder = tmp_path / "run"
    SelfTraining(folder, inputs, OPTIONS, CPU).run()
    values = json.loads((folder / "run.json").read_text())
    assert values["configuration"]["later"]["steps"] == 3
    assert values["labelled"]["mask"] == {"name": "mask.nii.gz", "sha256": checksum(inputs.mask)}
    assert values["labelled"]["image"]["sha256"] == checksum(inputs.image)
    versions = {"singlestrip": singlestrip.__version__, "torch": torch.__version__, "numpy": np.__version__}
    assert values["versions"] == versions
    assert all(len(row["sha256"]) == 64 for row in rows(folder) if row["score"])
    page = (folder / "index.html").read_text()
    assert "scan0" in page and "broken" in page
    assert sorted(p.name for p in (folder / "pictures").iterdir()) == [f"scan{n}.png" for n in range(3)]


def test_a_second_run_is_refused(inputs, tmp_path):
    folder = tmp_path / "run"
    options = replace(OPTIONS, rounds=replace(OPTIONS.rounds, rounds=1))
    SelfTraining(folder, inputs, options, CPU).run()
    before = contents(folder)
    with pytest.raises(EarlierRunError, match="holds an earlier run; name another folder, or resume"):
        SelfTraining(folder, inputs, options, CPU)
    with pytest.raises(InputError, match="configuration"):
        SelfTraining(folder, inputs, OPTIONS, CPU, resume=True)
    with pytest.raises(InputError, match="unlabelled"):
        SelfTraining(folder, replace(inputs, unlabelled=inputs.unlabelled[:2]), options, CPU, resume=True)
    SelfTraining(folder, inputs, options, CPU, resume=True).run()
    assert_same(contents(folder), before)


def test_ranks_differ(inputs, tmp_path, monkeypatch):
    """By agreement under augmentation a scan whose copies agree comes first, whatever its estimate."""
    order = {"scan2.nii.gz": 0, "scan0.nii.gz": 3, "scan1.nii.gz": 5}

    def copies(stripper, scan):
        masks = np.zeros((4, 8, 8, 8), dtype=bool)
        masks[:, 2:6, 2:6, 2:6] = True
        name = next(
            n for n in order if np.array_equal(np.asarray(nib.load(inputs.image.parent / n).dataobj), scan.array)
        )
        masks[0, 2 : 2 + order[name] // 2] = False
        return masks

    monkeypatch.setattr(scans, "augmented_masks", copies)
    options = replace(OPTIONS, rounds=replace(OPTIONS.rounds, rounds=1, rank="tta"))
    SelfTraining(tmp_path / "run", inputs, options, CPU).run()
    names = [row["image"].split("/")[-1] for row in rows(tmp_path / "run")[:3]]
    assert names == ["scan2.nii.gz", "scan0.nii.gz", "scan1.nii.gz"]


def test_the_best_round_is_kept_where_validation_falls(inputs, tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    scores = iter([0.5, 0.9, 0.7])
    monkeypatch.setattr(rounds, "validate", lambda model, pairs: next(scores))
    monkeypatch.setattr(cascade_training, "validate", lambda model, pairs: 0.0)
    folder = tmp_path / "run"
    checked = replace(inputs, validation=((inputs.image, inputs.mask),))
    SelfTraining(folder, checked, OPTIONS, CPU).run()
    assert same_cascade(folder / "model.safetensors", folder / "round-1" / "model.safetensors")
    assert any("after round 1" in text for text in caplog.messages)
    assert json.loads((folder / "run.json").read_text())["validation_dice"] == {"0": 0.5, "1": 0.9, "2": 0.7}


def interrupt_call(monkeypatch, module, name, number):
    """Stop the program at the given call of a function of a module."""
    real, calls = getattr(module, name), []

    def stop(*arguments, **keywords):
        calls.append(1)
        if len(calls) == number:
            raise KeyboardInterrupt
        return real(*arguments, **keywords)

    monkeypatch.setattr(module, name, stop)


def signal_at_step(monkeypatch, step):
    update = Run.update

    def update_and_stop(run):
        if run.step == step - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return update(run)

    monkeypatch.setattr(Run, "update", update_and_stop)


@pytest.mark.parametrize(
    ("place", "cut"),
    [
        ("scoring", 0),
        ("scoring, a row cut short", 3),
        ("scoring, a row cut short", 100),
        ("selecting", 0),
        ("training", 0),
        ("before the second round", 0),
        ("comparing", 0),
        ("the page", 0),
    ],
)
def test_killed_and_resumed(inputs, tmp_path, place, cut):
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    unbroken.mkdir()
    broken.mkdir()
    SelfTraining(unbroken / "run", inputs, OPTIONS, CPU).run()
    folder = broken / "run"
    with pytest.MonkeyPatch.context() as patch:
        task = SelfTraining(folder, inputs, OPTIONS, CPU)
        if place.startswith("scoring"):
            interrupt_call(patch, scans, "strip_image", 2)
        elif place == "selecting":
            interrupt_call(patch, scans, "fit_label_map", 2)
        elif place == "training":
            signal_at_step(patch, 2)
        elif place == "before the second round":
            interrupt_call(patch, rounds, "Scorer", 2)
        elif place == "comparing":
            interrupt_call(patch, guard, "compare_scans", 2)
        else:
            interrupt_call(patch, rounds, "write_scores_page", 1)
        with pytest.raises((KeyboardInterrupt, Interrupted)):
            task.run()
    if place == "scoring, a row cut short":
        partial = folder / "round-1" / "scores.partial.tsv"
        text = partial.read_text()
        partial.write_text(text[: len(text) - cut])
    SelfTraining(folder, inputs, OPTIONS, CPU, resume=True).run()
    assert_same(contents(folder), contents(unbroken / "run"))


def test_the_command(inputs, tmp_path, capsys):
    scans = tmp_path / "scans.txt"
    scans.write_text("".join(f"{path}\n" for path in inputs.unlabelled))
    folder = tmp_path / "run"
    line = ["self-train", "-i", inputs.image, "-m", inputs.mask, "--list", scans, "-o", folder]
    line += [
        "--model",
        inputs.model,
        "--qc-model",
        inputs.quality,
        "--rounds",
        1,
        "--keep",
        1,
        "--steps",
        2,
        "--threshold",
        0.0001,
    ]
    line += ["--seed", 5, "--lr", 0.01, "--batch", 2]
    line = [str(part) for part in line]
    assert main(line) == 0
    assert "round-1" in capsys.readouterr().err
    configuration = json.loads((folder / "run.json").read_text())["configuration"]
    later = configuration["later"]
    assert configuration["rounds"]["keep"] == 1 and later["steps"] == 2 and later["seed"] == 5
    assert later["batch"] == 2 and later["lr"] == 0.01
    assert main(line) == 1 and "--resume" in capsys.readouterr().err
    assert main([*line, "--resume", "-q"]) == 0 and capsys.readouterr().err == ""


def test_the_quality_network_in_the_file_of_the_model_is_taken(inputs, tmp_path):
    """Unless another one is named, or asked to be trained."""
    path = tmp_path / "own.safetensors"
    quality = checkpoint.load_model(inputs.quality, kind=Autoencoder)[0]
    cascade = checkpoint.load_model(inputs.model)[0]
    checkpoint.save_model(path, cascade, {}, quality=checkpoint.QualityPart(quality, {}))

    def chosen(*options):
        line = ["self-train", "-i", "a.nii", "-m", "b.nii", "--list", "c.txt", "-o", "run", *options]
        return self_train._quality_file(build_parser().parse_args([str(part) for part in line]))

    assert chosen("--model", path) == path
    assert chosen("--model", path, "--qc-model", inputs.quality) == inputs.quality
    assert chosen("--qc-model", path) == path
    assert chosen() is chosen("--model", inputs.model) is chosen("--model", path, "--epochs", "3") is None
    folder = SelfTraining(tmp_path / "run", replace(inputs, quality=path), OPTIONS, CPU).run().parent
    assert not (folder / "quality.safetensors").exists()
    expected = SelfTraining(tmp_path / "expected", inputs, OPTIONS, CPU).run().parent
    assert rows(folder) == rows(expected)


def test_the_defaults_of_the_command_are_those_of_the_dataclasses():
    line = ["self-train", "-i", "a.nii", "-m", "b.nii", "--list", "c.txt", "-o", "run"]
    assert self_train._options(build_parser().parse_args(line)) == Options()
    assert Options().first == TransferConfig()
    given = self_train._options(build_parser().parse_args([*line, "--steps", "7", "--lr", "0.5"]))
    assert (given.first.steps, given.later.steps, given.later.lr) == (600, 7, 0.5)


def test_each_option_of_the_command_changes_something(inputs, tmp_path):
    line = ["self-train", "-i", "a.nii", "-m", "b.nii", "--list", "c.txt", "-o", "run"]

    def options(*extra, model_file=None):
        return self_train._options(build_parser().parse_args([*line, *extra]), model_file)

    usual = options()
    rounds_with = {
        "--halves": {"halves": True},
        "--shapes": {"shapes": True},
        "--example-share 0.7": {"example_share": 0.7},
        "--spare-border 0": {"spared_voxels": 0.0},
        "--accept-worse": {"accept_worse": True},
        "--rank ae": {"rank": "ae"},
    }
    for text, expected in rounds_with.items():
        assert options(*text.split()) == replace(usual, rounds=replace(usual.rounds, **expected)), text
    from_nothing = options("--init", "none")
    assert from_nothing.first == TrainConfig() and from_nothing.later == RoundTrainConfig()
    assert options("--from-scratch").later.lr == TrainConfig.lr > usual.later.lr
    synthesis = SynthConfig(layer_probability=0.123)
    provenance = {"configuration": asdict(TrainConfig(synth=synthesis))}
    checkpoint.save_model(inputs.model, checkpoint.load_model(inputs.model)[0], provenance)
    assert options("--model", "m", model_file=inputs.model).later == RoundTrainConfig(synth=synthesis)


def test_the_command_begins_with_the_shipped_weights(inputs, tmp_path, monkeypatch):
    seen = []

    class Noted:
        def __init__(self, folder, inputs, *others):
            seen.append((inputs.model, inputs.init))

        def run(self):
            return Path("model.safetensors")

    monkeypatch.setattr(rounds, "SelfTraining", Noted)
    (tmp_path / "scans.txt").write_text("scan.nii\n")
    line = f"self-train -i a.nii -m b.nii --list {tmp_path / 'scans.txt'} -o run"
    for extra in ("", " --init none", f" --init {inputs.model}", f" --model {inputs.model}"):
        assert main(f"{line}{extra} --quiet".split()) == 0
    shipped = find_model(None)
    assert seen == [(None, shipped), (None, None), (None, inputs.model), (inputs.model, None)]


@pytest.mark.parametrize(
    "extra",
    [
        ["--model", "m.safetensors", "--first-steps", "3"],
        ["--model", "m.safetensors", "--init", "none"],
        ["--example-share", "1.5"],
        ["--shapes", "--spare-border", "2"],
        ["--shapes", "--example-share", "0.2"],
        ["--spare-border", "-1"],
        ["--qc-model", "q.safetensors", "--epochs", "3"],
        ["--rank", "truth"],
        ["--reference-list", "list.txt"],
        ["--rank", "luck"],
        ["--keep", "0"],
    ],
)
def test_wrong_combinations(tmp_path, extra, capsys):
    line = ["self-train", "-i", "a.nii", "-m", "b.nii", "--list", "c.txt", "-o", str(tmp_path / "run")]
    with pytest.raises(SystemExit) as stopped:
        main([*line, *extra])
    assert stopped.value.code == 2 and not (tmp_path / "run").exists()
    assert capsys.readouterr().err.strip()


# A folder that holds other things


STANDING = {"labelled": 0.9, "segmenter": 0.9, "locator": 0.9, "agreement": None}
DAMAGED_RECORDS = [
    {"finished": None},
    {"finished": "round-1"},
    {"finished": [1]},
    {"finished": ["round-3"]},
    {"finished": ["../round-1"]},
    {"decisions": {"0": {"before": STANDING, "after": STANDING, "faults": []}}},
    {"decisions": {"1": {"before": STANDING, "after": STANDING}}},
    {"decisions": {"1": {"before": STANDING, "after": STANDING | {"labelled": 2}, "faults": []}}},
    {"decisions": []},
    {"validation_dice": None},
    {"validation_dice": {"0": 0.5}},  # the run has no validation
    {"validation_dice": {"0": "0.5"}},
    {"validation_dice": {"0": float("nan")}},
    {"validation_dice": {"0": 7}},
    {"unlabelled": 5},
    {"configuration": []},
    {"labelled": None},
]


def test_a_damaged_record_is_said(inputs, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    SelfTraining(folder, inputs, OPTIONS, CPU)
    path = folder / "run.json"
    good = json.loads(path.read_text())
    monkeypatch.setattr(rounds, "labelled_example", lambda *arguments: pytest.fail("too late"))
    for change in DAMAGED_RECORDS:
        path.write_text(json.dumps(good | change))
        with pytest.raises(InputError, match=rf"{folder}.*(damaged|began with another)"):
            SelfTraining(folder, inputs, OPTIONS, CPU, resume=True)
    for data in (b"", b"{}", b"[]", b"5", b"no JSON", b"\xff\xfe", b"[" * 100_000):
        path.write_bytes(data)
        with pytest.raises(InputError, match=rf"{path}: damaged .*another folder"):
            SelfTraining(folder, inputs, OPTIONS, CPU, resume=True)


def score_table(inputs, *changes):
    """A finished table of the run, with some cells of its first row changed."""
    scores = [
        record.score_row(Score(image, 0.9, 0.9, "pass", number < 2, sha256="a" * 64, reasons="dark"))
        for number, image in enumerate(inputs.unlabelled)
    ]
    scores[0] |= dict(changes)
    return "".join("\t".join(cells) + "\n" for cells in (record.SCORE_COLUMNS, *(s.values() for s in scores)))


DAMAGED_TABLES = {
    "a path that leaves the folder": lambda inputs: score_table(inputs, ("image", "../../etc/passwd")),
    "an image of another list": lambda inputs: score_table(inputs, ("image", str(inputs.image))),
    "an image twice": lambda inputs: score_table(inputs, ("image", str(inputs.unlabelled[1]))),
    "no image": lambda inputs: score_table(inputs, ("image", "")),
    "nan": lambda inputs: score_table(inputs, ("score", "nan")),
    "inf": lambda inputs: score_table(inputs, ("estimate", "inf")),
    "huge": lambda inputs: score_table(inputs, ("score", "1e308")),
    "negative": lambda inputs: score_table(inputs, ("score", "-0.1")),
    "no number": lambda inputs: score_table(inputs, ("score", "good")),
    "kept without a score": lambda inputs: score_table(inputs, ("score", "")),
    "a flag": lambda inputs: score_table(inputs, ("flag", "fine")),
    "kept": lambda inputs: score_table(inputs, ("kept", "yes")),
    "a checksum": lambda inputs: score_table(inputs, ("sha256", "../x")),
    "none kept": lambda inputs: score_table(inputs).replace("\t1\t", "\t0\t"),
    "too many kept": lambda inputs: score_table(inputs).replace("\t0\t", "\t1\t"),
    "a row too few": lambda inputs: score_table(inputs).rpartition(str(inputs.unlabelled[-1]))[0],
    "a cell too few": lambda inputs: score_table(inputs).replace("\tpass", "", 1),
    "a cell too many": lambda inputs: score_table(inputs).replace("pass", "pass\tpass", 1),
    "other columns": lambda inputs: score_table(inputs).replace("estimate", "guess"),
    "not UTF-8": lambda inputs: b"\xff\xfe" + score_table(inputs).encode("utf-16"),
    "a field without end": lambda inputs: score_table(inputs) + '"' + "x" * 200_000 + "\n",
    "zeros": lambda inputs: bytes(1000),
    "nothing": lambda inputs: "",
}


def test_a_damaged_score_table_is_said(inputs, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    task = SelfTraining(folder, inputs, OPTIONS, CPU)
    table = folder / "round-1" / "scores.tsv"
    table.parent.mkdir()
    monkeypatch.setattr(rounds, "train_cascade", lambda *arguments, **keywords: pytest.fail("trained on"))
    for name, damaged in DAMAGED_TABLES.items():
        text = damaged(inputs)
        table.write_bytes(text if isinstance(text, bytes) else text.encode())
        with pytest.raises(InputError, match=rf"{table}: damaged \(.*remove it"):
            task.run()
            pytest.fail(name)
    table.write_text(score_table(inputs))  # this one is right: only the label maps are missing
    with pytest.raises(InputError, match=r"labels/00000\.nii\.gz: no such file"):
        task.run()


def test_a_pseudo_label_whose_record_is_gone_is_not_learned_from(inputs, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    task = SelfTraining(folder, inputs, OPTIONS, CPU)
    with monkeypatch.context() as patch:
        patch.setattr(rounds, "train_cascade", lambda *arguments, **keywords: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            task.run()
    (fit_record, *_) = sorted((folder / "round-1" / "labels").glob("*.json"))
    fit_record.unlink()
    with pytest.raises(InputError, match=rf"{fit_record}: the record of a label map is gone"):
        task.run()
    (folder / "round-1" / "scores.tsv").unlink()
    with monkeypatch.context() as patch:
        patch.setattr(rounds, "train_cascade", lambda *arguments, **keywords: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            task.run()
    assert fit_record.is_file()


def test_names_that_are_not_utf8(inputs, tmp_path):
    strange = tmp_path / os.fsdecode(b"scan-\xff.nii.gz")
    inputs.unlabelled[0].rename(strange)
    inputs = replace(inputs, unlabelled=(strange, *inputs.unlabelled[1:]))
    folder = tmp_path / "run"
    SelfTraining(folder, inputs, OPTIONS, CPU)
    partial = tmp_path / "scores.tsv"
    record.write_scores(partial, [Score(strange, 0.5)])
    record.append_score(partial, Score(inputs.unlabelled[1], 0.25, note="a\tnote"))
    images = [score.image for score in record.read_scores(partial, inputs.unlabelled, None)]
    assert images == [strange, inputs.unlabelled[1]]
    SelfTraining(folder, inputs, OPTIONS, CPU, resume=True)


# What is checked before the work


def test_what_can_be_checked_is_checked_before_the_fit(inputs, tmp_path, monkeypatch):
    monkeypatch.setattr(rounds, "labelled_example", lambda *arguments: pytest.fail("too late"))
    gone = tmp_path / "gone.nii.gz"
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(b"no model")
    (tmp_path / "file").touch()
    for changed, folder, error in (
        (replace(inputs, image=gone), "run", "gone"),
        (replace(inputs, validation=((inputs.image, gone),)), "run", "gone"),
        (replace(inputs, model=damaged), "run", "damaged"),
        (replace(inputs, quality=damaged), "run", "damaged"),
        (replace(inputs, quality=inputs.model), "run", "holds no quality network"),
        (inputs, "file", "file"),
        (inputs, "file/run", "file"),
        (inputs, "x" * 300, "cannot be made"),
    ):
        with pytest.raises(SingleStripError, match=error):
            SelfTraining(tmp_path / folder, changed, OPTIONS, CPU)
    assert not (tmp_path / "run").exists()
