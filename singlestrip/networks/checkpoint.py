"""Model files: reads and writes their weights. `model_header` reads their headers.

A model is one safetensors file. It holds the weights, and in its header the configuration, provenance and format
version as JSON. Reading it cannot run code and takes no more memory than the file: before anything is built, the
ranges of the configuration and the shapes of the weights are checked.
"""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import safe_open
from safetensors.torch import save

from ..errors import ModelError
from ..io import memory
from ..io.output import atomic_write
from ..io.text import typed
from . import model_header
from .autoencoder import Autoencoder
from .cascade import Cascade
from .model_files import MODELS_VARIABLE, describe_folders, find_by_name, find_in_folders
from .model_header import AUTOENCODER, CASCADE, FORMAT_VERSION, Kind

MAX_WEIGHTS = 64_000_000  # the shipped model has 3 million
WEIGHT_TYPES = ("F16", "BF16", "F32")  # safetensors' names
COUNTER_TYPES = ("I64",)

Model = TypeVar("Model", Cascade, Autoencoder)
KINDS: dict[type[torch.nn.Module], Kind] = {Cascade: CASCADE, Autoencoder: AUTOENCODER}


def find_model(name: str | os.PathLike[str] | None, kind: type[torch.nn.Module] = Cascade) -> Path:
    """Path of a model: of a file, or of the model of that name on the search path; None names the default model.

    The search path is `model_files.model_folders`. Raises ModelError if there is none.
    """
    if name is not None:
        return find_by_name(name)
    default = find_in_folders(KINDS[kind].shipped)
    if default is None:
        raise ModelError(
            f"{KINDS[kind].shipped}: the default model is not in {describe_folders()}; name its folder in "
            f"{MODELS_VARIABLE}, or name a model file"
        )
    return default


def save_model(path: Path, model: Cascade | Autoencoder, provenance: dict[str, Any], half: bool = False) -> None:
    """Write a model, whole or not at all.

    half: store weights in 16 bits, which halves the file. Raises ModelError for weights that are not finite in the
    bits they are stored in, and OutputError.
    """
    header = {
        "format": KINDS[type(model)].format,
        "format_version": str(FORMAT_VERSION),
        "configuration": json.dumps(dataclasses.asdict(model.config)),
        "provenance": json.dumps(provenance),
    }
    dtype = torch.float16 if half else torch.float32
    weights = {
        name: value.detach().to("cpu", dtype if value.is_floating_point() else value.dtype).contiguous()
        for name, value in model.state_dict().items()
    }
    if not all(bool(torch.isfinite(w).all()) for w in weights.values()):
        raise ModelError(f"{path}: the weights have become too large to store; train anew at a lower rate")
    data = save(weights, header)
    with atomic_write(path) as (partial,):
        partial.write_bytes(data)


def read_header(path: Path, kind: type[torch.nn.Module] = Cascade) -> dict[str, Any]:
    """Configuration, provenance and format version of a model file, without its weights. Raises ModelError."""
    return model_header.read_header(path, KINDS[kind])


def load_model(
    path: Path,
    device: torch.device | str = "cpu",
    kind: type[Model] = Cascade,  # type: ignore[assignment]  # type variables have no defaults
) -> tuple[Model, dict[str, Any]]:
    """A model in evaluation mode on `device`, and its header, as of `read_header`.

    Raises ModelError for a file that is damaged, inconsistent or of a newer format.
    """
    header = read_header(path, kind)
    config = model_header.parse_configuration(path, header, KINDS[kind])
    with model_header.open_safetensors(path, "pt") as file:
        _check_weights(path, file, kind, config)
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    for name, values in weights.items():
        fault = weight_fault(name, values)
        if fault:
            raise ModelError(f"{path}: the weights {fault}; the file is damaged")
    model = kind(config)
    model.load_state_dict(weights)
    return model.to(device).eval(), header


def weight_fault(name: str, values: torch.Tensor) -> str | None:
    """What is wrong with the values of a weight, as a clause after "the weights"; None if they are right."""
    if not bool(torch.isfinite(values).all()):
        return "are not finite"
    if name.endswith("running_var") and bool((values < 0).any()):
        return "hold a variance below 0"
    return None


def _check_weights(path: Path, file: safe_open, kind: type[Model], config: Any) -> None:
    """Raise ModelError unless the file holds the weights of such a model and memory can hold its working data."""
    with torch.device("meta"):  # shapes alone: nothing is allocated
        expected = kind(config).state_dict()
    number = sum(value.numel() for value in expected.values())
    if number > MAX_WEIGHTS:
        raise ModelError(
            f"{path}: the model has {number / 1e6:.0f} million weights; at most {MAX_WEIGHTS / 1e6:.0f} are read"
        )
    stored = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    for name in sorted(stored.keys() ^ expected.keys()):
        fault = "is unknown" if name in stored else "is missing"
        raise ModelError(f"{path}: weights and configuration do not fit ({typed.shortened(name)} {fault})")
    for name, wanted in expected.items():
        shape, dtype = tuple(stored[name].get_shape()), stored[name].get_dtype()
        if shape != tuple(wanted.shape):
            raise ModelError(
                f"{path}: weights and configuration do not fit ({name} has the shape {shape}, not "
                f"{tuple(wanted.shape)})"
            )
        if dtype not in (WEIGHT_TYPES if wanted.is_floating_point() else COUNTER_TYPES):
            raise ModelError(f"{path}: weights and configuration do not fit ({name} is of type {dtype})")
    need, left = config.working_bytes, memory.available()
    if left is not None and need > left:
        raise ModelError(
            f"{path}: the model needs about {need / memory.GIB:.1f} GiB of memory for its windows and "
            f"{left / memory.GIB:.1f} GiB are free; use a larger machine or a model of larger voxels"
        )
