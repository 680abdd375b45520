"""The quality network and its configuration: shapes, mirrored halves, scales, files."""

import json
from dataclasses import asdict, replace

import pytest
import torch
from phantoms import tiny_cascade
from safetensors import safe_open
from torch import nn

from singlestrip.configuration import SLICE_LAYERS, VOLUME_LAYERS, AutoencoderConfig
from singlestrip.errors import ModelError
from singlestrip.io.text import typed
from singlestrip.networks import checkpoint, model_files
from singlestrip.networks.autoencoder import Autoencoder
from singlestrip.networks.cascade import Cascade
from singlestrip.networks.model_files import find_model
from singlestrip.networks.model_header import AUTOENCODER

TINY_LAYERS = ((4, 2, 4), (4, 2, 6), (4, 2, 5), (4, 2, 7))  # 16 voxels to a code of one
TINY = AutoencoderConfig(size=16, layers=TINY_LAYERS)
TINY_SLICES = AutoencoderConfig("slices", 2.0, 16, (0, 2), ((4, 2, 4), (3, 1, 6), (4, 2, 5)), dropout=0.1)


def make(config=TINY, seed=0):
    torch.manual_seed(seed)
    return Autoencoder(config)


def random_masks(config, count=2, size=None):
    dims = 2 if config.kind == "slices" else 3
    return torch.rand(count, 1, *[size or config.size] * dims)


def trained_a_little(config=TINY):
    """A network whose running statistics and counters are none of the first ones."""
    model = make(config).train()
    for _ in range(3):
        model(random_masks(config))
    return model


# Shapes and layers


@pytest.mark.parametrize(("config", "size"), [(TINY, 16), (TINY_SLICES, 16), (TINY_SLICES, 24)])
def test_shapes_come_back(config, size):
    masks = random_masks(config, 3, size)
    assert make(config).eval()(masks).shape == masks.shape


@pytest.mark.parametrize("size", [128, 256])
def test_the_published_network_takes_slices_of_both_sizes(size):
    """128² to a code of 2², 256² to one of 4²: six halvings, 100 channels."""
    config = AutoencoderConfig.fitting(165, "slices")
    model, slices = make(config).eval(), torch.rand(1, 1, size, size)
    with torch.inference_mode():
        assert model.encoder(slices).shape == (1, 100, size // 64, size // 64)
        assert model(slices).shape == slices.shape


def test_the_default_volume_shrinks_to_one_code():
    config = AutoencoderConfig.fitting(165)
    model, masks = make(config).eval(), torch.rand(1, 1, 48, 48, 48)
    with torch.inference_mode():
        assert model.encoder(masks).shape == (1, 100, 1, 1, 1)
        assert model(masks).shape == masks.shape


@pytest.mark.parametrize(
    ("layers", "kind", "size"),
    [(VOLUME_LAYERS, "volume", 48), (SLICE_LAYERS, "slices", 128), (TINY_LAYERS, "volume", 16)],
)
def test_the_decoder_mirrors_the_encoder(layers, kind, size):
    model = make(AutoencoderConfig(kind, size=size, layers=layers))
    plain, transposed = (nn.Conv2d, nn.ConvTranspose2d) if kind == "slices" else (nn.Conv3d, nn.ConvTranspose3d)
    down = [part for part in model.encoder if isinstance(part, plain)]
    up = [part for part in model.decoder if isinstance(part, transposed)]
    widths = [width for _, _, width in layers]
    assert [c.in_channels for c in down] == [1, *widths[:-1]]
    assert [c.out_channels for c in down] == widths
    assert [c.in_channels for c in up] == widths[::-1]
    assert [c.out_channels for c in up] == [*widths[-2::-1], 1]
    shapes = [(kernel, stride) for kernel, stride, _ in layers]
    assert [(c.kernel_size[0], c.stride[0]) for c in down] == shapes
    assert [(c.kernel_size[0], c.stride[0]) for c in up] == shapes[::-1]
    for half in (model.encoder, model.decoder):
        norms = [part for part in half if isinstance(part, nn.BatchNorm2d | nn.BatchNorm3d)]
        assert len(norms) == len(layers) - 1
        assert isinstance(half[-1], plain | transposed)  # nothing bounds the code or the logit


def test_dropout_acts_in_training_alone():
    model, masks = make(replace(TINY_SLICES, dropout=0.5)), random_masks(TINY_SLICES)
    model.train()
    assert not torch.equal(model(masks), model(masks))
    model.eval()
    assert torch.equal(model(masks), model(masks))


def test_masks_of_a_batch_do_not_touch_one_another():
    model, masks = trained_a_little().eval(), random_masks(TINY, 3)
    together = model(masks)
    for k in range(3):
        torch.testing.assert_close(model(masks[k : k + 1]), together[k : k + 1])


# Configuration


@pytest.mark.parametrize(
    ("brain_mm", "kind", "voxel_size_mm", "size"),
    [
        (165, "volume", 4.0, 48),
        (165, "slices", 2.0, 128),
        (15, "volume", 0.36, 48),  # 4 · 15 / 165 = 0.364
        (15, "slices", 0.18, 128),
        (330, "volume", 8.0, 48),
    ],
)
def test_the_grid_grows_with_the_brain(brain_mm, kind, voxel_size_mm, size):
    config = AutoencoderConfig.fitting(brain_mm, kind, (0, 1))
    assert (config.kind, config.voxel_size_mm, config.size) == (kind, voxel_size_mm, size)
    assert config.scale == pytest.approx(brain_mm / 165, rel=0.03)  # two digits of the voxel size
    assert config.voxel_size_mm * config.size > brain_mm
    assert config.axes == ((0, 1) if kind == "slices" else (2,))


@pytest.mark.parametrize("kind", ["volume", "slices"])
def test_the_scale_of_an_adult_is_1(kind):
    assert AutoencoderConfig.fitting(165, kind).scale == 1
    assert AutoencoderConfig.fitting(15, kind).scale == pytest.approx(15 / 165, rel=0.03)


@pytest.mark.parametrize(
    "config",
    [
        AutoencoderConfig.fitting(15),
        AutoencoderConfig.fitting(165, "slices", (0, 1, 2)),
        TINY,
        TINY_SLICES,
    ],
)
def test_a_configuration_goes_through_json(config):
    assert typed.convert_all(json.loads(json.dumps(asdict(config))), AutoencoderConfig) == config


def test_a_configuration_of_other_fields_is_refused():
    values = asdict(TINY)
    with pytest.raises(ValueError, match="colour: unknown"):
        typed.convert_all(values | {"colour": "red"}, AutoencoderConfig)
    with pytest.raises(ValueError, match="dropout: missing"):
        typed.convert_all({name: value for name, value in values.items() if name != "dropout"}, AutoencoderConfig)


# Files


@pytest.mark.parametrize("config", [TINY, TINY_SLICES])
def test_a_file_gives_the_network_back(tmp_path, config):
    model, path = trained_a_little(config), tmp_path / "quality.safetensors"
    checkpoint.save_model(path, model, {"seed": 5})
    loaded, header = checkpoint.load_model(path, kind=Autoencoder)
    assert loaded.config == config
    assert not loaded.training
    assert header["provenance"] == {"seed": 5}
    expected = model.state_dict()
    assert set(loaded.state_dict()) == set(expected)
    for name, value in loaded.state_dict().items():
        assert value.dtype == expected[name].dtype
        assert torch.equal(value, expected[name])
    masks = random_masks(config)
    assert torch.equal(loaded(masks), model.eval()(masks))


def test_half_precision_keeps_counters_as_integers(tmp_path):
    model, path = trained_a_little(), tmp_path / "quality.safetensors"
    checkpoint.save_model(path, model, {}, half=True)
    with safe_open(path, "pt") as file:
        stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    counters = [name for name in stored if name.endswith("num_batches_tracked")]
    assert len(counters) == 6  # three of four layers in each half
    for name, value in stored.items():
        assert value.dtype == (torch.int64 if name in counters else torch.float16)
    loaded = checkpoint.load_model(path, kind=Autoencoder)[0].state_dict()
    for name, value in model.state_dict().items():
        assert loaded[name].dtype == value.dtype
        torch.testing.assert_close(loaded[name], value, rtol=1e-3, atol=1e-6)
    assert all(int(loaded[name]) == 3 for name in counters)


def test_models_of_the_other_kind_are_refused(tmp_path):
    """The sentence names the file and the command that writes what was wanted."""
    quality, cascade = tmp_path / "quality.safetensors", tmp_path / "cascade.safetensors"
    checkpoint.save_model(quality, make(), {})
    checkpoint.save_model(cascade, Cascade(tiny_cascade()), {})
    with pytest.raises(ModelError, match=r"cascade\.safetensors.*name one that estimates the quality"):
        checkpoint.load_model(cascade, kind=Autoencoder)
    with pytest.raises(ModelError, match=r"quality\.safetensors.*name one that strips heads"):
        checkpoint.load_model(quality)
    assert checkpoint.load_model(quality, kind=Autoencoder)[0].config == TINY
    assert checkpoint.load_model(cascade)[0].config == tiny_cascade()


def test_weights_of_another_configuration_are_refused(tmp_path):
    path = tmp_path / "quality.safetensors"
    model = make()
    model.config = TINY_SLICES
    checkpoint.save_model(path, model, {})
    with pytest.raises(ModelError, match=r"quality\.safetensors: weights and configuration do not fit"):
        checkpoint.load_model(path, kind=Autoencoder)


def test_the_shipped_quality_model_has_a_name_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv(model_files.MODELS_VARIABLE, str(tmp_path))
    monkeypatch.setattr(model_files, "shipped_folder", lambda: tmp_path / "empty")
    checkpoint.save_model(tmp_path / "singlestrip.safetensors", Cascade(tiny_cascade()), {})
    with pytest.raises(ModelError, match=r"quality\.safetensors.*" + model_files.MODELS_VARIABLE):
        find_model(None, AUTOENCODER.shipped)
    checkpoint.save_model(tmp_path / "quality.safetensors", make(), {})
    assert find_model(None, AUTOENCODER.shipped) == tmp_path / "quality.safetensors"
    assert find_model(None) == tmp_path / "singlestrip.safetensors"
    assert find_model("quality", AUTOENCODER.shipped) == tmp_path / "quality.safetensors"
