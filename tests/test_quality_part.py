"""`train` makes one file: the cascade, the quality network of the same anatomy, and the volumes of its brains."""

import csv
import os
import shutil
import signal
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from phantoms import describe_model, make_head, tiny_cascade
from safetensors.torch import load_file

from singlestrip.cli.commands import train as command
from singlestrip.cli.main import main
from singlestrip.configuration import AutoencoderConfig, QualityPartTrainConfig
from singlestrip.errors import InputError
from singlestrip.networks import checkpoint
from singlestrip.networks.autoencoder import Autoencoder
from singlestrip.networks.cascade import Cascade
from singlestrip.quality import training
from singlestrip.quality.training import quality_part_task
from singlestrip.space.scan import Scan
from singlestrip.synthesis import labelling
from singlestrip.training.fitting import labelled_anatomy
from singlestrip.training.run import Run
from singlestrip.training.run_files import QUALITY_PART, RunFiles

CPU = torch.device("cpu")
LAYERS = ((4, 2, 8), (4, 2, 12), (4, 2, 16), (3, 2, 16), (4, 2, 16))  # 24 voxels to a code of one
SHIPPED = AutoencoderConfig(voxel_size_mm=8.0, size=24, layers=LAYERS)
FITTING = AutoencoderConfig(voxel_size_mm=7.0, size=24, layers=LAYERS)
MODEL = Path("new.safetensors")
LINE = "train -l labels.nii.gz -o new.safetensors --init tiny --steps 4 --save-every 2 --amp off --seed 3 -q"
CASCADE_STEPS = 4
FILES = {
    *("new.safetensors", "new.checkpoint", "new.metrics.csv", "new.curve.png"),
    *("new.quality.checkpoint", "new.quality.metrics.csv", "new.quality.curve.png"),
}


@pytest.fixture(autouse=True)
def small_networks(monkeypatch):
    """A small network whatever the brain, and a short training."""
    monkeypatch.setattr(AutoencoderConfig, "fitting", staticmethod(lambda *arguments: FITTING))
    short = partial(QualityPartTrainConfig, epochs=3, batch=4, masks_per_epoch=8, save_every=1)
    monkeypatch.setattr(command, "QualityPartTrainConfig", short)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A folder of models: an untrained cascade, tiny, and the shipped quality network."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    checkpoint.save_model(folder / "tiny.safetensors", Cascade(tiny_cascade(8.0)), {})
    checkpoint.save_model(folder / "quality.safetensors", Autoencoder(SHIPPED), {"made": "for tests"})
    return folder


@pytest.fixture
def files(tmp_path, monkeypatch, models):
    """image.nii.gz, mask.nii.gz and labels.nii.gz in the working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SINGLESTRIP_MODELS", str(models))
    make_head().save(tmp_path)
    return tmp_path


def run(line: str) -> int:
    return main(line.split())


def names() -> set[str]:
    return {path.name for path in Path().iterdir()} - {"image.nii.gz", "mask.nii.gz", "labels.nii.gz"}


def quality_rows() -> list[dict[str, str]]:
    """Rows of the quality network's metrics but for the time."""
    with RunFiles(MODEL, QUALITY_PART).metrics.open() as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


@pytest.fixture
def unbroken(files):
    """Weights of an unbroken run and rows of its metrics; its files are gone."""
    assert run(LINE) == 0
    assert names() == FILES
    result = load_file(MODEL), quality_rows()
    for name in FILES:
        Path(name).unlink()
    return result


def assert_same_run(unbroken):
    expected, rows = unbroken
    weights = load_file(MODEL)
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    assert quality_rows() == rows
    assert names() == FILES


def test_one_file_holds_all(files, capsys):
    assert run(LINE) == 0
    assert names() == FILES
    assert capsys.readouterr() == ("", "")
    header = describe_model(MODEL)
    quality = header["quality"]["provenance"]
    assert (quality["labelled"], quality["seed"]) == (header["provenance"]["labelled"], 3)
    assert quality["step"] == 6 and quality["configuration"]["epochs"] == 3
    assert quality["init"] == {"name": "quality.safetensors", "provenance": {"made": "for tests"}}
    assert checkpoint.load_model(MODEL, kind=Autoencoder)[0].config == FITTING
    assert checkpoint.load_model(MODEL)[0].config == tiny_cascade(8.0)
    head = make_head()
    assert header["anatomy"].brain_ml == pytest.approx([head.mask.sum() * 0.216])
    assert [row["step"] for row in quality_rows()] == ["2", "4", "6"]
    assert RunFiles(MODEL, QUALITY_PART).curve.read_bytes().startswith(b"\x89PNG")


def test_no_quality_leaves_it_out(files):
    assert run(f"{LINE} --no-quality") == 0
    assert names() == {name for name in FILES if "quality" not in name}
    header = describe_model(MODEL)
    assert header["quality"] is None and header["anatomy"] is not None


def test_no_quality_leaves_the_cascade_as_it_is(files):
    assert run(LINE) == 0
    both = load_file(MODEL)
    assert run(f"{LINE.replace('new', 'other')} --no-quality") == 0
    alone = load_file("other.safetensors")
    assert alone and all(torch.equal(both[name], value) for name, value in alone.items())


def test_the_mask_and_its_label_map_make_the_same_quality_network(files):
    assert run(LINE) == 0
    line = "train -i image.nii.gz -m mask.nii.gz -o other.safetensors --init tiny --steps 1 --amp off --seed 3 -q"
    assert run(line) == 0
    ours, other = (
        checkpoint.load_model(path, kind=Autoencoder)[0].state_dict()
        for path in (MODEL, Path("other.safetensors"))
    )
    assert all(torch.equal(ours[name], other[name]) for name in ours)


def stop_at(monkeypatch, number):
    """Send SIGTERM during the update with this number, from 1, of both networks together."""
    update, count = Run.update, [0]

    def update_and_stop(run):
        count[0] += 1
        if count[0] == number:
            os.kill(os.getpid(), signal.SIGTERM)
        return update(run)

    monkeypatch.setattr(Run, "update", update_and_stop)


@pytest.mark.parametrize("number", [3, CASCADE_STEPS, CASCADE_STEPS + 1, CASCADE_STEPS + 4, CASCADE_STEPS + 6])
def test_a_stopped_run_goes_on_where_it_was(files, monkeypatch, capsys, unbroken, number):
    with monkeypatch.context() as patch:
        stop_at(patch, number)
        assert run(LINE) == 1
    stopped, step = ("new.checkpoint", number) if number <= CASCADE_STEPS else (
        "new.quality.checkpoint", number - CASCADE_STEPS
    )  # fmt: skip
    assert f"{stopped}: stopped by a signal at step {step};" in capsys.readouterr().err
    assert MODEL.exists() == (number > CASCADE_STEPS)
    if MODEL.exists():
        header = checkpoint.load_model(MODEL)[1]
        assert header["quality"] is None and header["anatomy"] is not None
    assert run(LINE) == 1 and "--resume" in capsys.readouterr().err
    torch.manual_seed(99)  # another process has another generator
    assert run(f"{LINE} --resume") == 0
    assert_same_run(unbroken)


def test_a_run_that_dies_while_the_quality_network_is_added_goes_on(files, monkeypatch, unbroken):
    class Killed(Exception):
        pass

    def die(*arguments, **keywords):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(training, "add_quality", die)
        with pytest.raises(Killed):
            main([*LINE.split(), "--debug"])
    assert checkpoint.load_model(MODEL)[1]["quality"] is None
    assert run(f"{LINE} --resume") == 0
    assert_same_run(unbroken)


def test_a_finished_run_goes_on_to_more_steps_of_the_cascade(files):
    assert run(LINE) == 0
    before = checkpoint.load_model(MODEL, kind=Autoencoder)[0].state_dict()
    assert run(f"{LINE.replace('--steps 4', '--steps 6')} --resume") == 0
    after, header = checkpoint.load_model(MODEL, kind=Autoencoder)
    assert all(torch.equal(after.state_dict()[name], before[name]) for name in before)
    assert describe_model(MODEL)["provenance"]["step"] == 6 and header["provenance"]["step"] == 6


def test_a_quality_network_is_added_to_a_model_without_one(files):
    assert run(f"{LINE} --no-quality") == 0
    assert run(f"{LINE} --resume") == 0
    assert names() == FILES and describe_model(MODEL)["quality"] is not None


@pytest.fixture
def no_fit(monkeypatch):
    """Fitting classes fails: what is wrong must be told before."""

    def refuse(*arguments, **keywords):
        raise AssertionError("classes were fitted")

    monkeypatch.setattr(labelling, "fit_label_map", refuse)


@pytest.mark.parametrize("text", [b"nothing of the kind", None])
def test_the_quality_networks_checkpoint_is_checked_before_the_fit(files, capsys, no_fit, text):
    line = "train -i image.nii.gz -m mask.nii.gz -o new.safetensors"
    path = Path("new.quality.checkpoint")
    path.write_bytes(text or b"x")
    assert run(line if text is None else f"{line} --resume") == 1
    error = capsys.readouterr().err
    assert "new.quality.checkpoint: " in error and ("--resume" in error if text is None else "damaged" in error)


def test_outputs_of_the_quality_network_may_be_no_inputs(files, capsys, no_fit):
    shutil.copy("labels.nii.gz", "new.quality.curve.png")
    assert run("train -l new.quality.curve.png -o new.safetensors") == 1
    assert "new.quality.curve.png: is an input" in capsys.readouterr().err


def test_a_mask_with_nothing_to_learn_from_is_told_before_training(files, capsys, monkeypatch):
    def refuse(*arguments):
        raise InputError("the mask is too thin to learn from")

    monkeypatch.setattr(training, "_mask_source", refuse)
    assert run(LINE) == 1
    error = capsys.readouterr().err
    assert error == (
        "singlestrip: labels.nii.gz: the mask is too thin to learn from; "
        "--no-quality trains without a quality network\n"
    )
    assert names() == set()
    assert run(f"{LINE} --no-quality") == 0


def head_mask() -> Scan:
    head = make_head()
    return Scan(head.mask, head.vox2world)


def test_it_starts_from_the_shipped_weights(files, models):
    task = quality_part_task(head_mask(), {}, QualityPartTrainConfig(), CPU)
    shipped = checkpoint.load_model(models / "quality.safetensors", kind=Autoencoder)[0].state_dict()
    assert all(torch.equal(value, shipped[name]) for name, value in task.model.state_dict().items())
    assert task.model.training


@pytest.mark.parametrize("missing", [True, False])
def test_without_weights_of_its_shape_it_starts_anew_and_says_so(tmp_path, monkeypatch, caplog, missing):
    monkeypatch.setenv("SINGLESTRIP_MODELS", str(tmp_path))
    if not missing:
        other = AutoencoderConfig(voxel_size_mm=8.0, size=16, layers=((4, 2, 4),))
        checkpoint.save_model(tmp_path / "quality.safetensors", Autoencoder(other), {})
    task = quality_part_task(head_mask(), {"labelled": []}, QualityPartTrainConfig(epochs=7), CPU)
    assert task.provenance == {"labelled": [], "init": None}
    assert caplog.messages == [
        "no quality network to start from: 7 epochs from random weights give rough estimates"
    ]


def test_a_damaged_shipped_network_is_an_error(files, monkeypatch, tmp_path, capsys):
    (tmp_path / "models").mkdir()
    monkeypatch.setenv("SINGLESTRIP_MODELS", str(tmp_path / "models"))
    (tmp_path / "models" / "quality.safetensors").write_bytes(b"damaged")
    checkpoint.save_model(tmp_path / "models" / "tiny.safetensors", Cascade(tiny_cascade(8.0)), {})
    assert run(LINE) == 1
    assert "quality.safetensors: not a model file, or damaged" in capsys.readouterr().err
    assert not MODEL.exists()


def test_the_anatomy_has_the_volume_of_each_label_map():
    heads = [make_head(), make_head(20, 2.0)]
    volumes = [
        np.count_nonzero(head.mask) * spacing**3 / 1000 for head, spacing in zip(heads, (6, 2), strict=True)
    ]
    assert labelled_anatomy([head.native for head in heads]).brain_ml == pytest.approx(volumes)
