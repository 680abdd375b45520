"""Model files and training states: round trips, damage, safety."""

import dataclasses
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from phantoms import describe_model, tiny_cascade
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from singlestrip.configuration import AutoencoderConfig, CascadeConfig, TargetClass, UNetConfig
from singlestrip.errors import ModelError, OutputError
from singlestrip.networks import checkpoint, model_files, model_weights, training_state
from singlestrip.networks.autoencoder import Autoencoder
from singlestrip.networks.cascade import Cascade
from singlestrip.networks.model_files import find_model
from singlestrip.networks.model_header import KINDS

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
    assert (header["format_version"], header["quality"], header["anatomy"]) == (1, None, None)
    assert not loaded.training
    for name, weight in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], weight)


def test_round_trip_of_another_configuration(tmp_path):
    config = CascadeConfig(0.3, UNetConfig((2, 3, 4), "none", 1), 24, UNetConfig((3,)), 20, 3.0)
    checkpoint.save_model(tmp_path / "m.safetensors", Cascade(config), {})
    assert checkpoint.load_model(tmp_path / "m.safetensors")[0].config == config


def test_header_alone(path, model):
    header = describe_model(path)
    told = json.loads(json.dumps(dataclasses.asdict(model.config)))
    del told["classes"], told["class_evidence"]  # the file is as programs know it that know no classes
    assert header["configuration"] == told


CLASSES = (
    TargetClass(10, "Left-Thalamus", "left", 49, brain=True, largest=True, colour=(0, 118, 14)),
    TargetClass(49, "Right-Thalamus", "right", 10, brain=True, largest=True, colour=(0, 118, 14)),
    TargetClass(511, "Skin"),
)


def test_classes_of_a_segmenter_come_back(tmp_path):
    config = dataclasses.replace(tiny_cascade(), classes=CLASSES)
    cascade = Cascade(config)
    assert cascade.segmenter(torch.zeros(1, 1, 16, 16, 16)).shape[1] == 1 + len(CLASSES)
    assert cascade.locator(torch.zeros(1, 1, 16, 16, 16)).shape[1] == 1
    checkpoint.save_model(tmp_path / "m.safetensors", cascade, {})
    loaded, header = checkpoint.load_model(tmp_path / "m.safetensors")
    assert loaded.config == config and header["format_version"] == checkpoint.FORMAT_VERSION
    assert (config.brain_channels, config.mirrored_channels) == ((1, 2), (0, 2, 1, 3))


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"number": 511}, "two have the same number"),
        ({"side": "none"}, "10 needs a side and a partner"),
        ({"partner": None}, "10 needs a side and a partner"),
        ({"side": "right"}, "10 and its partner 49 do not agree"),
        ({"partner": 511}, "10 and its partner 511 do not agree"),
        ({"number": 0}, "expected int >= 1"),
        ({"colour": [0, 0, 256]}, "expected int <= 255"),
    ],
)
def test_classes_that_contradict_each_other_are_refused(tmp_path, change, fault):
    path = tmp_path / "m.safetensors"
    checkpoint.save_model(path, Cascade(dataclasses.replace(tiny_cascade(), classes=CLASSES)), {})
    configuration = describe_model(path)["configuration"]
    configuration["classes"][0] |= change
    rewrite(path, configuration=json.dumps(configuration))
    with pytest.raises(ModelError, match=fault):
        checkpoint.load_model(path)


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
    weights["locator.head.bias"][0] = torch.nan
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


# The quality network and the anatomy in the file of a cascade

ANATOMY = checkpoint.Anatomy((1400.0, 1100.5))
QUALITY_PROVENANCE = {"seed": 4}


def quality_part(seed=1):
    torch.manual_seed(seed)
    network = Autoencoder(AutoencoderConfig(size=16, layers=((4, 2, 4), (4, 2, 4))))
    return checkpoint.QualityPart(network, QUALITY_PROVENANCE | {"seed": seed})


@pytest.fixture
def joint(tmp_path, model):
    path = tmp_path / "joint.safetensors"
    checkpoint.save_model(path, model, PROVENANCE, quality=quality_part(4), anatomy=ANATOMY)
    return path


def assert_same_weights(model, other):
    weights, expected = model.state_dict(), other.state_dict()
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


def test_round_trip_of_both_networks_and_the_anatomy(joint, model):
    cascade, header = checkpoint.load_model(joint)
    quality, quality_header = checkpoint.load_model(joint, kind=Autoencoder)
    assert_same_weights(cascade, model)
    assert_same_weights(quality, quality_part(4).model)
    assert header == describe_model(joint)
    assert (header["format_version"], header["provenance"], header["anatomy"]) == (2, PROVENANCE, ANATOMY)
    assert header["quality"]["provenance"] == QUALITY_PROVENANCE
    assert quality_header == {"format_version": 2, "anatomy": ANATOMY, **header["quality"]}
    assert quality.config == quality_part().model.config


def test_the_anatomy_without_a_quality_network(tmp_path, model):
    path = tmp_path / "m.safetensors"
    checkpoint.save_model(path, model, {}, anatomy=ANATOMY)
    header = describe_model(path)
    assert (header["format_version"], header["quality"], header["anatomy"]) == (2, None, ANATOMY)
    with pytest.raises(ModelError, match=f"{path}: holds no quality network; name one"):
        checkpoint.load_model(path, kind=Autoencoder)


@pytest.mark.parametrize("name", ["path", "joint"])
def test_a_quality_network_is_added_or_replaced(request, name, model):
    path = request.getfixturevalue(name)
    anatomy = describe_model(path)["anatomy"]
    checkpoint.add_quality(path, quality_part(7))
    cascade, header = checkpoint.load_model(path)
    assert_same_weights(cascade, model)
    assert_same_weights(checkpoint.load_model(path, kind=Autoencoder)[0], quality_part(7).model)
    assert (header["provenance"], header["anatomy"]) == (PROVENANCE, anatomy)
    assert header["quality"]["provenance"] == {"seed": 7}
    assert list(path.parent.iterdir()) == [path]


def test_weights_of_the_cascade_keep_their_bits_when_a_quality_network_is_added(tmp_path, model):
    path = tmp_path / "m.safetensors"
    checkpoint.save_model(path, model, {}, half=True)
    before = load_file(path)
    checkpoint.add_quality(path, quality_part())
    after = load_file(path)
    assert all(after[name].dtype == before[name].dtype for name in before)
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert after["quality.encoder.0.weight"].dtype == torch.float32
    checkpoint.add_quality(path, quality_part(), half=True)
    assert load_file(path)["quality.encoder.0.weight"].dtype == torch.float16


def test_a_quality_network_is_added_to_sound_cascades_alone(tmp_path, path):
    quality = tmp_path / "q.safetensors"
    checkpoint.save_model(quality, quality_part().model, {})
    with pytest.raises(ModelError, match=f"{quality}: holds no networks to strip with"):
        checkpoint.add_quality(quality, quality_part())
    not_a_number(path)
    before = path.read_bytes()
    with pytest.raises(ModelError, match="not finite"):
        checkpoint.add_quality(path, quality_part())
    assert path.read_bytes() == before


def no_quality_provenance(path):
    rewrite(path, quality_provenance=None)


def no_quality_configuration(path):
    rewrite(path, quality_configuration=None)


def quality_of_other_things(path):
    rewrite(path, quality_provenance="[]")


def quality_out_of_range(path):
    rewrite(path, quality_configuration=json.dumps(dataclasses.asdict(quality_part().model.config) | {"size": 7}))


def quality_of_another_shape(path):
    config = AutoencoderConfig(size=16, layers=((4, 2, 4), (4, 2, 8)))
    rewrite(path, quality_configuration=json.dumps(dataclasses.asdict(config)))


def quality_of_one_weight_less(path):
    weights = load_file(path)
    weights.pop("quality.encoder.0.weight")
    rewrite(path, weights)


def quality_of_one_weight_more(path):
    rewrite(path, load_file(path) | {"quality.more": torch.ones(1)})


def quality_not_finite(path):
    weights = load_file(path)
    weights["quality.encoder.0.weight"][0] = torch.inf
    rewrite(path, weights)


def quality_of_another_type(path):
    weights = load_file(path)
    rewrite(path, weights | {"quality.encoder.0.weight": weights["quality.encoder.0.weight"].double()})


@pytest.mark.parametrize("kind", [Cascade, Autoencoder])
@pytest.mark.parametrize(
    "damage",
    [
        truncated, newer, strange_version, no_configuration, no_provenance, other_shape, not_a_number,
        no_quality_provenance, no_quality_configuration, quality_of_other_things, quality_out_of_range,
        quality_of_another_shape, quality_of_one_weight_less, quality_of_one_weight_more, quality_not_finite,
        quality_of_another_type,
    ],
)  # fmt: skip
def test_damage_to_either_network_is_named(joint, damage, kind):
    damage(joint)
    with pytest.raises(ModelError, match=str(joint)):
        checkpoint.load_model(joint, kind=kind)


@pytest.mark.parametrize(
    "anatomy",
    [
        "", "[]", "{}", "null", '{"brain_ml": []}', '{"brain_ml": 1400}', '{"brain_ml": [0]}',
        '{"brain_ml": [-1400]}', '{"brain_ml": [1e999]}', '{"brain_ml": ["1400"]}', '{"brain_ml": [NaN]}',
        '{"brain_ml": [1400], "colour": "red"}',
    ],
)  # fmt: skip
def test_an_anatomy_of_other_things_is_damaged(joint, anatomy):
    rewrite(joint, anatomy=anatomy)
    with pytest.raises(ModelError, match=f"{joint}: the header of the model is damaged"):
        describe_model(joint)


def test_the_memory_of_the_wanted_network_counts(joint, monkeypatch):
    cascade, quality = tiny_cascade().working_bytes, quality_part().model.config.working_bytes
    assert quality < cascade
    monkeypatch.setattr(model_weights.memory, "available", lambda: quality)
    checkpoint.load_model(joint, kind=Autoencoder)
    with pytest.raises(ModelError, match=f"{joint}: the model needs about"):
        checkpoint.load_model(joint)
    monkeypatch.setattr(model_weights.memory, "available", lambda: quality - 1)
    with pytest.raises(ModelError, match=f"{joint}: the model needs about"):
        checkpoint.load_model(joint, kind=Autoencoder)


def test_a_quality_network_that_cannot_be_stored_leaves_the_file(path):
    before, part = path.read_bytes(), quality_part()
    with torch.no_grad():
        part.model.encoder[0].weight[0] = 1e6
    with pytest.raises(ModelError, match="too large to store"):
        checkpoint.add_quality(path, part, half=True)
    assert path.read_bytes() == before


WRONG_FIELDS = [
    ({"voxel_size_mm": -2}, "voxel_size_mm"),
    ({"voxel_size_mm": 0}, "voxel_size_mm"),
    ({"voxel_size_mm": 1e9}, "voxel_size_mm"),
    ({"voxel_size_mm": "2"}, "voxel_size_mm"),
    ({"voxel_size_mm": True}, "voxel_size_mm"),
    ({"segmenter_size": 0}, "segmenter_size"),
    ({"segmenter_size": 17}, "segmenter_size: expected a multiple of 4"),
    ({"segmenter_size": 10**6}, "segmenter_size"),
    ({"segmenter_size": 16.5}, "segmenter_size"),
    ({"locator_size": 10**30}, "locator_size"),
    ({"locator_factor": 0}, "locator_factor"),
    ({"locator_factor": None}, "locator_factor"),
    ({"segmenter": None}, "segmenter"),
    ({"segmenter": [4, 8]}, "segmenter"),
    ({"segmenter": {"widths": [4, 8], "norm": "instance"}}, "segmenter.patch: missing"),
    ({"segmenter": {"widths": [4, 8], "norm": "batch", "patch": 2}}, "segmenter.norm"),
    ({"segmenter": {"widths": [4, 8], "norm": "instance", "patch": 0}}, "segmenter.patch"),
    ({"segmenter": {"widths": [], "norm": "instance", "patch": 2}}, "segmenter.widths"),
    ({"segmenter": {"widths": "48", "norm": "instance", "patch": 2}}, "segmenter.widths"),
    ({"segmenter": {"widths": [4, -8], "norm": "instance", "patch": 2}}, r"segmenter.widths\[1\]"),
    ({"segmenter": {"widths": [8000], "norm": "instance", "patch": 2}}, r"segmenter.widths\[0\]"),
    ({"segmenter": {"widths": [4] * 100_000, "norm": "instance", "patch": 2}}, "segmenter.widths"),
]


@pytest.fixture
def nothing_is_built(monkeypatch):
    """Building a network fails, but for its shapes."""

    def refuse(weights, **keywords):
        assert weights.is_meta, "memory was asked for"

    monkeypatch.setattr(torch.nn.init, "kaiming_uniform_", refuse)


@pytest.mark.parametrize(("change", "field"), WRONG_FIELDS)
def test_a_configuration_out_of_range_is_refused_by_the_field(path, change, field, nothing_is_built):
    rewrite(path, configuration=json.dumps(dataclasses.asdict(tiny_cascade()) | change))
    with pytest.raises(ModelError, match=f"{path}: the configuration .*{field}"):
        checkpoint.load_model(path)


WRONG_LAYERS = [
    [],
    None,
    [[4, 2]],
    [[0, 1, 4]],
    [[4, 0, 16]],
    [["a", 2, 3]],
    [[4, 2, 10**6]],
    [[3, 2, 4]],
    [[4, 2, 4]] * 40,
]


@pytest.mark.parametrize(
    "change",
    [{"layers": layers} for layers in WRONG_LAYERS]
    + [
        {"kind": "mesh"},
        {"axes": []},
        {"axes": [3]},
        {"dropout": 1},
        {"dropout": -0.1},
        {"size": 7},
        {"voxel_size_mm": 0},
    ],
)
def test_a_quality_model_out_of_range_is_refused_by_the_field(tmp_path, change, nothing_is_built):
    config = dataclasses.asdict(AutoencoderConfig(size=16, layers=((4, 2, 4),))) | change
    header = {"format": "singlestrip-autoencoder", "format_version": "1", "provenance": "{}"}
    save_file({}, tmp_path / "q.safetensors", header | {"configuration": json.dumps(config)})
    (field,) = change
    with pytest.raises(ModelError, match=rf"q\.safetensors: the configuration .*({field}|layers\[0\])"):
        checkpoint.load_model(tmp_path / "q.safetensors", kind=Autoencoder)


@pytest.mark.parametrize(
    "text", ["", "[]", "null", "true", "5", '"x"', "NaN", '{"a": NaN}', "[" * 40_000, '{"a":' * 40_000]
)
@pytest.mark.parametrize("part", ["configuration", "provenance"])
def test_a_header_of_other_things_is_damaged(path, part, text):
    rewrite(path, **{part: text})
    with pytest.raises(ModelError, match=f"{path}: the header of the model is damaged"):
        checkpoint.load_model(path)


@pytest.mark.parametrize(
    "version",
    ["", "0", "-5", "1.0", " 1 ", "nan", "1e0", "0x1", "\N{ARABIC-INDIC DIGIT ONE}", "9" * 5000, "\x1b[31m"],
)
def test_a_format_version_is_a_whole_number_from_one(path, version):
    rewrite(path, format_version=version)
    with pytest.raises(ModelError, match="header of the model is damaged") as caught:
        describe_model(path)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 200 + len(str(path))


@pytest.mark.parametrize(
    "dtype", [torch.int64, torch.int8, torch.bool, torch.complex64, torch.float64, torch.float8_e5m2]
)
def test_weights_of_another_type_are_refused(path, dtype):
    weights = load_file(path)
    name = next(iter(weights))
    rewrite(path, weights | {name: torch.ones(weights[name].shape).to(dtype)})
    with pytest.raises(ModelError, match=f"{path}: weights and configuration do not fit .*type"):
        checkpoint.load_model(path)


def test_weights_in_bfloat16_are_read(path, model):
    rewrite(path, {name: value.bfloat16() for name, value in load_file(path).items()})
    for name, value in checkpoint.load_model(path)[0].state_dict().items():
        assert torch.equal(value, model.state_dict()[name].bfloat16().float())


def test_a_weight_too_many_is_refused(path):
    rewrite(path, load_file(path) | {"\x1b[31mred": torch.ones(1)})
    with pytest.raises(ModelError, match=r"do not fit \(\\x1b\[31mred is unknown\)"):
        checkpoint.load_model(path)


def test_weights_of_other_shapes_are_refused_before_anything_is_built(path, nothing_is_built):
    largest = UNetConfig(widths=(512, 512), norm="none")
    rewrite(
        path, configuration=json.dumps(dataclasses.asdict(dataclasses.replace(tiny_cascade(), segmenter=largest)))
    )
    with pytest.raises(ModelError, match="do not fit"):
        checkpoint.load_model(path)
    huge = UNetConfig(widths=(1024,) * 8, norm="none", patch=1)
    config = dataclasses.replace(tiny_cascade(), segmenter=huge, segmenter_size=128)
    rewrite(path, configuration=json.dumps(dataclasses.asdict(config)))
    with pytest.raises(ModelError, match=r"has \d+ million weights"):
        checkpoint.load_model(path)


def test_a_variance_below_zero_is_refused(tmp_path):
    path = tmp_path / "q.safetensors"
    model = Autoencoder(AutoencoderConfig(size=16, layers=((4, 2, 4), (4, 2, 4))))
    model.encoder[1].running_var[0] = -1
    checkpoint.save_model(path, model, {})
    with pytest.raises(ModelError, match="variance below 0"):
        checkpoint.load_model(path, kind=Autoencoder)


def test_the_memory_of_the_windows_is_known_beforehand(path, monkeypatch):
    need = tiny_cascade().working_bytes
    monkeypatch.setattr(model_weights.memory, "available", lambda: need - 1)
    with pytest.raises(ModelError, match=f"{path}: the model needs about .* GiB of memory"):
        checkpoint.load_model(path)
    monkeypatch.setattr(model_weights.memory, "available", lambda: need)
    checkpoint.load_model(path)


@pytest.mark.parametrize("length", [10**8, 2**63, 2**64 - 1])
def test_a_header_that_lies_about_its_length_is_not_read(path, length):
    path.write_bytes(length.to_bytes(8, "little") + path.read_bytes()[8:])
    with pytest.raises(ModelError, match=f"{path}: not a model file, or damaged"):
        checkpoint.load_model(path)


@pytest.mark.parametrize("name", ["no\0name", "x" * 300, "x/" * 3000, ""])
def test_names_that_no_file_can_have(name):
    with pytest.raises(ModelError, match="no such model file"):
        find_model(name)


def test_what_is_no_regular_file_is_told_as_what_it_is(tmp_path):
    """And not opened: a FIFO would wait for ever."""
    os.mkfifo(tmp_path / "fifo")
    kinds = {tmp_path / "fifo": "a FIFO", tmp_path: "a folder", "/dev/zero": "a device"}
    for name, kind in kinds.items():
        for network in KINDS:
            with pytest.raises(ModelError, match=f"^{name}: {kind}, not a model file$"):
                find_model(name, network.shipped)


def test_a_newer_format_asks_for_an_update(path):
    newer(path)
    with pytest.raises(ModelError, match=r"newer.*update"):
        checkpoint.load_model(path)


def test_find_model_by_path_and_by_name(path, monkeypatch, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    monkeypatch.chdir(elsewhere)
    monkeypatch.delenv(model_files.MODELS_VARIABLE, raising=False)
    assert find_model(path) == path
    assert find_model(str(path)) == path
    monkeypatch.setenv(model_files.MODELS_VARIABLE, str(path.parent))
    assert find_model("tiny") == path
    assert find_model("tiny.safetensors") == path


def test_the_default_model_comes_from_the_models_folder(path, monkeypatch):
    monkeypatch.setenv(model_files.MODELS_VARIABLE, str(path.parent))
    monkeypatch.setattr(model_files, "shipped_folder", lambda: path.parent / "empty")
    with pytest.raises(ModelError, match=model_files.MODELS_VARIABLE):
        find_model(None)
    default = path.rename(path.with_name(checkpoint.KINDS[Cascade].shipped))
    assert find_model(None) == default


def test_a_missing_model_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv(model_files.MODELS_VARIABLE, str(tmp_path))
    with pytest.raises(ModelError, match=r"no-such-model.*no such"):
        find_model("no-such-model")


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
    training_state.save_training_state(path, {"step": 1})
    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OutputError, match=f"{path}.*disk full"):
        training_state.save_training_state(path, {"step": 2})
    assert list(tmp_path.iterdir()) == [path]
    assert training_state.load_training_state(path) == {"step": 1}


def test_no_folder_no_model(tmp_path, model):
    path = tmp_path / "missing" / "m.safetensors"
    with pytest.raises(OutputError, match=str(path)):
        checkpoint.save_model(path, model, {})
    with pytest.raises(OutputError, match=str(path)):
        training_state.save_training_state(path, {})


def test_training_state_round_trip(tmp_path):
    state = {"step": 7, "best": (0.5, 3), "model": {"w": torch.randn(3)}, "config": {"lr": 1e-3, "widths": (1, 2)}}
    training_state.save_training_state(tmp_path / "run.checkpoint", state)
    loaded = training_state.load_training_state(tmp_path / "run.checkpoint")
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
    with pytest.raises(ModelError, match=str(path)) as caught:
        training_state.load_training_state(path)
    assert "weights_only" not in str(caught.value) and len(str(caught.value).splitlines()) == 1
    assert not mark.exists()
    torch.load(path, weights_only=False)  # the trap does work
    assert mark.exists()


def compressed(path):
    """What would unpack to a thousand times its size."""
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in parts.items():
            archive.writestr(name, data + bytes(10**6))


def of_old(path):
    """In torch's format before it was a zip file, whose tensors are allocated by what it says."""
    torch.save({"w": torch.zeros(3)}, path, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize("damage", [truncated, empty, random_bytes, compressed, of_old])
def test_damaged_training_states_are_named(tmp_path, damage):
    path = tmp_path / "run.checkpoint"
    training_state.save_training_state(path, {"w": torch.randn(1000)})
    damage(path)
    with pytest.raises(ModelError, match=str(path)):
        training_state.load_training_state(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e6])
def test_weights_that_cannot_be_stored_are_no_model(tmp_path, value):
    """16 bits hold no more than 65504."""
    cascade = Cascade(tiny_cascade())
    with torch.no_grad():
        cascade.segmenter.head.bias[0] = value
    with pytest.raises(ModelError, match="too large to store"):
        checkpoint.save_model(tmp_path / "m.safetensors", cascade, {}, half=True)
    assert not list(tmp_path.iterdir())


def test_a_header_is_read_without_torch(path):
    code = "import sys; from pathlib import Path; from singlestrip.networks import model_header\n"
    code += f"print(model_header.read_header(Path({str(path)!r}), model_header.CASCADE).version)\n"
    code += "print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(checkpoint.PLAIN_VERSION), "False"]
