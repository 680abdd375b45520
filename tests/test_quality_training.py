"""Training of the quality network from file to file: what it writes, exact resume, signals, damage."""

import csv
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from phantoms import describe_model, make_head, tiny_cascade
from safetensors.torch import load_file

from singlestrip.cli.main import main
from singlestrip.configuration import AutoencoderConfig, AutoencoderTrainConfig, TrainConfig
from singlestrip.errors import DivergedError, EarlierRunError, InputError, Interrupted, ModelError
from singlestrip.io.checksum import checksum
from singlestrip.networks import training_state
from singlestrip.networks.model_header import AUTOENCODER
from singlestrip.quality import training
from singlestrip.quality.training import QualityRecipe, train_quality
from singlestrip.training.cascade import TrainingData, train_cascade
from singlestrip.training.run import Run
from singlestrip.training.run_files import RunFiles

CPU = torch.device("cpu")
LAYERS = ((4, 2, 8), (4, 2, 12), (4, 2, 16), (3, 2, 16), (4, 2, 16))  # 24 voxels to a code of one
SLICE_LAYERS = ((4, 2, 8), (4, 2, 12), (3, 1, 12))
VOLUME = AutoencoderConfig(voxel_size_mm=8.0, size=24, layers=LAYERS)
EPOCHS = 3


@pytest.fixture(autouse=True)
def small_networks(monkeypatch):
    """Small networks whatever the brain; dropout draws from the process's own generator."""

    def fitting(brain_mm, kind="volume", axes=(2,)):
        slices = AutoencoderConfig("slices", 6.0, 32, axes, SLICE_LAYERS, dropout=0.2)
        return VOLUME if kind == "volume" else slices

    monkeypatch.setattr(AutoencoderConfig, "fitting", staticmethod(fitting))


def recipe(kind="volume", **changes):
    train = AutoencoderTrainConfig(epochs=EPOCHS, batch=4, masks_per_epoch=8, lr=5e-3)
    return QualityRecipe(replace(train, **changes), kind)


@pytest.fixture(scope="module")
def mask(tmp_path_factory):
    return make_head().save(tmp_path_factory.mktemp("head"))[1]


@pytest.fixture(scope="module")
def unbroken(mask, tmp_path_factory):
    """A function that gives the model file of an unbroken run of a kind."""
    made = {}

    def model(kind):
        if kind not in made:
            made[kind] = tmp_path_factory.mktemp(kind) / "quality.safetensors"
            train_quality(mask, made[kind], recipe(kind), CPU)
        return made[kind]

    return model


def rows(model):
    """Rows of metrics.csv but for the time."""
    with RunFiles(model).metrics.open() as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


def assert_same_run(model, other):
    weights, expected = load_file(model), load_file(other)
    assert set(weights) == set(expected)
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    assert rows(model) == rows(other)


def test_a_run_leaves_model_metrics_curve_and_checkpoint(mask, tmp_path):
    told = []
    model = train_quality(mask, tmp_path / "quality.safetensors", recipe(), CPU, progress=told.append)
    assert {path.name for path in tmp_path.iterdir()} == {
        "quality.safetensors", "quality.checkpoint", "quality.metrics.csv", "quality.curve.png",
    }  # fmt: skip
    assert [row["step"] for row in rows(model)] == ["2", "4", "6"]  # one an epoch
    assert list(rows(model)[0]) == ["step", "reconstruction_loss", "rate"]
    assert [(each.epoch, each.epochs) for each in told] == [(1, 3), (2, 3), (3, 3)]
    assert [f"{each.loss:.5f}" for each in told] == [row["reconstruction_loss"] for row in rows(model)]
    assert told[-1].seconds_left == 0
    assert RunFiles(model).curve.read_bytes().startswith(b"\x89PNG")
    provenance = describe_model(model, AUTOENCODER)["provenance"]
    assert provenance["labelled"] == [{"mask": {"name": "mask.nii.gz", "sha256": checksum(mask)}}]
    assert (provenance["step"], provenance["seed"], provenance["configuration"]["epochs"]) == (6, 0, EPOCHS)


# Resume


@pytest.mark.parametrize("step", [1, 2, 3, 6])  # 1 and 3 lie within epochs, 6 is the last of masks whole
@pytest.mark.parametrize("kind", ["volume", "slices"])
def test_a_stopped_run_resumes_exactly(mask, tmp_path, monkeypatch, unbroken, kind, step):
    model = tmp_path / "quality.safetensors"
    update = Run.update

    def update_and_stop(run):
        if run.step == step - 1:
            os.kill(os.getpid(), signal.SIGTERM if step % 2 else signal.SIGINT)
        return update(run)

    handlers = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        patch.setattr(Run, "update", update_and_stop)
        with pytest.raises(Interrupted, match=rf"quality\.checkpoint: stopped by a signal at step {step};"):
            train_quality(mask, model, recipe(kind), CPU)
    assert not model.exists()
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == handlers
    torch.manual_seed(99)  # another process has another generator
    train_quality(mask, model, recipe(kind), CPU, resume=True)
    assert_same_run(model, unbroken(kind))


def test_a_killed_run_resumes_from_its_last_checkpoint(mask, tmp_path, unbroken):
    class Killed(Exception):
        pass

    def die(progress):
        if progress.epoch == 3:
            raise Killed

    model = tmp_path / "quality.safetensors"
    with pytest.raises(Killed):
        train_quality(mask, model, recipe(save_every=2), CPU, progress=die)
    assert training_state.load_training_state(RunFiles(model).checkpoint)["step"] == 4
    train_quality(mask, model, recipe(save_every=2), CPU, resume=True)
    assert_same_run(model, unbroken("volume"))


@pytest.fixture
def begun(unbroken, tmp_path):
    """A finished run of masks whole, to go on with."""
    shutil.copytree(unbroken("volume").parent, tmp_path, dirs_exist_ok=True)
    return tmp_path / "quality.safetensors"


def test_a_finished_run_can_be_resumed_to_more_epochs(mask, begun):
    train_quality(mask, begun, recipe(epochs=EPOCHS + 1), CPU, resume=True)
    assert [row["step"] for row in rows(begun)] == ["2", "4", "6", "8"]


def test_a_checkpoint_is_not_overwritten(mask, begun):
    with pytest.raises(EarlierRunError, match="remove the file, or resume the run"):
        train_quality(mask, begun, recipe(), CPU)


def test_another_run_is_refused(mask, begun, tmp_path):
    for changes, what in (({"lr": 0.1}, "another lr"), ({"seed": 4}, "another seed"), ({"epochs": 2}, "of 4")):
        with pytest.raises(ModelError, match=what):
            train_quality(mask, begun, recipe(**changes), CPU, resume=True)
    with pytest.raises(ModelError, match="networks of another shape"):
        train_quality(mask, begun, recipe("slices"), CPU, resume=True)
    image = nib.load(mask)
    values = np.asarray(image.dataobj).copy()
    values[16, 16, 16] = 0
    nib.save(nib.Nifti1Image(values, image.affine), tmp_path / "other.nii.gz")
    with pytest.raises(ModelError, match="other images or masks"):
        train_quality(tmp_path / "other.nii.gz", begun, recipe(), CPU, resume=True)


def test_a_checkpoint_of_the_other_networks_is_refused(mask, tmp_path):
    head = make_head(24, spacing_mm=2.0)
    model = tmp_path / "model.safetensors"
    train_cascade(TrainingData([head.native]), model, tiny_cascade(2.0), TrainConfig(steps=1), device=CPU)
    with pytest.raises(ModelError, match=r"model\.checkpoint: not a training checkpoint"):
        train_quality(mask, model, recipe(), CPU, resume=True)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("encoder.1.running_var", lambda value: value - 100),
        ("encoder.1.num_batches_tracked", lambda value: value.double()),
        ("encoder.0.weight", lambda value: value * torch.nan),
    ],
)
def test_damaged_weights_are_refused(mask, begun, name, change):
    path = RunFiles(begun).checkpoint
    state = training_state.load_training_state(path)
    state["model"][name] = change(state["model"][name])
    training_state.save_training_state(path, state)
    with pytest.raises(ModelError, match=rf"{path}: damaged \(weights"):
        train_quality(mask, begun, recipe(), CPU, resume=True)


def test_averaged_weights_are_refused(mask, begun):
    path = RunFiles(begun).checkpoint
    state = training_state.load_training_state(path)
    training_state.save_training_state(path, state | {"averaged": state["model"]})
    with pytest.raises(ModelError, match="averaged weights"):
        train_quality(mask, begun, recipe(), CPU, resume=True)


# What is said


def test_a_mask_that_teaches_nothing_is_named_and_nothing_is_written(tmp_path):
    path = tmp_path / "empty.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros((8, 8, 8), dtype=np.uint8), np.eye(4)), path)
    with pytest.raises(InputError, match=rf"{path}: the mask is empty"):
        train_quality(path, tmp_path / "quality.safetensors", recipe(), CPU)
    assert [each.name for each in tmp_path.iterdir()] == ["empty.nii.gz"]


def test_remarks_on_the_mask_are_logged(mask, tmp_path, caplog):
    image = nib.load(mask)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj) * np.float32(0.5), image.affine), tmp_path / "half.nii.gz")
    soft = np.asarray(image.dataobj) * np.linspace(0.6, 1, 32, dtype=np.float32)
    nib.save(nib.Nifti1Image(soft, image.affine), tmp_path / "soft.nii.gz")
    for name in ("half", "soft"):
        train_quality(tmp_path / f"{name}.nii.gz", tmp_path / f"{name}.safetensors", recipe(epochs=1), CPU)
    (said,) = caplog.messages
    assert said.startswith(f"{tmp_path}/soft.nii.gz: ")


def test_a_loss_that_is_not_finite_ends_the_run(mask, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "reconstruction_loss", lambda logit, target: logit.sum() * float("nan"))
    with pytest.raises(DivergedError, match="reconstruction loss is not finite at step 1"):
        train_quality(mask, tmp_path / "quality.safetensors", recipe(), CPU)
    assert not (tmp_path / "quality.safetensors").exists()


@pytest.fixture
def command(mask, tmp_path, monkeypatch):
    """The command line that trains a model of one epoch in the working folder."""
    monkeypatch.chdir(tmp_path)
    return ["train-qc", "-o", "m.safetensors", "-m", str(mask), "--epochs", "1", "--device", "cpu"]


def test_the_command_resumes_and_names_the_option(command, capsys):
    assert main(command) == 0 and capsys.readouterr() == ("", "")
    assert main(command) == 1
    assert capsys.readouterr().err == (
        "singlestrip: m.checkpoint: holds an earlier run; remove the file, or resume the run (--resume)\n"
    )
    assert main([*command[:6], "2", "--resume"]) == 0 and capsys.readouterr() == ("", "")
    assert describe_model(Path("m.safetensors"), AUTOENCODER)["provenance"]["configuration"]["epochs"] == 2


def test_the_command_names_only_options_that_it_has(command, monkeypatch, capsys):
    monkeypatch.setattr(training, "reconstruction_loss", lambda logit, target: logit.sum() * float("nan"))
    assert main(command) == 1
    said = capsys.readouterr().err
    assert said.endswith("begin anew at a lower learning rate (--resume)\n") and "--lr" not in said
