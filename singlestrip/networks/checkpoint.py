"""Model files as networks of torch: reads and writes them. `model_header` and `model_weights` read them without.

A model is one safetensors file. It holds the weights, and in its header the configuration, provenance and format
version as JSON. The file of a cascade may also hold the quality network of the same anatomy, with a configuration
and a provenance of its own, and the volumes of the labelled brains.

Reading a file cannot run code and takes no more memory than the file: before anything is built, the ranges of the
configurations and the shapes of the weights are checked, those of all networks in the file.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from safetensors.torch import save

from ..configuration import CascadeConfig
from ..errors import ModelError
from ..io.output import atomic_write
from . import model_header
from .autoencoder import Autoencoder
from .cascade import Cascade
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
from .model_weights import check_weights, read_weights, weight_fault
from .trees import Estimator

Model = TypeVar("Model", Cascade, Autoencoder)
Weights = dict[str, torch.Tensor]


KINDS: dict[type[torch.nn.Module], Kind] = {Cascade: CASCADE, Autoencoder: AUTOENCODER}


@dataclass(frozen=True, eq=False)
class QualityPart:
    """A quality network in the file of a cascade, and how it was made."""

    model: Autoencoder
    provenance: dict[str, Any]


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
    weights = {name: value for name, value in _stored(path, header).items() if not name.startswith(QUALITY_WEIGHT)}
    _write(path, entries, weights, quality, half)


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
    _write(path, changed, _stored(path, header))


def _header_entries(model: Cascade | Autoencoder, provenance: dict[str, Any]) -> dict[str, str]:
    """The header's entries for networks."""
    configuration = dataclasses.asdict(model.config)
    if not configuration.get("classes", True):
        for name in ("classes", "class_evidence"):  # programs that know no classes read it too
            del configuration[name]
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


def build_networks(config: Config, weights: dict[str, np.ndarray]) -> Cascade | Autoencoder:
    """Networks of a configuration with these weights, in evaluation mode on the processor."""
    model = Cascade(config) if isinstance(config, CascadeConfig) else Autoencoder(config)
    model.load_state_dict({name: torch.from_numpy(values.copy()) for name, values in weights.items()})
    return model.eval()


def load_model(
    path: Path,
    device: torch.device | str = "cpu",
    kind: type[Model] = Cascade,  # type: ignore[assignment]  # type variables have no defaults
) -> tuple[Model, dict[str, Any]]:
    """A model in evaluation mode on `device`, and its header, as of `model_header.Header.describe`.

    A quality network comes from a file of its own or from the file of a cascade. Raises ModelError for a file that
    is damaged, inconsistent or of a newer format, in whichever of its networks.
    """
    header = model_header.read_header(path, KINDS[kind])
    part = header.parts[KINDS[kind]]
    weights = read_weights(path, header, KINDS[kind])
    model = build_networks(part.config, weights)
    assert isinstance(model, kind)
    if isinstance(model, Autoencoder):
        model.estimator = part.estimator
    return model.to(device).eval(), header.describe(KINDS[kind])


def _stored(path: Path, header: Header) -> Weights:
    """The weights of all networks of a file as they are stored, by the names that they have in the file.

    Raises ModelError unless they are right.
    """
    check_weights(path, header)
    with model_header.open_safetensors(path, "pt") as file:
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    for name, values in weights.items():
        fault = weight_fault(name, values.float().numpy())
        if fault:
            raise ModelError(f"{path}: the weights {fault}; the file is damaged")
    return weights
