"""The model boundary: the only place that reads and writes model files.

A model is one safetensors file: weights, and in its header the configuration, provenance and
format version as JSON. Reading it cannot run code. The state of an unfinished training run is a
torch file, read with `weights_only`.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from .autoencoder import Autoencoder
from .cascade import Cascade
from .configuration import autoencoder_config, cascade_config
from .errors import ModelError
from .model_files import MODELS_VARIABLE, models_folder
from .output import whole

FORMAT_VERSION = 1

Model = TypeVar("Model", bound=torch.nn.Module)


@dataclass(frozen=True)
class Kind:
    """What a model file may hold: its name in the header, the shipped file, what writes it, its configuration."""

    format: str
    shipped: str
    command: str
    configure: Callable[[dict[str, Any]], Any]


KINDS = {
    Cascade: Kind("singlestrip-cascade", "singlestrip.safetensors", "singlestrip train", cascade_config),
    Autoencoder: Kind(
        "singlestrip-autoencoder", "quality.safetensors", "singlestrip qc --train", autoencoder_config
    ),
}


def find_model(name: str | os.PathLike | None, kind: type[torch.nn.Module] = Cascade) -> Path:
    """Path of a model: a file, or the name of one in the models folder; the shipped one for None."""
    folder = models_folder()
    if name is None:
        path = folder / KINDS[kind].shipped
        if not path.is_file():
            raise ModelError(
                f"{path}: the default model is not there; set {MODELS_VARIABLE} to the folder that holds "
                "it or name a model file"
            )
        return path
    for path in (Path(name), folder / name, folder / f"{name}.safetensors"):
        if path.is_file():
            return path
    raise ModelError(f"{name}: no such model file, and none of that name in {folder}")


def save_model(path: Path, model: torch.nn.Module, provenance: dict[str, Any], half: bool = False) -> None:
    """Write a model whole or not at all. half: 16-bit weights, half the size."""
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
    data = save(weights, header)
    with whole(path) as (partial,):
        partial.write_bytes(data)


def read_header(path: Path, kind: type[torch.nn.Module] = Cascade) -> dict[str, Any]:
    """Configuration, provenance and format version of a model file, its weights unread."""
    try:
        with safe_open(path, "pt") as file:
            header = file.metadata() or {}
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(f"{path}: not a model file, or damaged ({error})") from error
    wanted = KINDS[kind]
    if header.get("format") != wanted.format:
        raise ModelError(f"{path}: not a {wanted.format} model; {wanted.command} writes such files")
    try:
        version = int(header["format_version"])
        if version > FORMAT_VERSION:
            raise ModelError(
                f"{path}: format version {version} is newer than this singlestrip reads ({FORMAT_VERSION}); "
                "update it"
            )
        return {
            "format_version": version,
            "configuration": json.loads(header["configuration"]),
            "provenance": json.loads(header["provenance"]),
        }
    except (KeyError, ValueError) as error:
        raise ModelError(f"{path}: the header of the model is damaged ({error})") from error


def load_model(
    path: Path, device: torch.device | str = "cpu", kind: type[Model] = Cascade
) -> tuple[Model, dict[str, Any]]:
    """A model in evaluation mode on `device`, and its header (see `read_header`).

    Raises ModelError for a file that is damaged, from a newer format, or inconsistent.
    """
    header = read_header(path, kind)
    try:
        model = kind(KINDS[kind].configure(header["configuration"]))
        with safe_open(path, "pt") as file:
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        if not all(bool(torch.isfinite(w).all()) for w in weights.values()):
            raise ModelError(f"{path}: the weights are not finite; the file is damaged")
        model.load_state_dict(weights)
    except (SafetensorError, RuntimeError, TypeError, KeyError, ValueError) as error:
        raise ModelError(f"{path}: weights and configuration do not fit ({error})") from error
    return model.to(device).eval(), header


def save_training_state(path: Path, state: dict[str, Any]) -> None:
    """Write the state of a run whole or not at all."""
    with whole(path) as (partial,):
        torch.save(state, partial)


def load_training_state(path: Path) -> dict[str, Any]:
    """Tensors and plain values only: a checkpoint cannot run code."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises half a dozen kinds for a damaged file
        raise ModelError(f"{path}: not a training checkpoint, or damaged ({error})") from error
