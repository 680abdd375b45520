"""The model boundary: the only place that reads and writes model files.

A model is one safetensors file: weights, and in its header the configuration, provenance and
format version as JSON. Reading it cannot run code. The state of an unfinished training run is a
torch file, read with `weights_only`.
"""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from .cascade import Cascade
from .configuration import cascade_config
from .errors import ModelError
from .output import whole

FORMAT = "singlestrip-cascade"
FORMAT_VERSION = 1
MODELS_VARIABLE = "SINGLESTRIP_MODELS"
DEFAULT_MODEL = "singlestrip.safetensors"


def models_folder() -> Path:
    """Where the shipped weights lie: $SINGLESTRIP_MODELS, else in the installed package or source tree."""
    named = os.environ.get(MODELS_VARIABLE)
    if named:
        return Path(named)
    package = Path(__file__).parent
    return next((p for p in (package / "models", package.parent / "models") if p.is_dir()), package / "models")


def find_model(name: str | os.PathLike | None) -> Path:
    """Path of a model: a file, or the name of one in the models folder; the default for None."""
    folder = models_folder()
    if name is None:
        path = folder / DEFAULT_MODEL
        if not path.is_file():
            raise ModelError(
                f"{path}: the default model is not there; set {MODELS_VARIABLE} to the folder that holds "
                "it or name a model file with --model"
            )
        return path
    for path in (Path(name), folder / name, folder / f"{name}.safetensors"):
        if path.is_file():
            return path
    raise ModelError(f"{name}: no such model file, and none of that name in {folder}")


def save_model(path: Path, model: Cascade, provenance: dict[str, Any], half: bool = False) -> None:
    """Write a model whole or not at all. half: 16-bit weights, half the size."""
    header = {
        "format": FORMAT,
        "format_version": str(FORMAT_VERSION),
        "configuration": json.dumps(dataclasses.asdict(model.config)),
        "provenance": json.dumps(provenance),
    }
    dtype = torch.float16 if half else torch.float32
    weights = {k: v.detach().to("cpu", dtype).contiguous() for k, v in model.state_dict().items()}
    data = save(weights, header)
    with whole(path) as (partial,):
        partial.write_bytes(data)


def read_header(path: Path) -> dict[str, Any]:
    """Configuration, provenance and format version of a model file, its weights unread."""
    try:
        with safe_open(path, "pt") as file:
            header = file.metadata() or {}
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(f"{path}: not a model file, or damaged ({error})") from error
    if header.get("format") != FORMAT:
        raise ModelError(f"{path}: not a {FORMAT} model; train writes such files")
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


def load_model(path: Path, device: torch.device | str = "cpu") -> tuple[Cascade, dict[str, Any]]:
    """A model in evaluation mode on `device`, and its header (see `read_header`).

    Raises ModelError for a file that is damaged, from a newer format, or inconsistent.
    """
    header = read_header(path)
    try:
        model = Cascade(cascade_config(header["configuration"]))
        with safe_open(path, "pt") as file:
            weights = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118 - not a dict
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
