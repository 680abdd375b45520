"""What runs the networks: OpenVINO's graphs are torch's networks, and without torch all but training works."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from phantoms import STRUCTURES, make_head, randomised, threshold_cascade, tiny_cascade

from singlestrip import threads
from singlestrip.cli.main import main
from singlestrip.configuration import AutoencoderConfig, CascadeConfig, UNetConfig
from singlestrip.errors import SingleStripError
from singlestrip.networks import checkpoint, engine_choice, openvino_engine
from singlestrip.networks.autoencoder import Autoencoder
from singlestrip.networks.cascade import Cascade
from singlestrip.networks.engine_choice import as_engine, choose_engine, load_engine
from singlestrip.networks.model_header import AUTOENCODER, CASCADE
from singlestrip.networks.openvino_engine import OpenVinoEngine
from singlestrip.networks.torch_engine import TorchEngine
from singlestrip.networks.weight_shapes import weight_shapes

UNETS = [
    UNetConfig(widths=widths, norm=norm, patch=patch)
    for widths in ((3,), (4, 6), (2, 3, 4), (2, 3, 4, 5))
    for norm in ("instance", "none")
    for patch in (1, 2)
]
AUTOENCODERS = [
    AutoencoderConfig(voxel_size_mm=8.0, size=16, layers=((4, 2, 4), (4, 2, 6))),
    AutoencoderConfig(voxel_size_mm=8.0, size=24, layers=((4, 2, 4), (4, 2, 4), (4, 2, 4), (3, 2, 8))),
    AutoencoderConfig("slices", 2.0, 16, (0, 2), ((4, 2, 4), (3, 1, 6), (4, 2, 5)), dropout=0.1),
]
QUALITY = AUTOENCODERS[0]


@pytest.fixture
def in_32_bits(monkeypatch):
    """Both engines compute in 32 bits, whatever the processor does fast."""
    monkeypatch.setattr("singlestrip.networks.torch_engine.fast_in_bfloat16", lambda device: False)
    build = openvino_engine._Graph
    monkeypatch.setattr(openvino_engine, "_Graph", lambda output, image, in_16_bits: build(output, image, False))


def arrays(network: torch.nn.Module) -> dict[str, np.ndarray]:
    return {name: values.numpy() for name, values in network.state_dict().items()}


def cascade_of(unet: UNetConfig) -> Cascade:
    return randomised(Cascade(CascadeConfig(2.0, unet, 32, UNetConfig(widths=(2,)), 16)))


def random_images(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).random(shape, dtype=np.float32)


@pytest.mark.parametrize("unet", UNETS, ids=str)
def test_graphs_of_unets_say_what_torch_says(unet, in_32_bits):
    cascade = cascade_of(unet)
    ours, theirs = OpenVinoEngine(cascade.config, arrays(cascade)), TorchEngine(cascade)
    for shape in ((1, 1, 32, 32, 32), (2, 1, 32, 16, 48)):
        images = random_images(*shape)
        expected = theirs.run("segmenter", images)
        said = ours.run("segmenter", images)
        assert said.dtype == np.float32 and said.shape == shape and expected.std() > 1e-3
        np.testing.assert_allclose(said, expected, rtol=0, atol=1e-4 * max(1, np.abs(expected).max()))
    assert not np.allclose(ours.run("locator", images), expected)


@pytest.mark.parametrize("patch", [1, 2])
def test_a_graph_has_a_logit_for_each_class(patch, in_32_bits):
    unet = UNetConfig(widths=(4, 6), patch=patch)
    cascade = randomised(Cascade(CascadeConfig(2.0, unet, 32, UNetConfig(widths=(2,)), 16, classes=STRUCTURES)))
    images = random_images(1, 1, 32, 32, 32)
    expected = TorchEngine(cascade).run("segmenter", images)
    ours = OpenVinoEngine(cascade.config, arrays(cascade))
    said = ours.run("segmenter", images)
    assert said.shape == (1, 1 + len(STRUCTURES), 32, 32, 32) and expected.std(axis=(2, 3, 4)).min() > 1e-3
    np.testing.assert_allclose(said, expected, rtol=0, atol=1e-4 * max(1, np.abs(expected).max()))
    assert ours.run("locator", random_images(1, 1, 16, 16, 16)).shape == (1, 1, 16, 16, 16)
    assert weight_shapes(cascade.config) == {name: w.shape for name, w in arrays(cascade).items()}


@pytest.mark.parametrize("config", AUTOENCODERS, ids=["two", "four", "slices"])
def test_graphs_of_autoencoders_say_what_torch_says(config):
    network = randomised(Autoencoder(config))
    images = random_images(3, 1, *(config.size,) * config.dimensions)
    expected = TorchEngine(network).run("autoencoder", images)
    said = OpenVinoEngine(config, arrays(network)).run("autoencoder", images)
    assert said.dtype == np.float32 and said.shape == images.shape and expected.std() > 1e-3
    np.testing.assert_allclose(said, expected, rtol=0, atol=1e-4 * max(1, np.abs(expected).max()))


def test_graphs_are_close_in_what_the_processor_does_fast():
    """In bfloat16, of eight bits, where it has instructions for that."""
    cascade = cascade_of(UNetConfig(widths=(4, 6), norm="instance", patch=2))
    images = random_images(1, 1, 32, 32, 32)
    with torch.no_grad():
        expected = cascade.segmenter(torch.from_numpy(images)).numpy()
    said = OpenVinoEngine(cascade.config, arrays(cascade)).run("segmenter", images)
    np.testing.assert_allclose(said, expected, rtol=0, atol=0.1 * expected.std() + 2**-6 * np.abs(expected).max())
    assert np.corrcoef(said.ravel(), expected.ravel())[0, 1] > 0.999


@pytest.mark.parametrize("unet", UNETS, ids=str)
def test_shapes_of_the_weights_of_cascades(unet):
    cascade = Cascade(CascadeConfig(2.0, unet, 32, UNetConfig(widths=(2, 3)), 16))
    assert weight_shapes(cascade.config) == {name: tuple(w.shape) for name, w in cascade.state_dict().items()}


@pytest.mark.parametrize("config", AUTOENCODERS, ids=["two", "four", "slices"])
def test_shapes_of_the_weights_of_autoencoders(config):
    state = Autoencoder(config).state_dict()
    assert weight_shapes(config) == {name: tuple(values.shape) for name, values in state.items()}


def test_an_engine_stays_and_networks_become_one():
    engine = as_engine(Cascade(tiny_cascade()).train())
    assert isinstance(engine, TorchEngine) and not engine.model.training and engine.device == "cpu"
    assert as_engine(engine) is engine


@pytest.mark.parametrize(("engine", "kind"), [("torch", TorchEngine), ("openvino", OpenVinoEngine)])
def test_both_engines_read_the_same_file(engine, kind, tmp_path, in_32_bits):
    path, cascade = tmp_path / "m.safetensors", cascade_of(UNETS[4])
    quality = checkpoint.QualityPart(randomised(Autoencoder(QUALITY)), {"made": "here"})
    checkpoint.save_model(path, cascade, {"made": "there"}, quality=quality)
    images = random_images(1, 1, 32, 32, 32)
    networks, header = load_engine(path, CASCADE, "cpu", engine)
    assert type(networks) is kind and networks.config == cascade.config and header["provenance"]["made"] == "there"
    np.testing.assert_allclose(
        networks.run("segmenter", images), as_engine(cascade).run("segmenter", images), atol=1e-3
    )
    networks, header = load_engine(path, AUTOENCODER, "cpu", engine)
    assert type(networks) is kind and networks.config == QUALITY and header["provenance"]["made"] == "here"


# library asked for, device, whether there is a GPU, whether forked, what is installed, and the library that runs
CHOICES = [
    ("auto", "auto", False, False, {"torch", "openvino"}, "openvino"),
    ("auto", "cpu", True, False, {"torch", "openvino"}, "openvino"),
    ("auto", "auto", True, False, {"torch", "openvino"}, "torch"),
    ("auto", "cuda", True, False, {"torch", "openvino"}, "torch"),
    ("auto", "cuda:1", True, False, {"torch", "openvino"}, "torch"),
    ("auto", "mps", False, False, {"torch", "openvino"}, "torch"),
    ("auto", "cpu", False, True, {"torch", "openvino"}, "torch"),
    ("auto", "cpu", False, False, {"torch"}, "torch"),
    ("auto", "auto", False, False, {"openvino"}, "openvino"),
    ("openvino", "auto", True, False, {"torch", "openvino"}, "openvino"),
    ("torch", "cpu", False, False, {"torch", "openvino"}, "torch"),
]
REFUSALS = [
    ("auto", "cuda", False, False, {"openvino"}, "need torch"),
    ("auto", "cpu", False, True, {"openvino"}, "forked worker"),
    ("openvino", "cpu", False, True, {"torch", "openvino"}, "forked worker"),
    ("openvino", "cuda", True, False, {"torch", "openvino"}, "runs on the processor"),
    ("openvino", "mps", False, False, {"torch", "openvino"}, "runs on the processor"),
    ("openvino", "cpu", False, False, {"torch"}, "need openvino"),
    ("torch", "cpu", False, False, {"openvino"}, "need torch"),
    ("auto", "cpu", False, False, set(), "need openvino"),
    ("abacus", "cpu", False, False, {"torch", "openvino"}, "not known"),
]


def pretend(monkeypatch, gpu: bool, forked: bool, installed: set[str]) -> None:
    monkeypatch.setattr(engine_choice, "has_gpu", lambda: gpu)
    monkeypatch.setattr(engine_choice, "is_forked", lambda: forked)
    monkeypatch.setattr(engine_choice, "is_installed", lambda library: library in installed)


@pytest.mark.parametrize(("engine", "device", "gpu", "forked", "installed", "expected"), CHOICES)
def test_the_choice_of_the_engine(engine, device, gpu, forked, installed, expected, monkeypatch):
    pretend(monkeypatch, gpu, forked, installed)
    assert choose_engine(device, engine) == expected


@pytest.mark.parametrize(("engine", "device", "gpu", "forked", "installed", "sentence"), REFUSALS)
def test_an_engine_that_cannot_run_is_refused(engine, device, gpu, forked, installed, sentence, monkeypatch):
    pretend(monkeypatch, gpu, forked, installed)
    with pytest.raises(SingleStripError, match=sentence):
        choose_engine(device, engine)


@pytest.fixture
def files(tmp_path, monkeypatch):
    """image.nii.gz and mask.nii.gz, and models that are the default ones."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SINGLESTRIP_MODELS", str(tmp_path / "models"))
    make_head().save(tmp_path)
    Path("models").mkdir()
    checkpoint.save_model(Path("models/singlestrip.safetensors"), threshold_cascade(), {})
    checkpoint.save_model(Path("models/quality.safetensors"), randomised(Autoencoder(QUALITY)), {})
    return tmp_path


@pytest.fixture
def graphs(monkeypatch):
    """The graphs that OpenVINO compiles."""
    compiled = []
    build = openvino_engine._Graph

    def spy(*arguments, **keywords):
        compiled.append(build(*arguments, **keywords))
        return compiled[-1]

    monkeypatch.setattr(openvino_engine, "_Graph", spy)
    monkeypatch.setattr(threads, "_limit", None)
    return compiled


@pytest.mark.parametrize("line", ["strip -i image.nii.gz -m m.nii.gz --qc", "qc -m mask.nii.gz -i image.nii.gz"])
def test_the_option_chooses_the_engine(files, graphs, line, monkeypatch):
    runs = []
    run = TorchEngine.run
    monkeypatch.setattr(TorchEngine, "run", lambda self, *given: runs.append(given[0]) or run(self, *given))
    assert main([*line.split(), "--device", "cpu", "--engine", "openvino"]) == 0
    assert graphs and not runs
    graphs.clear()
    assert main([*line.split(), "--device", "cpu", "--engine", "torch"]) == 0
    assert {"locator", "segmenter", "autoencoder"} == set(runs) and not graphs


def test_the_option_limits_the_threads_of_both_engines(files, graphs):
    before = torch.get_num_threads()
    try:
        for engine, number in (("openvino", 2), ("openvino", 1), ("torch", before + 1)):
            graphs.clear()
            line = f"strip -i image.nii.gz -m m.nii.gz --device cpu --engine {engine} --threads {number}"
            assert main(line.split()) == 0
            counts = {graph._compiled.get_property("INFERENCE_NUM_THREADS") for graph in graphs}
            assert counts == ({number} if engine == "openvino" else set())
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)


UNINSTALL = """
from importlib.machinery import PathFinder

find = PathFinder.find_spec
PathFinder.find_spec = lambda name, *rest: None if name in ("torch", "sklearn") else find(name, *rest)
"""
RUN = """
import sys
from singlestrip.cli.main import main
status = main(sys.argv[1:])
print("torch" in sys.modules)
sys.exit(status)
"""


def run_alone(code: str, line: str) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own."""
    return subprocess.run([sys.executable, "-c", code, *line.split()], capture_output=True, text=True, timeout=120)


LINES = [
    "strip -i image.nii.gz -m m.nii.gz -o brain.nii.gz --qc --device cpu",
    "qc -m mask.nii.gz --device cpu",
    "qc -m mask.nii.gz -i image.nii.gz --device cpu",
    "models",
]


@pytest.mark.parametrize("line", LINES)
def test_stripping_and_scoring_import_no_torch(files, line):
    done = run_alone(RUN, line)
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == "False", done.stderr


@pytest.mark.parametrize("line", LINES)
def test_stripping_and_scoring_work_where_torch_is_not_installed(files, line):
    done = run_alone(UNINSTALL + RUN, line)
    assert done.returncode == 0, done.stderr
    assert run_alone(RUN, line).stdout == done.stdout


@pytest.mark.parametrize(
    "line", ["train -l labels.nii.gz -o new.safetensors", "strip -i image.nii.gz -m m.nii.gz --engine torch"]
)
def test_what_needs_torch_says_so_in_one_sentence(files, line):
    done = run_alone(UNINSTALL + RUN, line)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1 and done.stderr.rstrip().endswith("pip install torch"), done.stderr
    assert "torch, which is not installed" in done.stderr


def test_openvino_tells_nobody_that_it_runs():
    """Its own import looks for a home folder, which a user without a name lacks, and sends an event."""
    code = """
import pathlib, socket, sys
def refuse(*_, **__):
    raise RuntimeError("refused")
pathlib.Path.home = classmethod(refuse)
socket.socket.connect = socket.getaddrinfo = refuse
import singlestrip.networks.openvino_engine
assert "openvino" in sys.modules and "openvino_telemetry" not in sys.modules
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
