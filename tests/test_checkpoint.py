"""Model files and training states: round trips, damage, safety."""

import dataclasses
import json
import os
from pathlib import Path

import pytest
import torch
from phantoms import tiny_cascade
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from singlestrip import checkpoint
from singlestrip.cascade import Cascade
from singlestrip.configuration import CascadeConfig, UNetConfig
from singlestrip.errors import ModelError, OutputError

PROVENANCE = {"seed": 3, "labelled": [{"t1.nii.gz": "abc"}], "init": None, "unit": "µm"}


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Cascade(tiny_cascade())


@pytest.fixture
def path(tmp_path, model):
    path = tmp_path / "tiny.safetensors"
    checkpoint.save_model(path, model, PROVENANCE)
    return path


def rewrite(path, weights=None, **header):
    """Change the weights or entries of the header; None takes an entry out."""
    with safe_open(path, "pt") as file:
        metadata = file.metadata() | header
    save_file(weights or load_file(path), path, {k: v for k, v in metadata.items() if v is not None})


def test_round_trip(path, model):
    loaded, header = checkpoint.load_model(path)
    assert loaded.config == model.config
    assert header["provenance"] == PROVENANCE
    assert header["format_version"] == checkpoint.FORMAT_VERSION
    assert not loaded.training
    for name, weight in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], weight)


def test_round_trip_of_another_configuration(tmp_path):
    config = CascadeConfig(0.3, UNetConfig((2, 3, 4), "none", 1), 24, UNetConfig((3,)), 20, 3.0)
    checkpoint.save_model(tmp_path / "m.safetensors", Cascade(config), {})
    assert checkpoint.load_model(tmp_path / "m.safetensors")[0].config == config


def test_header_alone(path, model):
    header = checkpoint.read_header(path)
    assert header["configuration"] == json.loads(json.dumps(dataclasses.asdict(model.config)))


def test_half_precision_halves_the_size(tmp_path):
    config = CascadeConfig(segmenter=UNetConfig((16, 32)), locator=UNetConfig((16, 32)))
    model = Cascade(config)
    whole, half = tmp_path / "whole.safetensors", tmp_path / "half.safetensors"
    checkpoint.save_model(whole, model, {})
    checkpoint.save_model(half, model, {}, half=True)
    assert half.stat().st_size / whole.stat().st_size == pytest.approx(0.5, abs=0.03)
    loaded = checkpoint.load_model(half)[0]
    for name, weight in model.state_dict().items():
        assert loaded.state_dict()[name].dtype == torch.float32
        torch.testing.assert_close(loaded.state_dict()[name], weight, rtol=1e-3, atol=1e-6)


def truncated(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path):
    path.write_bytes(b"")


def random_bytes(path):
    path.write_bytes(bytes(torch.randint(256, (5000,), generator=torch.Generator().manual_seed(1)).tolist()))


def pickled(path):
    torch.save({"weight": torch.ones(3)}, path)


def of_another_program(path):
    save_file({"weight": torch.ones(3)}, path)


def newer(path):
    rewrite(path, format_version=str(checkpoint.FORMAT_VERSION + 1))


def strange_version(path):
    rewrite(path, format_version="new")


def no_configuration(path):
    rewrite(path, configuration=None)


def broken_configuration(path):
    rewrite(path, configuration="{")


def unknown_configuration(path):
    rewrite(path, configuration=json.dumps(dataclasses.asdict(tiny_cascade()) | {"colour": "red"}))


def no_provenance(path):
    rewrite(path, provenance=None)


def other_shape(path):
    rewrite(path, configuration=json.dumps(dataclasses.asdict(CascadeConfig())))


def missing_weight(path):
    weights = load_file(path)
    weights.pop(next(iter(weights)))
    rewrite(path, weights)


def not_a_number(path):
    weights = load_file(path)
    next(iter(weights.values())).flatten()[0] = torch.nan
    rewrite(path, weights)


@pytest.mark.parametrize(
    "damage",
    [
        truncated, empty, random_bytes, pickled, of_another_program, newer, strange_version, no_configuration,
        broken_configuration, unknown_configuration, no_provenance, other_shape, missing_weight, not_a_number,
    ],
)  # fmt: skip
def test_unusable_files_are_named(path, damage):
    damage(path)
    with pytest.raises(ModelError, match=str(path)):
        checkpoint.load_model(path)


def test_a_newer_format_asks_for_an_update(path):
    newer(path)
    with pytest.raises(ModelError, match=r"newer.*update"):
        checkpoint.load_model(path)


def test_find_model_by_path_and_by_name(path, monkeypatch, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    monkeypatch.chdir(elsewhere)
    monkeypatch.delenv(checkpoint.MODELS_VARIABLE, raising=False)
    assert checkpoint.find_model(path) == path
    assert checkpoint.find_model(str(path)) == path
    monkeypatch.setenv(checkpoint.MODELS_VARIABLE, str(path.parent))
    assert checkpoint.find_model("tiny") == path
    assert checkpoint.find_model("tiny.safetensors") == path


def test_the_default_model_comes_from_the_models_folder(path, monkeypatch):
    monkeypatch.setenv(checkpoint.MODELS_VARIABLE, str(path.parent))
    with pytest.raises(ModelError, match=checkpoint.MODELS_VARIABLE):
        checkpoint.find_model(None)
    default = path.rename(path.with_name(checkpoint.KINDS[Cascade].shipped))
    assert checkpoint.find_model(None) == default


def test_a_missing_model_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv(checkpoint.MODELS_VARIABLE, str(tmp_path))
    with pytest.raises(ModelError, match=r"no-such-model.*no such"):
        checkpoint.find_model("no-such-model")


def fail(_, path, *args, **keywords):
    path.write_bytes(b"the first part")
    raise OSError("disk full")


def test_a_failing_write_leaves_the_old_model(path, model, monkeypatch):
    before = path.read_bytes()
    whole = Path.write_bytes

    def full_disk(partial, data):
        whole(partial, data[: len(data) // 2])
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(OutputError, match=f"{path}.*disk full"):
        checkpoint.save_model(path, model, {})
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_others_may_read_a_model(path):
    """As any file that a program makes: by the process's umask."""
    beside = path.with_name("plain")
    beside.touch()
    assert path.stat().st_mode == beside.stat().st_mode


def test_a_failing_write_leaves_the_old_training_state(tmp_path, monkeypatch):
    path = tmp_path / "run.checkpoint"
    checkpoint.save_training_state(path, {"step": 1})
    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OutputError, match=f"{path}.*disk full"):
        checkpoint.save_training_state(path, {"step": 2})
    assert list(tmp_path.iterdir()) == [path]
    assert checkpoint.load_training_state(path) == {"step": 1}


def test_no_folder_no_model(tmp_path, model):
    path = tmp_path / "missing" / "m.safetensors"
    with pytest.raises(OutputError, match=str(path)):
        checkpoint.save_model(path, model, {})
    with pytest.raises(OutputError, match=str(path)):
        checkpoint.save_training_state(path, {})


def test_training_state_round_trip(tmp_path):
    state = {"step": 7, "best": (0.5, 3), "model": {"w": torch.randn(3)}, "config": {"lr": 1e-3, "widths": (1, 2)}}
    checkpoint.save_training_state(tmp_path / "run.checkpoint", state)
    loaded = checkpoint.load_training_state(tmp_path / "run.checkpoint")
    assert torch.equal(loaded["model"].pop("w"), state["model"].pop("w"))
    assert loaded == state


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_training_state_cannot_run_code(tmp_path):
    path, mark = tmp_path / "run.checkpoint", tmp_path / "mark"
    torch.save({"step": Trap(mark)}, path)
    with pytest.raises(ModelError, match=str(path)):
        checkpoint.load_training_state(path)
    assert not mark.exists()
    torch.load(path, weights_only=False)  # the trap does work
    assert mark.exists()


@pytest.mark.parametrize("damage", [truncated, empty, random_bytes])
def test_damaged_training_states_are_named(tmp_path, damage):
    path = tmp_path / "run.checkpoint"
    checkpoint.save_training_state(path, {"w": torch.randn(1000)})
    damage(path)
    with pytest.raises(ModelError, match=str(path)):
        checkpoint.load_training_state(path)
