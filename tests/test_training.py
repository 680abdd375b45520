"""The training loop with the cascade on a made-up head: learning, exact resume, signals, several processes."""

import csv
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from interruptions import stop_after
from phantoms import describe_model, make_head, tiny_cascade
from safetensors.torch import load_file
from scipy import ndimage

import singlestrip
from singlestrip.cli.main import main
from singlestrip.configuration import CascadeConfig, ShapeConfig, SynthConfig, TrainConfig
from singlestrip.errors import DivergedError, EarlierRunError, InputError, Interrupted, ModelError, OutputError
from singlestrip.networks import checkpoint, training_state
from singlestrip.networks.cascade import Cascade
from singlestrip.space.metrics import dice
from singlestrip.stripping import stripper
from singlestrip.stripping.stripper import Stripper
from singlestrip.synthesis import labelling
from singlestrip.synthesis.gmm import NativeMap
from singlestrip.training import cascade as cascade_training
from singlestrip.training import trainer
from singlestrip.training.cascade import CascadeTask, TrainingData, cascade_setup, train_cascade, validate
from singlestrip.training.fitting import brain_extent_mm, check_memory, fitting_cascade
from singlestrip.training.maps import ImageSource, MapUse, fingerprint, image_sources
from singlestrip.training.run import Run
from singlestrip.training.run_files import RunFiles

CPU = torch.device("cpu")
VOXEL_MM = 2.0
CONFIG = TrainConfig(steps=8, lr=1e-2, warmup=2, amp="off", save_every=1000, validate_every=1000, report_every=2)
CASCADE = tiny_cascade(VOXEL_MM)


@pytest.fixture(scope="module")
def head():
    return make_head(24, spacing_mm=VOXEL_MM)


@pytest.fixture(scope="module")
def labels(head):
    return [head.native]


def train(labels, out, config=CONFIG, resume=False, progress=lambda progress: None, **data):
    data = TrainingData(labels, **data)
    return train_cascade(data, out, CASCADE, config, device=CPU, resume=resume, progress=progress)


def make_run(labels, config=CONFIG, init=None):
    data = TrainingData(labels, init)
    return Run(CascadeTask(data, cascade_setup(data, CASCADE, config), CPU))


def metrics(out):
    """Rows of metrics.csv but for the time."""
    with RunFiles(out).metrics.open() as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


def assert_same_run(a, b):
    weights, expected = load_file(a), load_file(b)
    assert set(weights) == set(expected)
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    assert metrics(a) == metrics(b)


@pytest.fixture(scope="module")
def unbroken(labels, tmp_path_factory):
    out = tmp_path_factory.mktemp("unbroken") / "model.safetensors"
    return train(labels, out)


# Learning


def test_it_learns_to_strip(tmp_path):
    head = make_head(32, spacing_mm=VOXEL_MM)
    labels = [head.native]
    easy = SynthConfig(
        shape=ShapeConfig(rotation_deg=5, warp_mm=(0, 0, 0)), crop_probability=0, masked_probability=0,
        slice_probability=0, noise=(0, 0.02), smoothing_mm=(0, 1), smooth_classes_probability=0,
    )  # fmt: skip
    config = replace(CONFIG, steps=100, lr=2e-2, warmup=5, average=0.9, synth=easy)
    cascade = tiny_cascade(VOXEL_MM, 32)
    out = tmp_path / "model.safetensors"
    torch.manual_seed(config.seed)
    before = validate(Cascade(cascade), [head.labelled])
    train_cascade(TrainingData(labels), out, cascade, config, device=CPU)
    losses = [float(row["segmenter_loss"]) for row in metrics(out)]
    assert np.mean(losses[-15:]) < 0.7 * np.mean(losses[:5])
    stripped = Stripper(checkpoint.load_model(out)[0]).strip(head.image, head.vox2world)
    assert dice(stripped.mask, head.mask) > max(0.8, before + 0.2)


def test_a_run_leaves_model_metrics_curve_and_checkpoint(unbroken):
    files = RunFiles(unbroken)
    assert {p.name for p in unbroken.parent.iterdir()} == {
        "model.safetensors", "model.checkpoint", "model.metrics.csv", "model.curve.png",
    }  # fmt: skip
    assert [int(row["step"]) for row in metrics(unbroken)] == [2, 4, 6, 8]
    assert files.curve.read_bytes().startswith(b"\x89PNG")
    provenance = describe_model(unbroken)["provenance"]
    assert provenance["step"] == provenance["images_seen"] == CONFIG.steps
    assert provenance["configuration"]["lr"] == CONFIG.lr


def test_the_model_is_the_average_not_the_last_weights(labels, tmp_path):
    run = make_run(labels, replace(CONFIG, average=0.5))
    name = "segmenter.head.weight"
    averaged = run.task.model.state_dict()[name].clone()
    for step in range(4):
        run.update()
        kept = min(0.5, (1 + step) / (10 + step))
        averaged = kept * averaged + (1 - kept) * run.task.model.state_dict()[name]
    torch.testing.assert_close(run.task.average.model.state_dict()[name], averaged)
    assert not torch.equal(averaged, run.task.model.state_dict()[name])


def test_the_seed_decides_the_run(unbroken, labels, tmp_path):
    assert_same_run(train(labels, tmp_path / "again.safetensors"), unbroken)
    other = train(labels, tmp_path / "other.safetensors", replace(CONFIG, seed=1))
    assert metrics(other) != metrics(unbroken)


# Resume


@pytest.mark.parametrize("step", [1, 4, 5, 8])  # 4 is reported, 1 and 5 lie between reports, 8 is the last
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_run_resumes_exactly(labels, tmp_path, monkeypatch, unbroken, step, number):
    out = tmp_path / "model.safetensors"
    with monkeypatch.context() as patch:
        stop_after(patch, step, number)
        with pytest.raises(Interrupted, match=f"step {step}; resume the run"):
            train(labels, out)
    assert not out.exists()
    assert training_state.load_training_state(RunFiles(out).checkpoint)["step"] == step
    train(labels, out, resume=True)
    assert_same_run(out, unbroken)


def test_a_signal_during_a_report_stops_the_run(labels, tmp_path, unbroken):
    out = tmp_path / "model.safetensors"

    def stop(progress):
        if progress.step == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted):
        train(labels, out, progress=stop)
    train(labels, out, resume=True)
    assert_same_run(out, unbroken)


def test_a_killed_run_resumes_from_its_last_checkpoint(labels, tmp_path, monkeypatch, unbroken):
    """Rows of metrics.csv after the checkpoint are written once."""
    out = tmp_path / "model.safetensors"
    config = replace(CONFIG, save_every=3)

    class Killed(Exception):
        pass

    def die(progress):
        if progress.step == 6:
            raise Killed

    monkeypatch.setattr(trainer, "any_stopped", lambda received, device: False)
    with pytest.raises(Killed):
        train(labels, out, config, progress=die)
    assert training_state.load_training_state(RunFiles(out).checkpoint)["step"] == 3
    train(labels, out, config, resume=True)
    assert_same_run(out, unbroken)


def test_a_second_signal_acts_at_once(labels, tmp_path):
    before = signal.getsignal(signal.SIGINT)

    def stop_twice(progress):
        os.kill(os.getpid(), signal.SIGINT)
        while signal.getsignal(signal.SIGINT) is not before:  # two that are pending together count as one
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(labels, tmp_path / "model.safetensors", progress=stop_twice)


def test_signal_handlers_are_put_back(labels, tmp_path):
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    train(labels, tmp_path / "model.safetensors", replace(CONFIG, steps=1))
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_resume_without_a_checkpoint_begins(labels, tmp_path, unbroken):
    assert_same_run(train(labels, tmp_path / "model.safetensors", resume=True), unbroken)


def test_a_finished_run_can_be_resumed_to_more_steps(labels, tmp_path):
    out = train(labels, tmp_path / "model.safetensors", replace(CONFIG, steps=2))
    train(labels, out, replace(CONFIG, steps=4), resume=True)
    assert [int(row["step"]) for row in metrics(out)] == [2, 4]
    assert describe_model(out)["provenance"]["step"] == 4


@pytest.fixture(scope="module")
def one_step(labels, tmp_path_factory):
    return train(labels, tmp_path_factory.mktemp("begun") / "model.safetensors", replace(CONFIG, steps=1)).parent


@pytest.fixture
def begun(one_step, tmp_path):
    """A run of one step, to go on with."""
    shutil.copytree(one_step, tmp_path, dirs_exist_ok=True)
    return tmp_path / "model.safetensors"


def test_a_checkpoint_is_not_overwritten(labels, begun):
    before = RunFiles(begun).checkpoint.read_bytes()
    with pytest.raises(EarlierRunError, match="remove the file, or resume the run"):
        train(labels, begun)
    assert RunFiles(begun).checkpoint.read_bytes() == before


@pytest.mark.parametrize("change", [{"lr": 5e-3}, {"seed": 9}, {"batch": 2}, {"synth": SynthConfig(gamma=0.1)}])
def test_resume_refuses_another_configuration(labels, begun, change):
    with pytest.raises(ModelError, match=next(iter(change))):
        train(labels, begun, replace(CONFIG, **change), resume=True)


def test_resume_refuses_other_labels(head, begun):
    other = head.labels.copy()
    other[0, 0, 0] = 2
    native = head.native
    levels = native.levels.copy()
    levels[101] = 0.5
    for change in ({"labels": other}, {"vox2world": head.vox2world * 1.01}, {"levels": levels}):
        with pytest.raises(ModelError, match="other images or masks"):
            train([replace(native, **change)], begun, resume=True)


def test_resume_refuses_other_networks(labels, begun):
    with pytest.raises(ModelError, match=str(RunFiles(begun).checkpoint)):
        train_cascade(TrainingData(labels), begun, tiny_cascade(2.5), CONFIG, device=CPU, resume=True)


def test_resume_refuses_what_is_not_a_checkpoint(labels, begun):
    path = RunFiles(begun).checkpoint
    whole = path.read_bytes()
    torch.save({"weight": torch.ones(3)}, path)
    with pytest.raises(ModelError, match=str(path)):
        train(labels, begun, resume=True)
    path.write_bytes(whole[:1000])
    with pytest.raises(ModelError, match=str(path)):
        train(labels, begun, resume=True)


# Init and validation


def test_init_takes_the_weights(labels, unbroken):
    init = checkpoint.load_model(unbroken)[0]
    run = make_run(labels, init=init)
    for name, weight in load_file(unbroken).items():
        assert torch.equal(run.task.model.state_dict()[name], weight.float())
        assert torch.equal(run.task.average.model.state_dict()[name], weight.float())


def script_scores(monkeypatch, scores):
    """Scripted validation; returns the list of weights it saw."""
    seen, left = [], iter(scores)

    def score(model, pairs):
        seen.append({k: v.clone() for k, v in model.state_dict().items()})
        return next(left)

    monkeypatch.setattr(cascade_training, "validate", score)
    return seen


def test_validation_keeps_the_best_weights(labels, head, tmp_path, monkeypatch):
    seen = script_scores(monkeypatch, [0.2, 0.9, 0.5, 0.9])
    pairs = [head.labelled]
    out = train(labels, tmp_path / "m.safetensors", replace(CONFIG, validate_every=2), validation=pairs)
    assert len(seen) == 4
    weights = load_file(out)
    assert [all(torch.equal(weights[k], w[k].half()) for k in w) for w in seen] == [False, True, False, False]
    provenance = describe_model(out)["provenance"]
    assert (provenance["step"], provenance["validation_dice"]) == (4, 0.9)
    assert [row["validation_dice"] for row in metrics(out)] == ["0.20000", "0.90000", "0.50000", "0.90000"]


def test_a_resumed_run_remembers_its_best(labels, head, tmp_path, monkeypatch):
    pairs = [head.labelled]
    config = replace(CONFIG, validate_every=2)
    script_scores(monkeypatch, [0.8, 0.1, 0.3, 0.4])
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        with pytest.raises(Interrupted):
            train(labels, tmp_path / "m.safetensors", config, validation=pairs)
    out = train(labels, tmp_path / "m.safetensors", config, validation=pairs, resume=True)
    assert describe_model(out)["provenance"]["step"] == 2


def test_validation_scores_zero_where_no_brain_is_found(head):
    empty = Cascade(CASCADE)
    with torch.no_grad():
        for network in (empty.locator, empty.segmenter):
            network.head.weight.zero_()
            network.head.bias.fill_(-5)
    assert validate(empty, [head.labelled]) == 0.0


# Parts


def test_the_rate_rises_stays_and_falls():
    config = TrainConfig(steps=1000, lr=1e-3, warmup=100, decay=0.3)
    rates = np.array([config.rate(step) for step in range(1000)])
    assert rates[0] == pytest.approx(1e-5)
    assert (np.diff(rates[:100]) > 0).all()
    assert rates[99:700] == pytest.approx(1e-3)
    assert (np.diff(rates[700:]) < 0).all()
    assert rates[850] == pytest.approx(5e-4)
    assert 0 < rates[-1] < 1e-5


def test_more_steps_do_not_change_the_rate_before_the_decay():
    short, long = (TrainConfig(steps=steps, decay=0.3) for steps in (1000, 2000))
    assert [short.rate(k) for k in range(700)] == [long.rate(k) for k in range(700)]
    assert short.rate(800) < long.rate(800)


def test_images_depend_on_their_number_alone(labels, head):
    other = make_head(20, spacing_mm=VOXEL_MM)
    source = image_sources([*labels, other.native], CASCADE, CONFIG, CPU)["segmenter"]

    def draw(*numbers, network=1, config=CONFIG):
        return replace(source, network=network, config=config).draw(numbers, batch=0)

    together = draw(4, 5, 6)
    for k, number in enumerate((4, 5, 6)):
        for part, single in zip(together, draw(number), strict=True):
            torch.testing.assert_close(part[k : k + 1], single, atol=1e-3, rtol=1e-3)
    assert torch.equal(draw(4)[0], draw(4)[0])
    assert not torch.equal(draw(4)[0], draw(5)[0])
    assert not torch.equal(draw(4)[0], draw(4, network=0)[0])
    assert not torch.equal(draw(4)[0], draw(4, config=replace(CONFIG, seed=1))[0])
    assert torch.equal(draw(4)[0], draw(4, config=replace(CONFIG, batch=3, steps=99))[0])


def test_label_maps_are_drawn_by_their_weights(labels, head):
    other = make_head(20, spacing_mm=VOXEL_MM)
    maps = [*labels, other.native]

    def brains(*weights):
        source = image_sources(maps, CASCADE, CONFIG, CPU, [MapUse(weight) for weight in weights])["segmenter"]
        return source.draw(range(12), batch=0)[1]

    first, second = (
        image_sources([each], CASCADE, CONFIG, CPU)["segmenter"].draw(range(12), 0)[1] for each in maps
    )
    assert torch.equal(brains(1, 0), first) and torch.equal(brains(0, 1), second)
    assert not torch.equal(brains(3, 3), first) and not torch.equal(brains(3, 3), second)


def test_no_loss_is_taken_near_a_border_that_is_spared(labels):
    """Within so many voxels of the network, on both sides; the image is as without."""
    usual, spared = (
        image_sources(labels, CASCADE, CONFIG, CPU, uses)["segmenter"].draw([3], 0)
        for uses in ((), [MapUse(spared_voxels=1.0)])
    )
    assert torch.equal(usual[0], spared[0]) and torch.equal(usual[1], spared[1])
    left_out = (usual[2] > spared[2])[0, 0].numpy()
    brain = usual[1][0, 0].numpy() > 0.5
    assert (left_out & brain).any() and (left_out & ~brain).any()
    far = ndimage.distance_transform_edt(brain) + ndimage.distance_transform_edt(~brain) > 3
    assert not (left_out & far).any() and not spared[2][0, 0].numpy()[ndimage.binary_dilation(brain) ^ brain].all()


def test_a_run_is_resumed_with_the_same_uses_of_its_maps(labels):
    prints = [fingerprint(labels, uses) for uses in ((), [MapUse()], [MapUse(2.0)], [MapUse(1.0, 1.0)])]
    assert len(set(prints)) == len(prints) and prints[0] == fingerprint(labels)


@pytest.mark.parametrize(("rank", "world", "batch"), [(0, 1, 4), (1, 2, 2), (3, 4, 1)])
def test_processes_share_the_images_of_one_large_batch(labels, monkeypatch, rank, world, batch):
    """Step 5 of a run with four images a step has images 20 to 23, whoever draws them."""
    numbers = []
    draw = ImageSource.draw
    monkeypatch.setattr(
        ImageSource, "draw", lambda source, given, batch: numbers.append([*given]) or draw(source, given, batch)
    )
    run = make_run(labels, replace(CONFIG, batch=batch))
    monkeypatch.setattr(cascade_training, "process_number", lambda: rank)
    monkeypatch.setattr(cascade_training, "process_count", lambda: world)
    run.step = 5
    run.update()
    assert numbers == [list(range(20 + rank * batch, 20 + (rank + 1) * batch))] * 2


def box(shape, size_mm, turn=np.eye(3)):
    labels = np.ones([n + 4 for n in shape], dtype=np.uint8)
    labels[tuple(slice(2, n + 2) for n in shape)] = 101
    vox2world = np.eye(4)
    vox2world[:3, :3] = turn @ np.diag(size_mm)
    return NativeMap(labels, vox2world)


@pytest.mark.parametrize(
    ("boxes", "expected"),
    [
        ([box((166, 20, 20), (1, 1, 1))], 166),
        ([box((10, 84, 10), (0.1, 0.1, 0.1))], 8.4),
        ([box((20, 20, 34), (1, 1, 5))], 170),
        ([box((34, 20, 20), (5, 1, 1), np.eye(3)[[2, 0, 1]])], 170),  # another orientation
        ([box((84, 8, 8), (1, 1, 1)), box((166, 8, 8), (1, 1, 1))], 166),  # the largest counts
    ],
)
def test_brain_extent(boxes, expected):
    assert brain_extent_mm(boxes) == pytest.approx(expected)


@pytest.mark.parametrize("scale", [1.0, 0.5, 0.1, 1.5])
def test_the_windows_fit_the_brain(scale):
    """An anatomy of another size sees the same number of voxels, in proportion."""
    adult = CascadeConfig()
    fitting = CascadeConfig.fitting(165.0 * scale)
    assert fitting == replace(adult, voxel_size_mm=pytest.approx(adult.voxel_size_mm * scale))
    assert fitting.scale == pytest.approx(scale)
    windows, adult_windows = CONFIG.windows(fitting), CONFIG.windows(adult)
    for name, views in windows.items():
        for window, adult_window in zip(views, adult_windows[name], strict=True):
            assert window.jitter_mm == pytest.approx(scale * adult_window.jitter_mm)
    assert [[window.jitter_mm for window in views] for views in adult_windows.values()] == [[50, 178, 434], [12]]


@pytest.mark.parametrize("voxel_size_mm", [1.0, 1.7, 3.0])
def test_another_voxel_size_keeps_the_extent_of_the_windows(voxel_size_mm):
    fitting = CascadeConfig.fitting(165.0, voxel_size_mm, norm="none")
    assert fitting.voxel_size_mm == voxel_size_mm
    assert fitting.segmenter.norm == fitting.locator.norm == "none"
    adult_windows = CONFIG.windows(CascadeConfig())
    for name, (window, *_) in CONFIG.windows(fitting).items():
        assert window.shape[0] % getattr(fitting, name).multiple == 0
        extent = adult_windows[name][0].extent_mm[0]
        half_step = getattr(fitting, name).multiple * window.voxel_size_mm / 2
        assert window.shape[0] * window.voxel_size_mm == pytest.approx(extent, abs=half_step)


@pytest.mark.parametrize("factor", [0.75, 0.5])
def test_the_maps_are_finer_than_the_windows(labels, factor):
    config = replace(CONFIG, source_factor=factor)
    images = image_sources(labels, CASCADE, config, CPU)
    brain_mm3 = (labels[0].labels > 100).sum() * VOXEL_MM**3
    for name, windows in config.windows(CASCADE).items():
        for window, view in zip(windows, images[name].views, strict=False):  # those that the brain is seen in
            assert view.window == window
            (source,) = view.maps
            assert source.spacing_mm == pytest.approx(factor * window.voxel_size_mm)
            tolerance = 0.1 if view is images[name].views[0] else 0.6  # in wider fields it is two voxels wide
            assert source.brain.sum() * source.spacing_mm**3 == pytest.approx(brain_mm3, rel=tolerance)


SCRIPT = """
import os
import sys
import time
from pathlib import Path

import torch
from phantoms import make_head, tiny_cascade

from singlestrip.configuration import TrainConfig
from singlestrip.training.cascade import TrainingData, train_cascade

if sys.argv[2] == "2":
    torch.distributed.init_process_group("gloo")
torch.set_num_threads(1)
head = make_head(24, spacing_mm=2.0)
config = TrainConfig(steps=4, batch=2 // int(sys.argv[2]), lr=1e-3, warmup=1, amp="off", report_every=1)
cascade = tiny_cascade(2.0, 16, norm="none")
train_cascade(TrainingData([head.native]), Path(sys.argv[1]), cascade, config, device=torch.device("cpu"))
if sys.argv[2] == "2":
    torch.distributed.destroy_process_group()
os._exit(0)  # at the end of the interpreter a thread of gloo now and then aborts the process
"""


@pytest.mark.slow
def test_two_processes_train_as_one_with_twice_the_batch(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    folders = [str(Path(singlestrip.__file__).parents[1]), str(Path(__file__).parent)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(folders), "OMP_NUM_THREADS": "1"}
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    one, two = tmp_path / "one.safetensors", tmp_path / "two.safetensors"
    subprocess.run([sys.executable, script, one, "1"], env=environment, check=True)
    subprocess.run([sys.executable, *launch, script, two, "2"], env=environment, check=True)
    for row, expected in zip(metrics(two), metrics(one), strict=True):
        for name in ("segmenter_loss", "locator_loss"):
            assert float(row[name]) == pytest.approx(float(expected[name]), abs=1e-4)
    weights = load_file(two)
    for name, expected in load_file(one).items():
        torch.testing.assert_close(weights[name], expected, atol=1e-4, rtol=0)
    assert describe_model(two)["provenance"]["images_seen"] == 8


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["instance", "none"])
def test_torchrun_trains_as_one_command_with_twice_the_batch(tmp_path, norm):
    """The command line as on a cluster: one rendezvous, a process for each half of a batch."""
    image, mask, _ = make_head(24, spacing_mm=2.0).save(tmp_path)
    torch.manual_seed(0)
    checkpoint.save_model(tmp_path / "init.safetensors", Cascade(tiny_cascade(2.0, 16, norm)), {})
    environment = os.environ | {"PYTHONPATH": str(Path(singlestrip.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = ["-m", "singlestrip", "train", "-i", image, "-m", mask, "--init", tmp_path / "init.safetensors"]
    command += ["--steps", "20", "--lr", "1e-3", "--amp", "off", "--device", "cpu", "--threads", "1"]
    command += ["--no-quality"]
    one, two = tmp_path / "one.safetensors", tmp_path / "two.safetensors"
    for arguments in (
        [*command, "--batch", "2", "-o", one],
        [*launch, *command, "--batch", "1", "-o", two],
    ):
        subprocess.run([sys.executable, *arguments], env=environment, check=True)
    (row,), (expected,) = metrics(two), metrics(one)
    for name in ("segmenter_loss", "locator_loss"):
        assert float(row[name]) == pytest.approx(float(expected[name]), abs=1e-3)
    for path in (one, two):
        assert describe_model(path)["provenance"]["images_seen"] == 40


def test_resume_refuses_another_number_of_processes(labels, begun):
    path = RunFiles(begun).checkpoint
    training_state.save_training_state(path, training_state.load_training_state(path) | {"world": 2})
    with pytest.raises(ModelError, match="began with 2 processes"):
        train(labels, begun, resume=True)


def test_a_row_cut_short_is_dropped(labels, begun):
    """A kill or a full disk may leave half a row behind."""
    path = RunFiles(begun).metrics
    whole = metrics(begun)
    with path.open("a") as file:
        file.write("1,0.5")
    train(labels, begun, resume=True)
    assert [row["step"] for row in metrics(begun)[: len(whole)]] == [row["step"] for row in whole]
    assert {line.count(",") for line in path.read_text().splitlines()} == {5}


@pytest.mark.parametrize("voxel_size", [1.0, 4.0, 6.0, 8.0])
def test_networks_of_any_voxel_size_can_learn(voxel_size):
    """The deepest level keeps more than one voxel to normalise over."""
    config = CascadeConfig.fitting(165, voxel_size)
    for name, (window, *_) in CONFIG.windows(config).items():
        assert window.shape[0] // getattr(config, name).multiple > 2


def test_a_loss_that_is_not_finite_ends_the_run(labels, tmp_path, monkeypatch):
    """Without a checkpoint or model of it: what was saved before stays good."""
    monkeypatch.setattr(cascade_training, "segmentation_loss", lambda logit, *rest: logit.sum() * float("nan"))
    with pytest.raises(DivergedError, match="locator loss is not finite at step 1"):
        train(labels, tmp_path / "m.safetensors")
    assert not (tmp_path / "m.safetensors").exists()
    assert not RunFiles(tmp_path / "m.safetensors").checkpoint.exists()


# Checkpoints that hold other things


def change_tensor(part, name, change):
    """An edit of a checkpoint: one of its tensors by what `change` makes of it."""

    def edit(state):
        tensors = state["optimizer"]["state"][0] if part == "optimizer" else state[part]
        tensors[name] = change(tensors[name])

    return edit


def put(**values):
    return lambda state: state.update(values)


WEIGHT = "segmenter.head.weight"


@pytest.mark.parametrize(
    "edit",
    [
        put(step=10**18),
        put(step=-1),
        put(step=0),
        put(step=1.5),
        put(step="1"),
        put(step=True),
        put(step=2),  # the optimizer made one
        put(best=5),
        put(best=(0.5,)),
        put(best=(2.0, 1)),
        put(best=(float("nan"), 1)),
        put(best=(0.5, 7)),
        put(seconds=None),
        put(seconds=float("nan")),
        put(seconds=-1.0),
        put(world=0),
        put(losses=None),
        put(losses={"segmenter": [float("inf")]}),
        put(losses={"segmenter": "0.5"}),
        put(losses={"red": [0.5]}),
        put(losses={"segmenter": torch.ones(2)}),
        put(best=torch.ones(2)),
        put(optimizer=torch.ones(2)),
        put(config=None),
        put(config=[]),
        put(network={}),
        put(network=None),
        put(data=5),
        put(random={}),
        put(random=None),
        put(random={"cpu": torch.ones(5056)}),
        put(random={"cpu": torch.zeros(5056, dtype=torch.uint8)}),
        put(random={"cpu": torch.zeros(3, dtype=torch.uint8)}),
        put(averaged=None),
        put(model={}),
        put(model=None),
        put(averaged={"x": torch.ones(3)}),
        put(optimizer=None),
        put(optimizer={}),
        put(optimizer={"state": {}, "param_groups": []}),
        lambda state: state.pop("averaged"),
        lambda state: state["model"].pop(WEIGHT),
        lambda state: state["optimizer"]["state"].pop(3),
        lambda state: state["optimizer"]["state"][0].pop("exp_avg"),
        change_tensor("model", WEIGHT, lambda value: value[:1]),
        change_tensor("model", WEIGHT, lambda value: value.double()),
        change_tensor("model", WEIGHT, lambda value: value.to_sparse()),
        change_tensor("model", WEIGHT, lambda value: value * torch.nan),
        change_tensor("model", WEIGHT, lambda value: 5),
        change_tensor("averaged", WEIGHT, lambda value: value.to("meta")),
        change_tensor("averaged", WEIGHT, lambda value: torch.ones(1).expand(2**40)),
        change_tensor("optimizer", "exp_avg", lambda value: value.flatten()),
        change_tensor("optimizer", "exp_avg_sq", lambda value: value - 1),
        change_tensor("optimizer", "step", lambda value: value + 5),
    ],
)
def test_resume_refuses_a_damaged_checkpoint_before_anything_is_built(labels, begun, edit, monkeypatch):
    path, model = RunFiles(begun).checkpoint, begun.read_bytes()
    state = training_state.load_training_state(path)
    edit(state)
    training_state.save_training_state(path, state)
    monkeypatch.setattr(cascade_training, "image_sources", lambda *arguments: pytest.fail("too late"))
    with pytest.raises(ModelError, match=str(path)):
        train(labels, begun, resume=True)
    assert begun.read_bytes() == model


@pytest.mark.parametrize("state", [None, 5, [], {}, {"step": 1}, torch.ones(3)])
def test_resume_refuses_what_is_no_state(labels, begun, state):
    path = RunFiles(begun).checkpoint
    torch.save(state, path)
    with pytest.raises(ModelError, match=f"{path}: not a training checkpoint"):
        train(labels, begun, resume=True)


def test_fewer_steps_than_were_made_are_refused(labels, tmp_path):
    out = train(labels, tmp_path / "m.safetensors", replace(CONFIG, steps=2))
    with pytest.raises(ModelError, match="at step 2 of 1"):
        train(labels, out, replace(CONFIG, steps=1), resume=True)


@pytest.mark.parametrize(
    "text", ["1,0.5,0.5,0.1,,1.0", "x,0.5,0.5,0.1,,1", "1,nan,0.5,0.1,,1", "1,2,3,4,5,6,7", "1,2", '"']
)
def test_damaged_metrics_are_said_before_the_run(labels, begun, text):
    path = RunFiles(begun).metrics
    with path.open("a") as file:
        file.write(f"{text}\n")
    if text.endswith("1.0"):  # nothing is wrong with this one
        train(labels, begun, resume=True)
        return
    with pytest.raises(InputError, match=rf"{path}: damaged; remove it"):
        train(labels, begun, resume=True)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match=rf"{path}: damaged; remove it"):
        train(labels, begun, resume=True)
    path.unlink()
    train(labels, begun, resume=True)


# What is checked before the work


@pytest.mark.parametrize(
    "name", ["no/m.safetensors", f"{'m' * 244}.safetensors", "folder.safetensors", "file/m.safetensors"]
)
def test_places_that_cannot_be_written_are_refused_first(labels, tmp_path, name, monkeypatch):
    (tmp_path / "folder.safetensors").mkdir()
    (tmp_path / "file").touch()
    before = sorted(tmp_path.iterdir())
    monkeypatch.setattr(cascade_training, "fingerprint", lambda *arguments: pytest.fail("too late"))
    with pytest.raises(OutputError, match=name[:5]):
        train(labels, tmp_path / name)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("voxel_size_mm", [1e-320, 1e-6, 0.01, 0.3, 30, 1e9])
def test_a_voxel_size_that_does_not_suit_the_brain(voxel_size_mm):
    maps = [box((100, 100, 100), (1, 1, 1))]
    with pytest.raises(
        InputError,
        match=r"voxels of .* do not suit a brain 100 mm long: choose more than 0\.48 and less than 15 mm",
    ):
        fitting_cascade(maps, voxel_size_mm)
    assert fitting_cascade(maps, 1.0) == CascadeConfig.fitting(100, 1.0)
    finest = fitting_cascade(maps, 0.49)
    assert (
        finest.locator_size**3
        <= stripper.MAX_LOCATOR_VOXELS
        < (finest.locator_size + finest.locator.multiple) ** 3
    )


START = tiny_cascade(VOXEL_MM)  # for brains 27.5 mm long


@pytest.mark.parametrize("length_mm", [21, 27, 35])
def test_networks_for_the_same_anatomy_stay_as_they_are(length_mm):
    assert fitting_cascade([box((length_mm, 8, 8), (1, 1, 1))], start=START) == START


@pytest.mark.parametrize(("length_mm", "voxel_size_mm"), [(20, 1.5), (36, 2.6), (165, 12.0)])
def test_networks_for_another_anatomy_keep_their_voxels(length_mm, voxel_size_mm):
    """The brain is as many voxels long, so that the weights know it."""
    fitted = fitting_cascade([box((length_mm, 8, 8), (1, 1, 1))], start=START)
    assert fitted == replace(START, voxel_size_mm=voxel_size_mm)


def test_networks_to_begin_with_take_a_voxel_size():
    """Their windows then cover as much of the brain."""
    same = [box((27, 8, 8), (1, 1, 1))]
    assert fitting_cascade(same, 1.0, START) == replace(
        START, voxel_size_mm=1.0, segmenter_size=32, locator_size=32
    )
    assert fitting_cascade(same, 2.0, START).voxel_size_mm == 2.0
    with pytest.raises(InputError, match=r"voxels of 5 mm do not suit .* less than 3\.9 mm"):
        fitting_cascade(same, 5.0, START)


def test_the_time_of_a_run_is_told_after_some_steps(labels, tmp_path):
    told = []
    train(labels, tmp_path / "m.safetensors", replace(CONFIG, steps=6, report_every=5), progress=told.append)
    assert [progress.step for progress in told] == [3, 5, 6]
    assert all(progress.seconds_left > 0 and progress.losses for progress in told[:2])
    assert [row["step"] for row in metrics(tmp_path / "m.safetensors")] == ["5", "6"]


def test_a_brain_that_no_network_is_for():
    with pytest.raises(InputError, match="no network is for"):
        fitting_cascade([box((4, 4, 4), (1e-3, 1e-3, 1e-3))])


def test_the_memory_of_a_run_is_known_beforehand(labels, tmp_path, monkeypatch):
    """A brain of some voxels in a large field needs label maps beyond any machine."""
    wide = np.ones((300, 300, 300), dtype=np.uint8)
    wide[150, 150, 150] = 101
    cascade = fitting_cascade([NativeMap(wide, np.eye(4))])
    with pytest.raises(InputError, match=r"needs \d+\.\d GiB of memory at least and .* free"):
        check_memory([NativeMap(wide, np.eye(4))], cascade, CONFIG, CPU)
    check_memory(labels, CASCADE, CONFIG, CPU)
    with pytest.raises(InputError, match="fewer images a step"):
        train(labels, tmp_path / "m.safetensors", replace(CONFIG, batch=10**9))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("side", ["inside", "outside"])
def test_a_side_too_thin_for_the_voxels(side):
    labels = np.full((12, 12, 12), 1 if side == "inside" else 101, dtype=np.uint8)
    labels[6, 6, :] = 101 if side == "inside" else 1
    source = NativeMap(labels, np.diag([0.1, 0.1, 1, 1]))
    with pytest.raises(InputError, match=f"nothing {side} the brain is left"):
        image_sources([source], tiny_cascade(2.0), CONFIG, CPU)


@pytest.fixture
def no_fit(monkeypatch):
    """Fitting classes is too late."""
    monkeypatch.setattr(labelling, "fit_label_map", lambda *arguments: pytest.fail("too late"))


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["-o", "no/m.safetensors"], "folder no does not exist"),
        (["-o", "old.safetensors"], "old.checkpoint: holds an earlier run"),
        (["-o", "old.safetensors", "--resume"], "old.checkpoint: not a training checkpoint"),
        (["-o", f"{'m' * 244}.safetensors"], "shorten it"),
        (["-o", "m.safetensors", "--picture", "no/sheet.png"], "no/sheet.png: folder no"),
        (["-o", "m.safetensors", "--picture", "sheet.txt"], "sheet.txt: name pictures"),
        (["--picture", "m.curve.png", "-o", "m.safetensors"], "m.curve.png: is named for two outputs"),
        (["-o", "m.safetensors", "--val", "gone.nii.gz", "mask.nii.gz"], "gone.nii.gz: no such file"),
        (["-o", "m.safetensors", "--init", "no-such"], "no-such: no such model"),
        (["-o", "m.safetensors", "--init", "damaged.safetensors"], "damaged.safetensors: not a model file"),
        (["-o", "m.safetensors", "-l", "gone.nii.gz"], "gone.nii.gz: no such file"),
        (["-o", "m.safetensors", "-i", "gone.nii.gz", "-m", "mask.nii.gz"], "gone.nii.gz: no such file"),
        (["-o", "m.safetensors", "--voxel-size", "0.01"], "voxels of 0.01 mm do not suit"),
        (["-o", "m.safetensors", "--batch", "1000000000"], "GiB of memory at least"),
    ],
)
def test_the_command_says_what_is_wrong_before_the_fit(
    head, tmp_path, monkeypatch, capsys, no_fit, options, error
):
    monkeypatch.chdir(tmp_path)
    head.save(tmp_path)
    for name in ("old.checkpoint", "damaged.safetensors"):
        (tmp_path / name).write_bytes(b"nothing of the kind")
    before = sorted(tmp_path.iterdir())
    assert main(["train", "-i", "image.nii.gz", "-m", "mask.nii.gz", "--device", "cpu", *options]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("singlestrip: ") and error in line and "unexpected" not in line
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("error", "options"),
    [(DivergedError, "--resume, --amp, --lr"), (Interrupted, "--resume"), (EarlierRunError, "--resume")],
)
def test_the_command_names_the_options_that_an_error_advises(head, tmp_path, monkeypatch, capsys, error, options):
    head.save(tmp_path)

    def fail(*arguments, **keywords):
        raise error("m.checkpoint: what is wrong")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cascade_training, "train_cascade", fail)
    assert main(["train", "-l", "labels.nii.gz", "-o", "m.safetensors", "--device", "cpu", "-q"]) == 1
    assert capsys.readouterr().err == f"singlestrip: m.checkpoint: what is wrong ({options})\n"


def test_errors_of_training_name_no_options():
    """Only the command line has options."""
    package = Path(singlestrip.__file__).parent
    for path in (*(package / "training").glob("*.py"), package / "quality" / "training.py"):
        assert not re.findall(r"--[a-z]", path.read_text(encoding="utf-8")), path


def test_a_wrong_place_is_refused_without_torch(head, tmp_path):
    """In the time that Python takes to start."""
    head.save(tmp_path)
    script = "import sys; from singlestrip.cli.main import main; main(sys.argv[1:]); print('torch' in sys.modules)"
    command = ["train", "-i", "image.nii.gz", "-m", "mask.nii.gz", "-o", "no/m.safetensors"]
    environment = os.environ | {"PYTHONPATH": str(Path(singlestrip.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", script, *command], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.stdout == "False\n" and "folder no does not exist" in done.stderr
