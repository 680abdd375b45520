"""Model files: reads and writes their weights. `model_header` reads their headers.

A model is one safetensors file. It holds the weights, and in its header the configuration, provenance and format
version as JSON. The file of a cascade may also hold the quality network of the same anatomy, with a configuration
and a provenance of its own, and the volumes of the labelled brains.

Reading a file cannot run code and takes no more memory than the file: before anything is built, the ranges of the
configurations and the shapes of the weights are checked, those of all networks in the file.
"""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass
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
from .model_header import (
    AUTOENCODER,
    CASCADE,
    ESTIMATOR,
    FORMAT_VERSION,
    PARTS_VERSION,
    PLAIN_VERSION,
    QUALITY_KEY,
    QUALITY_WEIGHT,
    Anatomy,
    Config,
    Header,
    Kind,
)
from .trees import Estimator

MAX_WEIGHTS = 64_000_000  # the shipped model has 3 million
WEIGHT_TYPES = ("F16", "BF16", "F32")  # safetensors' names
COUNTER_TYPES = ("I64",)

Model = TypeVar("Model", Cascade, Autoencoder)
Weights = dict[str, torch.Tensor]


KINDS: dict[type[torch.nn.Module], Kind] = {Cascade: CASCADE, Autoencoder: AUTOENCODER}


@dataclass(frozen=True, eq=False)
class QualityPart:
    """A quality network in the file of a cascade, and how it was made."""

    model: Autoencoder
    provenance: dict[str, Any]


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


def is_shipped(path: Path) -> bool:
    """Whether the file of a cascade is the shipped one, which is taken if none is named."""
    try:
        return path.samefile(find_model(None))
    except (ModelError, OSError):
        return False


def save_model(
    path: Path,
    model: Cascade | Autoencoder,
    provenance: dict[str, Any],
    half: bool = False,
    *,
    quality: QualityPart | None = None,
    anatomy: Anatomy | None = None,
) -> None:
    """Write a model, whole or not at all.

    half: store weights in 16 bits, which halves the file. quality, anatomy: what else to write into the file of a
    cascade. Raises ModelError for weights that are not finite in the bits they are stored in, and OutputError.
    """
    header = {"format": KINDS[type(model)].format, **_header_entries(model, provenance)}
    if anatomy is not None:
        header["anatomy"] = json.dumps(dataclasses.asdict(anatomy))
    _write(path, header, _stored_weights(model, half), quality, half)


def add_quality(path: Path, quality: QualityPart, half: bool = False) -> None:
    """Write a quality network into the model file of a cascade, in place of one that is there.

    What else the file holds stays as it is. half: store the weights of the quality network in 16 bits. Raises
    ModelError unless the file is a sound model of a cascade, and OutputError; the file then stays as it was.
    """
    header = model_header.read_header(path, CASCADE)
    entries = {name: text for name, text in header.entries.items() if not name.startswith(QUALITY_KEY)}
    _write(path, entries, _read_weights(path, header, Cascade), quality, half)


def set_estimator(path: Path, estimator: Estimator, provenance: dict[str, Any]) -> None:
    """Write an estimator into the quality network of a model file, in place of one that is there.

    provenance: what the network's provenance tells of it, as `estimator`. What else the file holds stays as it is.
    Raises ModelError unless the file is a sound model with a quality network, and OutputError; the file then stays
    as it was.
    """
    header = model_header.read_header(path, AUTOENCODER)
    part = header.parts[AUTOENCODER]
    told = part.stored["provenance"] | {"estimator": provenance}
    entries = {"provenance": json.dumps(told), ESTIMATOR: json.dumps(dataclasses.asdict(estimator))}
    changed = header.entries | {part.key + name: text for name, text in entries.items()}
    _write(path, changed, _read_all_weights(path, header))


def _header_entries(model: Cascade | Autoencoder, provenance: dict[str, Any]) -> dict[str, str]:
    """The header's entries for networks."""
    configuration = dataclasses.asdict(model.config)
    if not configuration.get("classes", True):
        del configuration["classes"]  # programs that know no classes read the file too
    entries = {"configuration": json.dumps(configuration), "provenance": json.dumps(provenance)}
    if isinstance(model, Autoencoder) and model.estimator is not None:
        entries[ESTIMATOR] = json.dumps(dataclasses.asdict(model.estimator))
    return entries


def _stored_weights(model: Cascade | Autoencoder, half: bool) -> Weights:
    """The weights of networks as a file holds them; half: in 16 bits."""
    dtype = torch.float16 if half else torch.float32
    return {
        name: value.detach().to("cpu", dtype if value.is_floating_point() else value.dtype).contiguous()
        for name, value in model.state_dict().items()
    }


def _write(
    path: Path, entries: dict[str, str], weights: Weights, quality: QualityPart | None = None, half: bool = False
) -> None:
    """Write a model file with these entries of the header and, if given, a quality network; half: of this one."""
    if quality is not None:
        own_entries = _header_entries(quality.model, quality.provenance)
        own_weights = _stored_weights(quality.model, half)
        entries = entries | {QUALITY_KEY + name: text for name, text in own_entries.items()}
        weights = weights | {QUALITY_WEIGHT + name: value for name, value in own_weights.items()}
    entries = entries | {"format_version": str(_needed_version(entries))}
    if not all(bool(torch.isfinite(w).all()) for w in weights.values()):
        raise ModelError(f"{path}: the weights have become too large to store; train anew at a lower rate")
    data = save(weights, entries)
    with atomic_write(path) as (partial,):
        partial.write_bytes(data)


def _needed_version(entries: dict[str, str]) -> int:
    """The oldest format version that knows all that the entries of a header tell."""
    if json.loads(entries["configuration"]).get("classes"):
        return FORMAT_VERSION
    plain = "anatomy" not in entries and not any(name.startswith(QUALITY_KEY) for name in entries)
    return PLAIN_VERSION if plain else PARTS_VERSION


def read_header(path: Path, kind: type[torch.nn.Module] = Cascade) -> dict[str, Any]:
    """What a model file tells of networks of a kind, without their weights.

    Returns `format_version`, a number, `configuration` and `provenance`, dictionaries, and `anatomy`, an `Anatomy`
    or None. Of a cascade it also returns `quality`: the configuration and provenance of the quality network in the
    same file, or None. Raises ModelError.
    """
    return model_header.read_header(path, KINDS[kind]).describe(KINDS[kind])


def load_model(
    path: Path,
    device: torch.device | str = "cpu",
    kind: type[Model] = Cascade,  # type: ignore[assignment]  # type variables have no defaults
) -> tuple[Model, dict[str, Any]]:
    """A model in evaluation mode on `device`, and its header, as of `read_header`.

    A quality network comes from a file of its own or from the file of a cascade. Raises ModelError for a file that
    is damaged, inconsistent or of a newer format, in whichever of its networks.
    """
    header = model_header.read_header(path, KINDS[kind])
    weights, part = _read_weights(path, header, kind), header.parts[KINDS[kind]]
    model = kind(part.config)
    model.load_state_dict(weights)
    if isinstance(model, Autoencoder):
        model.estimator = part.estimator
    return model.to(device).eval(), header.describe(KINDS[kind])


def weight_fault(name: str, values: torch.Tensor) -> str | None:
    """What is wrong with the values of a weight, as a clause after "the weights"; None if they are right."""
    if not bool(torch.isfinite(values).all()):
        return "are not finite"
    if name.endswith("running_var") and bool((values < 0).any()):
        return "hold a variance below 0"
    return None


def _read_weights(path: Path, header: Header, kind: type[torch.nn.Module]) -> Weights:
    """The weights of the networks of a kind, by the names that they have in these networks.

    Raises ModelError unless the weights of all networks of the file are right, and memory can hold the working
    data of the wanted ones.
    """
    wanted = header.parts[KINDS[kind]]
    weights = _read_all_weights(path, header, wanted.config)
    return {name: weights[wanted.prefix + name] for name in _weight_shapes(kind, wanted.config)}


def _read_all_weights(path: Path, header: Header, config: Config | None = None) -> Weights:
    """The weights of all networks of a file, by the names that they have in the file.

    config: of the networks that will work, None if none will. Raises ModelError as `_read_weights` does.
    """
    with model_header.open_safetensors(path, "pt") as file:
        _check_shapes(path, file, header)
        if config is not None:
            _check_memory(path, config)
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    for name, values in weights.items():
        fault = weight_fault(name, values)
        if fault:
            raise ModelError(f"{path}: the weights {fault}; the file is damaged")
    return weights


def _weight_shapes(kind: type[torch.nn.Module], config: Config) -> Weights:
    """The weights of networks by name, without values: nothing is allocated."""
    with torch.device("meta"):
        return kind(config).state_dict()


def _check_shapes(path: Path, file: safe_open, header: Header) -> None:
    """Raise ModelError unless a file holds the weights of its networks, in shape and type, and no others."""
    expected = {
        part.prefix + name: value
        for network, kind in KINDS.items()
        if (part := header.parts.get(kind)) is not None
        for name, value in _weight_shapes(network, part.config).items()
    }
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


def _check_memory(path: Path, config: Config) -> None:
    """Raise ModelError unless memory can hold the working data of networks."""
    need, left = config.working_bytes, memory.available()
    if left is not None and need > left:
        raise ModelError(
            f"{path}: the model needs about {need / memory.GIB:.1f} GiB of memory for its windows and "
            f"{left / memory.GIB:.1f} GiB are free; use a larger machine or a model of larger voxels"
        )
