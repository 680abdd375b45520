"""Processor or GPU, threads, and forked workers."""

import os
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import nibabel as nib
import numpy as np
import pytest
import torch
from phantoms import PhantomCascade

from singlestrip import threads
from singlestrip.errors import DeviceError, SingleStripError
from singlestrip.networks import device
from singlestrip.networks.torch_engine import TorchEngine
from singlestrip.space.metrics import dice
from singlestrip.stripping.stripper import Stripper

WORKERS = """
import multiprocessing, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import nibabel, numpy as np
import singlestrip
from singlestrip.quality.scores import QualityModel

engine = sys.argv[2]
scan = nibabel.load(Path(nibabel.__file__).parent / "tests/data/example4d.nii.gz")
image = np.asarray(scan.dataobj[..., 0])
session = singlestrip.Stripper.load(device="cpu", engine=engine)
quality = QualityModel.load(device="cpu", engine=engine)
mask = session.strip(image, scan.affine).mask
estimate = quality.assess(mask, scan.affine).estimate

def work(number):
    if number % 2:  # a model of the worker's own
        found = singlestrip.strip(image, scan.affine, device="cpu").mask
    else:
        found = session.strip(image, scan.affine).mask
    return np.mean(found != mask), abs(quality.assess(mask, scan.affine).estimate - estimate)

if sys.argv[1] == "threads":
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(work, range(4)))
else:
    with multiprocessing.get_context("fork").Pool(2) as pool:
        found = pool.map(work, range(4))
assert mask.any() and np.max(found) < 1e-4, found
print("same", len(found))
"""


def test_devices(monkeypatch):
    monkeypatch.setattr(device.torch.cuda, "is_available", lambda: False)
    assert device.choose_device("auto").type == "cpu"
    monkeypatch.setattr(device.torch.backends.cuda, "is_built", lambda: True)
    for name, sentence in (("cuda", "no CUDA device"), ("abacus", "choose auto, cpu")):
        with pytest.raises(DeviceError, match=sentence):
            device.choose_device(name)
    monkeypatch.setattr(device.torch.backends.cuda, "is_built", lambda: False)
    with pytest.raises(DeviceError, match="built for processors alone"):
        device.choose_device("cuda")


def test_auto_is_never_the_gpu_of_apple(monkeypatch):
    """Until its masks are known to be those of a processor. Nothing is trained on it."""
    monkeypatch.setattr(device.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(device.torch.backends.mps, "is_available", lambda: True)
    assert device.choose_device("auto").type == "cpu"
    assert device.choose_device("mps").type == device.choose_device("mps:0").type == "mps"
    assert not device.fast_in_bfloat16(torch.device("mps"))
    assert device.choose_training_device("cpu").type == "cpu"
    for choose, name, sentence in (
        (device.choose_training_device, "mps", "trained on a processor or a CUDA GPU"),
        (device.choose_device, "mps:1", "not on this machine"),
        (device.choose_device, "cuda", "Apple's GPU is the device mps"),
    ):
        with pytest.raises(DeviceError, match=sentence):
            choose(name)
    monkeypatch.setattr(device.torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(DeviceError, match="no GPU of Apple"):
        device.choose_device("mps")


def test_what_torch_lacks_on_a_device_is_told(monkeypatch):
    cascade = PhantomCascade()
    monkeypatch.setattr(cascade.segmenter, "forward", Mock(side_effect=NotImplementedError("aten::max_pool3d")))
    with pytest.raises(DeviceError, match="device cpu: the installed torch lacks what the networks need"):
        TorchEngine(cascade).run("segmenter", np.zeros((1, 1, 8, 8, 8), dtype=np.float32))


@pytest.mark.skipif(not torch.backends.mps.is_available(), reason="no GPU of Apple (mps)")
def test_masks_on_the_gpu_of_apple_are_those_of_a_processor():
    scan = nib.load(Path(nib.__file__).parent / "tests/data/example4d.nii.gz")
    image = np.asarray(scan.dataobj[..., 0])
    masks = [Stripper.load(device=name, engine="torch").strip(image, scan.affine).mask for name in ("cpu", "mps")]
    assert dice(*masks) > 0.999


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["openvino", "torch"])
@pytest.mark.parametrize("kind", ["threads", "fork"])
def test_one_session_serves_many_workers(kind, engine, tmp_path):
    """Without care a forked worker waits for ever for its parent's threads. Both engines ran before the fork."""
    script = tmp_path / "workers.py"
    script.write_text(WORKERS)
    run = subprocess.run([sys.executable, script, kind, engine], capture_output=True, text=True, timeout=300)
    assert run.stdout == "same 4\n", run.stderr


@pytest.fixture
def torch_threads():
    """Leaves torch the threads that it had."""
    before = torch.get_num_threads()
    yield before
    torch.set_num_threads(before)


def test_threads_are_left_alone_unless_there_is_a_limit(torch_threads, monkeypatch):
    monkeypatch.setattr(threads, "_limit", None)
    device.limit_threads(torch.device("cpu"))
    assert torch.get_num_threads() == torch_threads
    threads.set_thread_limit(torch_threads + 1)
    device.limit_threads(torch.device("cpu"))
    assert torch.get_num_threads() == torch_threads + 1


def test_the_number_of_threads(monkeypatch):
    monkeypatch.setattr(threads, "_limit", None)
    cores = len(os.sched_getaffinity(0))
    for text, count in (("3", 3), ("5,2", 5), ("", cores), ("0", cores), ("-2", cores), ("many", cores)):
        monkeypatch.setenv("OMP_NUM_THREADS", text)
        assert threads.thread_count() == count
    threads.set_thread_limit(7)
    assert threads.thread_count() == threads.thread_limit() == 7
    monkeypatch.setattr(threads, "_IMPORTING_PROCESS", -1)
    assert threads.is_forked() and threads.thread_count() == 1


def test_a_forked_worker_is_told_that_the_gpu_is_not_its_own(monkeypatch):
    monkeypatch.setattr(threads, "_IMPORTING_PROCESS", -1)
    for name in ("cuda", "mps"):
        with pytest.raises(SingleStripError, match="spawn"):
            device.limit_threads(torch.device(name))


def test_a_forked_worker_has_one_thread(monkeypatch, torch_threads):
    torch.set_num_threads(2)
    monkeypatch.setattr(threads, "_IMPORTING_PROCESS", -1)
    device.limit_threads(torch.device("cpu"))
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize(
    ("onednn", "instructions", "fast"), [(True, True, True), (True, False, False), (False, True, False)]
)
def test_bfloat16_is_fast_where_the_processor_has_it(monkeypatch, onednn, instructions, fast):
    """Where oneDNN only imitates it, it is not."""
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: onednn)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: onednn, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: instructions, raising=False)
    assert device.fast_in_bfloat16(torch.device("cpu")) == fast
    if not instructions:  # nor with an older torch, which cannot tell
        monkeypatch.delattr(torch.cpu, "_is_avx512_bf16_supported")
        assert not device.fast_in_bfloat16(torch.device("cpu"))
