"""Model files: the only module that reads and writes them.

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
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import torch
from msgspec import Meta
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from ..configuration import AutoencoderConfig, CascadeConfig
from ..errors import ModelError
from ..io import memory
from ..io.file_kind import path_kind
from ..io.output import atomic_write
from ..io.text import typed
from .autoencoder import Autoencoder
from .cascade import Cascade
from .model_files import MODELS_VARIABLE, models_folder

FORMAT_VERSION = 2  # the newest that is read
PLAIN_VERSION = 1  # of a file of one kind of networks and nothing else, which older programs read too
MAX_HEADER_BYTES = 16 * 2**20  # the shipped model's header has 24 kB; safetensors itself reads 100 MB
MAX_WEIGHTS = 64_000_000  # the shipped model has 3 million
WEIGHT_TYPES = ("F16", "BF16", "F32")  # safetensors' names
COUNTER_TYPES = ("I64",)
# Names of the quality network in the file of a cascade begin so: keys of the header, and weights.
QUALITY_KEY, QUALITY_WEIGHT = "quality_", "quality."

Config = CascadeConfig | AutoencoderConfig
Model = TypeVar("Model", Cascade, Autoencoder)
Weights = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Kind:
    """A kind of networks in model files.

    format: the name of files of their own. shipped: the name of the file that comes with the package.
    name, purpose: what they are, and what they do. configuration: the class of their configuration.
    """

    format: str
    shipped: str
    name: str
    purpose: str
    configuration: type[Config]


KINDS: dict[type[torch.nn.Module], Kind] = {
    Cascade: Kind(
        "singlestrip-cascade", "singlestrip.safetensors", "networks to strip with", "strips heads", CascadeConfig
    ),
    Autoencoder: Kind(
        "singlestrip-autoencoder",
        "quality.safetensors",
        "quality network",
        "estimates the quality of masks",
        AutoencoderConfig,
    ),
}


@dataclass(frozen=True)
class Anatomy:
    """The anatomy that a cascade is for. brain_ml: volumes of the labelled brains, in millilitres."""

    brain_ml: Annotated[tuple[Annotated[float, Meta(gt=0, le=1e6)], ...], Meta(min_length=1, max_length=100_000)]


@dataclass(frozen=True, eq=False)
class QualityPart:
    """A quality network in the file of a cascade, and how it was made."""

    model: Autoencoder
    provenance: dict[str, Any]


def find_model(name: str | os.PathLike[str] | None, kind: type[torch.nn.Module] = Cascade) -> Path:
    """Path of a model: of a file, or of the model of that name in the models folder; None names the shipped model.

    Raises ModelError if there is none.
    """
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
        if os.path.isfile(path):  # noqa: PTH113 - Path.is_file raises for names that no file can have
            return path
    other_kind = path_kind(name)
    if other_kind:
        raise ModelError(f"{name}: {other_kind}, not a model file")
    raise ModelError(f"{name}: no such model file, and none of that name in {folder}")


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
    header = _read_header(path, Cascade)
    entries = {name: text for name, text in header.entries.items() if not name.startswith(QUALITY_KEY)}
    _write(path, entries, _read_weights(path, header, Cascade), quality, half)


def _header_entries(model: Cascade | Autoencoder, provenance: dict[str, Any]) -> dict[str, str]:
    """The header's entries for networks."""
    return {"configuration": json.dumps(dataclasses.asdict(model.config)), "provenance": json.dumps(provenance)}


def _stored_weights(model: Cascade | Autoencoder, half: bool) -> Weights:
    """The weights of networks as a file holds them; half: in 16 bits."""
    dtype = torch.float16 if half else torch.float32
    return {
        name: value.detach().to("cpu", dtype if value.is_floating_point() else value.dtype).contiguous()
        for name, value in model.state_dict().items()
    }


def _write(path: Path, entries: dict[str, str], weights: Weights, quality: QualityPart | None, half: bool) -> None:
    """Write a model file with these entries of the header and, if given, a quality network; half: of this one."""
    if quality is not None:
        own_entries = _header_entries(quality.model, quality.provenance)
        own_weights = _stored_weights(quality.model, half)
        entries = entries | {QUALITY_KEY + name: text for name, text in own_entries.items()}
        weights = weights | {QUALITY_WEIGHT + name: value for name, value in own_weights.items()}
    plain = quality is None and "anatomy" not in entries
    entries = entries | {"format_version": str(PLAIN_VERSION if plain else FORMAT_VERSION)}
    if not all(bool(torch.isfinite(w).all()) for w in weights.values()):
        raise ModelError(f"{path}: the weights have become too large to store; train anew at a lower rate")
    data = save(weights, entries)
    with atomic_write(path) as (partial,):
        partial.write_bytes(data)


def read_header(path: Path, kind: type[torch.nn.Module] = Cascade) -> dict[str, Any]:
    """What a model file tells of networks of a kind, without their weights.

    Returns `format_version`, a number, and `configuration` and `provenance`, dictionaries. Of a cascade it also
    returns `anatomy`, an `Anatomy` or None, and `quality`: the configuration and provenance of the quality network
    in the same file, or None. Raises ModelError.
    """
    return _read_header(path, kind).describe(kind)


def load_model(
    path: Path,
    device: torch.device | str = "cpu",
    kind: type[Model] = Cascade,  # type: ignore[assignment]  # type variables have no defaults
) -> tuple[Model, dict[str, Any]]:
    """A model in evaluation mode on `device`, and its header, as of `read_header`.

    A quality network comes from a file of its own or from the file of a cascade. Raises ModelError for a file that
    is damaged, inconsistent or of a newer format, in whichever of its networks.
    """
    header = _read_header(path, kind)
    weights = _read_weights(path, header, kind)
    model = kind(header.parts[kind].config)
    model.load_state_dict(weights)
    return model.to(device).eval(), header.describe(kind)


def weight_fault(name: str, values: torch.Tensor) -> str | None:
    """What is wrong with the values of a weight, as a clause after "the weights"; None if they are right."""
    if not bool(torch.isfinite(values).all()):
        return "are not finite"
    if name.endswith("running_var") and bool((values < 0).any()):
        return "hold a variance below 0"
    return None


@dataclass(frozen=True)
class _Part:
    """Networks of a file, as its header tells.

    prefix: how the names of their weights begin. config: their configuration, in range. stored: configuration and
    provenance as they are in the file.
    """

    prefix: str
    config: Any
    stored: dict[str, dict[str, Any]]


@dataclass(frozen=True)
class _Header:
    """The header of a model file without faults. entries: its texts; parts: by the class of their networks."""

    entries: dict[str, str]
    version: int
    parts: dict[type[torch.nn.Module], _Part]
    anatomy: Anatomy | None

    def describe(self, kind: type[torch.nn.Module]) -> dict[str, Any]:
        """See `read_header`."""
        description = {"format_version": self.version, **self.parts[kind].stored}
        if kind is Cascade:
            quality = self.parts.get(Autoencoder)
            description |= {"quality": None if quality is None else quality.stored, "anatomy": self.anatomy}
        return description


def _read_header(path: Path, kind: type[torch.nn.Module]) -> _Header:
    """The header of a model file that holds networks of this kind. Raises ModelError."""
    with _open_safetensors(path) as file:
        entries = file.metadata() or {}
    owner = next((each for each in KINDS if entries.get("format") == KINDS[each].format), None)
    has_quality = owner is Cascade and any(name.startswith(QUALITY_KEY) for name in entries)
    if owner is None or not (kind is owner or (kind is Autoencoder and has_quality)):
        raise ModelError(f"{path}: holds no {KINDS[kind].name}; name one that {KINDS[kind].purpose}")
    try:
        version = _parse_version(entries["format_version"])
        if version > FORMAT_VERSION:
            raise ModelError(
                f"{path}: its format version is newer than this singlestrip reads ({FORMAT_VERSION}); update it"
            )
        parts = {owner: _parse_part(path, entries, owner)}
        if has_quality:
            parts[Autoencoder] = _parse_part(path, entries, Autoencoder, QUALITY_KEY, QUALITY_WEIGHT)
        anatomy = None
        if owner is Cascade and "anatomy" in entries:
            anatomy = typed.convert_all(typed.parse(entries["anatomy"]), Anatomy)
    except KeyError as error:
        raise ModelError(f"{path}: the header of the model is damaged (no {error.args[0]})") from error
    except ValueError as error:
        raise ModelError(f"{path}: the header of the model is damaged ({error})") from error
    return _Header(entries, version, parts, anatomy)


def _parse_part(
    path: Path, entries: dict[str, str], kind: type[torch.nn.Module], key: str = "", prefix: str = ""
) -> _Part:
    """What the entries of a header tell of networks. key, prefix: how the names of entries and weights begin.

    Raises KeyError and ValueError for damaged entries, ModelError for a configuration out of range.
    """
    stored = {name: typed.parse(entries[key + name]) for name in ("configuration", "provenance")}
    if not all(isinstance(values, dict) for values in stored.values()):
        raise ValueError("configuration and provenance are objects")
    try:
        config = typed.convert_all(stored["configuration"], KINDS[kind].configuration)
    except ValueError as error:
        raise ModelError(f"{path}: the {key}configuration of the model is wrong ({error})") from error
    return _Part(prefix, config, stored)


def _read_weights(path: Path, header: _Header, kind: type[torch.nn.Module]) -> Weights:
    """The weights of the networks of a kind, by the names that they have in these networks.

    Raises ModelError unless the weights of all networks of the file are right, and memory can hold the working
    data of the wanted ones.
    """
    wanted = header.parts[kind]
    with _open_safetensors(path) as file:
        _check_shapes(path, file, header)
        _check_memory(path, wanted.config)
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    for name, values in weights.items():
        fault = weight_fault(name, values)
        if fault:
            raise ModelError(f"{path}: the weights {fault}; the file is damaged")
    return {name: weights[wanted.prefix + name] for name in _weight_shapes(kind, wanted.config)}


def _weight_shapes(kind: type[torch.nn.Module], config: Config) -> Weights:
    """The weights of networks by name, without values: nothing is allocated."""
    with torch.device("meta"):
        return kind(config).state_dict()


def _open_safetensors(path: Path) -> safe_open:
    """A safetensors file of which the header was read; it covers the file exactly. Raises ModelError."""
    try:
        with path.open("rb") as file:
            header_bytes = int.from_bytes(file.read(8), "little")
        if header_bytes > MAX_HEADER_BYTES:
            raise ModelError(f"{path}: not a model file, or damaged (its header is too long)")
        return safe_open(path, "pt")
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (SafetensorError, ValueError) as error:
        raise ModelError(f"{path}: not a model file, or damaged ({typed.shortened(str(error))})") from error


def _parse_version(text: str) -> int:
    """A format version: a whole number from 1. Raises ValueError."""
    if not re.fullmatch("[1-9][0-9]{0,8}", text, re.ASCII):
        raise ValueError(f"format_version is {typed.shortened(ascii(text), 20)}, not a whole number")
    return int(text)


def _check_shapes(path: Path, file: safe_open, header: _Header) -> None:
    """Raise ModelError unless a file holds the weights of its networks, in shape and type, and no others."""
    expected = {
        part.prefix + name: value
        for kind, part in header.parts.items()
        for name, value in _weight_shapes(kind, part.config).items()
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
