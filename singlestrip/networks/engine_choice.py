"""Which library runs networks: OpenVINO on a processor, torch on a GPU. Imports no torch.

OpenVINO starts in a tenth of torch's time and runs the networks faster (docs/benchmarks.md has the comparison). In
training, where networks change from step to step, torch runs them on a processor too.
"""

from __future__ import annotations

import ctypes
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..configuration import ENGINES
from ..errors import SingleStripError
from ..threads import is_forked
from . import model_header
from .engine import Engine
from .model_header import AUTOENCODER, CASCADE, Kind
from .model_weights import read_weights

if TYPE_CHECKING:
    from torch import nn


def as_engine(networks: Engine | nn.Module) -> Engine:
    """An engine as it is; a cascade or an autoencoder of torch as an engine, in evaluation mode."""
    if isinstance(networks, Engine):
        return networks
    from .torch_engine import TorchEngine

    return TorchEngine(networks)


def load_engine(
    path: Path, kind: Kind = CASCADE, device: str = "auto", engine: str = "auto"
) -> tuple[Engine, dict[str, Any]]:
    """The networks of a kind in a model file, and the file's header, as of `model_header.Header.describe`.

    device: "auto", "cpu", "cuda", "cuda:N" or "mps". engine: "openvino", "torch", or "auto": torch on a GPU, on a
    processor OpenVINO. Raises ModelError as `read_weights`, and SingleStripError for a device or an engine that is
    not there.
    """
    if choose_engine(device, engine) == "torch":
        from .autoencoder import Autoencoder
        from .checkpoint import load_model
        from .device import choose_device
        from .torch_engine import TorchEngine

        if kind is AUTOENCODER:
            quality, told = load_model(path, choose_device(device), Autoencoder)
            return TorchEngine(quality), told
        cascade, told = load_model(path, choose_device(device))
        return TorchEngine(cascade), told
    from .openvino_engine import OpenVinoEngine

    header = model_header.read_header(path, kind)
    part = header.parts[kind]
    return OpenVinoEngine(part.config, read_weights(path, header, kind), part.estimator), header.describe(kind)


def choose_engine(device: str = "auto", engine: str = "auto") -> str:
    """The library that runs networks on a device: "openvino" or "torch".

    OpenVINO does not survive a fork: in a forked worker torch is preferred. Raises SingleStripError if there is
    none, if OpenVINO is asked for on a GPU, or in a forked worker.
    """
    if engine not in ENGINES:
        raise SingleStripError(f"engine {engine}: not known; choose auto, openvino or torch")
    on_processor = device == "cpu" or (device == "auto" and not (engine != "openvino" and has_gpu()))
    if engine == "auto":
        prefers_torch = is_installed("torch") and (is_forked() or not is_installed("openvino"))
        engine = "openvino" if on_processor and not prefers_torch else "torch"
    if engine == "openvino" and not on_processor:
        raise SingleStripError(f"device {device}: OpenVINO runs on the processor here; choose the engine torch")
    if engine == "openvino" and is_forked():
        raise SingleStripError(
            "OpenVINO does not run in a forked worker; start workers with multiprocessing's spawn, or choose the "
            "engine torch"
        )
    if not is_installed(engine):
        raise SingleStripError(f"the networks need {engine}, which is not installed: pip install {engine}")
    return engine


def is_installed(library: str) -> bool:
    """Whether a library can be imported. It is not."""
    return find_spec(library) is not None


def has_gpu() -> bool:
    """Whether a GPU of NVIDIA is visible to this process and torch, which would use it, is installed."""
    if not is_installed("torch"):
        return False
    try:
        driver = ctypes.CDLL("libcuda.so.1")
        count = ctypes.c_int()
        return driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0
    except (OSError, AttributeError):
        return False
