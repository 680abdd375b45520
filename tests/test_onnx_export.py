"""ONNX files of a model: they compute what the engine computes, and hold all that a program must know."""

import errno
import json
import re
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from phantoms import STRUCTURES, randomised, threshold_cascade, tiny_cascade

from singlestrip.cli.main import main
from singlestrip.configuration import AutoencoderConfig, CascadeConfig, StrippingConfig, UNetConfig
from singlestrip.errors import ModelError, OutputError, SingleStripError
from singlestrip.io.images import volume
from singlestrip.networks import checkpoint, model_files
from singlestrip.networks.autoencoder import Autoencoder
from singlestrip.networks.cascade import Cascade
from singlestrip.networks.engine import Engine
from singlestrip.networks.engine_choice import load_engine
from singlestrip.networks.model_header import AUTOENCODER, CASCADE
from singlestrip.networks.onnx_export import export_model
from singlestrip.space.metrics import dice
from singlestrip.stripping.stripper import Stripper

QUALITY = AutoencoderConfig(voxel_size_mm=8.0, size=16, layers=((4, 2, 4), (4, 2, 6)))
SLICES = AutoencoderConfig("slices", 2.0, 16, (0, 2), ((4, 2, 4), (3, 1, 6), (4, 2, 5)), dropout=0.1)


@pytest.fixture(autouse=True)
def onnx_is_there():
    pytest.importorskip("onnx", reason="onnx is not installed")


def runtime():
    """ONNX Runtime."""
    return pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")


def saved(path: Path, config: CascadeConfig, quality: AutoencoderConfig | None = None) -> Path:
    """A model file with random weights."""
    part = checkpoint.QualityPart(randomised(Autoencoder(quality)), {}) if quality else None
    checkpoint.save_model(path, randomised(Cascade(config)), {"made": "up"}, quality=part)
    return path


def metadata(path: Path) -> dict[str, str]:
    import onnx

    return {each.key: each.value for each in onnx.load(path).metadata_props}


@pytest.mark.parametrize(
    "config",
    [
        CascadeConfig(2.0, UNetConfig(widths=(4, 6)), 16, UNetConfig(widths=(2,), patch=1), 8),
        CascadeConfig(2.0, UNetConfig(widths=(4, 6), norm="none", patch=1), 16, UNetConfig(widths=(3, 2, 2)), 16),
        CascadeConfig(2.0, UNetConfig(widths=(4, 6)), 16, UNetConfig(widths=(2,)), 8, classes=STRUCTURES),
    ],
    ids=["plain", "other", "classes"],
)
def test_networks_compute_what_the_engine_computes(config, tmp_path, monkeypatch):
    monkeypatch.setattr("singlestrip.networks.torch_engine.fast_in_bfloat16", lambda device: False)
    path = saved(tmp_path / "model.safetensors", config)
    engine, _ = load_engine(path, CASCADE, "cpu", "torch")
    files = export_model(path, tmp_path / "made" / "here")
    assert [file.name for file in files] == ["locator.onnx", "segmenter.onnx"]
    multiple = config.locator.multiple
    shapes = {"locator": (2 * multiple, multiple, 3 * multiple), "segmenter": (config.segmenter_size,) * 3}
    for file in files:
        image = np.random.default_rng(0).random((1, 1, *shapes[file.stem]), dtype=np.float32)
        expected = engine.run(file.stem, image)
        (said,) = runtime().InferenceSession(file).run(["logit"], {"image": image})
        assert said.shape == expected.shape and expected.std() > 1e-3
        np.testing.assert_allclose(said, expected, rtol=0, atol=1e-4 * max(1, np.abs(expected).max()))


@pytest.mark.parametrize("quality", [QUALITY, SLICES], ids=["volume", "slices"])
def test_the_quality_network_of_a_model_goes_with_it(quality, tmp_path):
    path = saved(tmp_path / "model.safetensors", tiny_cascade(8.0), quality)
    *_, file = export_model(path, tmp_path)
    assert file.name == "quality.onnx"
    engine, _ = load_engine(path, AUTOENCODER, "cpu", "torch")
    masks = np.random.default_rng(0).random((3, 1, *(16,) * quality.dimensions), dtype=np.float32)
    (said,) = runtime().InferenceSession(file).run(None, {"image": masks})
    np.testing.assert_allclose(said, engine.run("autoencoder", masks), rtol=0, atol=1e-4)


def test_the_shipped_model_takes_the_quality_network_beside_it(tmp_path, monkeypatch):
    monkeypatch.setenv(model_files.MODELS_VARIABLE, str(tmp_path))
    saved(tmp_path / model_files.SHIPPED, tiny_cascade(8.0))
    checkpoint.save_model(tmp_path / AUTOENCODER.shipped, randomised(Autoencoder(QUALITY)), {})
    other = saved(tmp_path / "other.safetensors", tiny_cascade(8.0))
    assert main(["export", "singlestrip", "-o", str(tmp_path / "a")]) == 0
    assert main(["export", str(other), "-o", str(tmp_path / "b")]) == 0
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == [
        "locator.onnx",
        "quality.onnx",
        "segmenter.onnx",
    ]
    assert not (tmp_path / "b/quality.onnx").exists()
    texts = [metadata(path) for path in (tmp_path / "a").iterdir()]
    assert len({text["model_sha256"] for text in texts}) == 1
    assert {text["network"] for text in texts} == {"locator", "segmenter", "quality"}


def test_metadata_hold_what_a_program_must_know(tmp_path):
    path = saved(tmp_path / "head.safetensors", CascadeConfig(2.0, segmenter_size=48, classes=STRUCTURES))
    card = {"anatomy": "a head", "licence": "CC0-1.0", "limits": ["No tumours."]}
    (tmp_path / "head.json").write_text(json.dumps(card))
    for file in export_model(path, tmp_path):
        told = metadata(file)
        config = json.loads(told["configuration"])
        assert config["voxel_size_mm"] == 2.0 and config["segmenter_size"] == 48
        assert [each["name"] for each in config["classes"]] == [each.name for each in STRUCTURES]
        assert config["locator_multiple"] == 16 and len(config["mirrored_channels"]) == 1 + len(STRUCTURES)
        assert json.loads(told["stripping"])["recentre_mm"] == StrippingConfig.recentre_mm
        assert told["licence"] == "CC0-1.0" and json.loads(told["card"])["limits"] == ["No tumours."]
        assert json.loads(told["provenance"]) == {"made": "up"} and json.loads(told["anatomy"]) is None


def test_weights_that_16_bits_hold_are_stored_in_16_bits(tmp_path):
    import onnx

    path = tmp_path / "model.safetensors"
    checkpoint.save_model(path, randomised(Cascade(tiny_cascade(8.0))), {}, half=True)
    for file in export_model(path, tmp_path):
        stored = {each.name: each.data_type for each in onnx.load(file).graph.initializer}
        assert stored["head.weight"] == stored["encoder.0.0.conv.weight"] == onnx.TensorProto.FLOAT16
    for file in export_model(saved(path, tiny_cascade(8.0)), tmp_path):
        stored = {each.name: each.data_type for each in onnx.load(file).graph.initializer}
        assert stored["head.weight"] == onnx.TensorProto.FLOAT


def test_errors_say_what_is_missing(tmp_path, monkeypatch, capsys):
    quality = tmp_path / "quality.safetensors"
    checkpoint.save_model(quality, randomised(Autoencoder(QUALITY)), {})
    with pytest.raises(ModelError, match="holds no networks to strip with"):
        export_model(quality, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    path = saved(tmp_path / "model.safetensors", tiny_cascade(8.0))
    (tmp_path / "file").touch()
    assert main(["export", str(path), "-o", str(tmp_path / "file")]) == 1
    assert "there is a file of that name" in capsys.readouterr().err
    monkeypatch.setattr("singlestrip.networks.onnx_export.find_spec", lambda name: None)
    with pytest.raises(SingleStripError, match="pip install onnx"):
        export_model(path, tmp_path / "out")


def test_a_full_disk_leaves_no_network_of_a_set(tmp_path, monkeypatch):
    path, out = saved(tmp_path / "model.safetensors", tiny_cascade(8.0)), tmp_path / "out"
    write, written = Path.write_bytes, []

    def write_until_full(target, content):
        if written:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(write(target, content))

    monkeypatch.setattr(Path, "write_bytes", write_until_full)
    with pytest.raises(OutputError, match=r"segmenter\.onnx: cannot be written \(No space left on device\)"):
        export_model(path, out)
    assert list(out.iterdir()) == []


def test_a_quality_network_left_from_another_model_is_named(tmp_path, caplog):
    export_model(saved(tmp_path / "a.safetensors", tiny_cascade(8.0), QUALITY), tmp_path / "out")
    assert caplog.messages == []
    export_model(saved(tmp_path / "b.safetensors", tiny_cascade(8.0)), tmp_path / "out")
    (warning,) = caplog.messages
    assert str(tmp_path / "out/quality.onnx") in warning and "another model" in warning


def test_the_export_imports_no_torch(tmp_path):
    path = tmp_path / "model.safetensors"
    checkpoint.save_model(path, threshold_cascade(), {})
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from singlestrip.cli.main import main; sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, "export", str(path), "-o", str(tmp_path / "out")]
    subprocess.run(command, check=True)
    assert (tmp_path / "out/segmenter.onnx").exists()


class OnnxEngine(Engine):
    """Exported networks, run by ONNX Runtime."""

    def __init__(self, folder: Path, config: CascadeConfig) -> None:
        self.config = config
        names = ("locator", "segmenter")
        self._sessions = {name: runtime().InferenceSession(folder / f"{name}.onnx") for name in names}

    def run(self, network: str, images: np.ndarray) -> np.ndarray:
        return self._sessions[network].run(None, {"image": images})[0]


@pytest.mark.slow
def test_exported_networks_make_the_same_masks_of_real_scans(data, tmp_path):
    path = model_files.find_model(None)
    export_model(path, tmp_path)
    ours = Stripper.load(path, "cpu")
    theirs = Stripper(OnnxEngine(tmp_path, ours.config))
    for name in ("adults/sub-02_T1w", "adults/sub-03_T2w", "clinical/patient01_study1_FLAIR"):
        scan = volume.read(data / f"{name}.nii.gz").scan()
        assert dice(ours.strip(scan).mask, theirs.strip(scan).mask) > 0.999, name


@pytest.mark.slow
def test_the_code_in_the_documentation_makes_the_mask_of_the_command(tmp_path, monkeypatch):
    runtime()
    page = (Path(__file__).parents[1] / "docs/elsewhere.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    image = nib.load(Path(nib.__file__).parent / "tests/data/example4d.nii.gz")
    nib.save(nib.Nifti1Image(image.dataobj[..., 0], image.affine), "t1.nii.gz")
    export_model(model_files.find_model(None), Path("adult"))
    subprocess.run([sys.executable, "-c", code], check=True)
    assert main(["strip", "-i", "t1.nii.gz", "-m", "expected.nii.gz"]) == 0
    masks = [np.asarray(nib.load(name).dataobj) > 0 for name in ("mask.nii.gz", "expected.nii.gz")]
    assert dice(*masks) > 0.995
