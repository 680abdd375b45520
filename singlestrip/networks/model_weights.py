"""Weights in model files, as arrays. Imports no torch.

Reading takes no more memory than the file and the weights in 32 bits: the shapes of the weights are checked before
any value is read, those of all networks in the file.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors import deserialize, safe_open

from ..errors import ModelError
from ..io import memory
from ..io.text import typed
from .model_header import Config, Header, Kind, open_safetensors
from .weight_shapes import COUNTER, Shapes, weight_shapes

MAX_WEIGHTS = 64_000_000  # the shipped model has 3 million
WEIGHT_TYPES = {
    "F16": np.float16,
    "BF16": np.uint16,
    "F32": np.float32,
}  # safetensors' names, and how they are read
COUNTER_TYPES = {"I64": np.int64}

Weights = dict[str, np.ndarray]


def weights_of(network: str, weights: Weights) -> Weights:
    """The weights of one network of a cascade, "locator" or "segmenter", by the names that they have in it."""
    prefix = f"{network}."
    return {name.removeprefix(prefix): values for name, values in weights.items() if name.startswith(prefix)}


def read_weights(path: Path, header: Header, kind: Kind) -> Weights:
    """The weights of the networks of a kind in a file, float32, by the names that they have in these networks.

    Raises ModelError unless the weights of all networks of the file are right, and memory can hold the working
    data of the wanted ones.
    """
    wanted = header.parts[kind]
    check_weights(path, header)
    _check_memory(path, wanted.config)
    weights = {name: _as_float32(stored) for name, stored in deserialize(path.read_bytes())}
    for name, values in weights.items():
        fault = weight_fault(name, values)
        if fault:
            raise ModelError(f"{path}: the weights {fault}; the file is damaged")
    return {name: weights[wanted.prefix + name] for name in weight_shapes(wanted.config)}


def check_weights(path: Path, header: Header) -> None:
    """Raise ModelError unless a file holds the weights of its networks, in shape and type, and no others."""
    with open_safetensors(path, "np") as file:
        _check_shapes(path, file, header)


def weight_fault(name: str, values: np.ndarray) -> str | None:
    """What is wrong with the values of a weight, as a clause after "the weights"; None if they are right."""
    if not np.isfinite(values).all():
        return "are not finite"
    if name.endswith("running_var") and (values < 0).any():
        return "hold a variance below 0"
    return None


def _as_float32(stored: dict) -> np.ndarray:
    """An array as safetensors gives it: its data, shape and type. Counters stay whole numbers."""
    dtype = stored["dtype"]
    values = np.frombuffer(stored["data"], dtype=(WEIGHT_TYPES | COUNTER_TYPES)[dtype]).reshape(stored["shape"])
    if dtype == "BF16":  # the upper half of a float32
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values if dtype in COUNTER_TYPES else values.astype(np.float32, copy=False)


def _check_shapes(path: Path, file: safe_open, header: Header) -> None:
    """`check_weights` of an open file."""
    expected: Shapes = {
        part.prefix + name: shape
        for part in header.parts.values()
        for name, shape in weight_shapes(part.config).items()
    }
    number = sum(int(np.prod(shape, dtype=object)) for shape in expected.values())
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
        if shape != wanted:
            raise ModelError(
                f"{path}: weights and configuration do not fit ({name} has the shape {shape}, not {wanted})"
            )
        if dtype not in (COUNTER_TYPES if name.endswith(COUNTER) else WEIGHT_TYPES):
            raise ModelError(f"{path}: weights and configuration do not fit ({name} is of type {dtype})")


def _check_memory(path: Path, config: Config) -> None:
    """Raise ModelError unless memory can hold the working data of networks."""
    need, left = config.working_bytes, memory.available()
    if left is not None and need > left:
        raise ModelError(
            f"{path}: the model needs about {need / memory.GIB:.1f} GiB of memory for its windows and "
            f"{left / memory.GIB:.1f} GiB are free; use a larger machine or a model of larger voxels"
        )
