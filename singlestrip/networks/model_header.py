"""Headers of model files: what a model is, without its weights. Imports no torch.

A model is one safetensors file: 8 bytes with the length of its header, the header as JSON, the weights. The header
has a text each for the format, the format version, the configuration and the provenance of the model. The file of
a cascade may also have texts for a quality network in the same file, and for the volumes of the labelled brains. A
quality network may have a text for what it estimates with.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import Meta
from safetensors import SafetensorError, safe_open

from ..configuration import AutoencoderConfig, CascadeConfig, EvidenceConfig
from ..errors import ModelError
from ..io.text import typed
from .model_files import SHIPPED
from .trees import Estimator

FORMAT_VERSION = 3  # the newest that is read: of a file whose segmenter tells classes apart
PARTS_VERSION = 2  # of a file with a quality network or an anatomy beside the cascade
PLAIN_VERSION = 1  # of a file of one kind of networks and nothing else, which older programs read too
MAX_HEADER_BYTES = 16 * 2**20  # the shipped model's header has 24 kB; safetensors itself reads 100 MB
# Names of the quality network in the file of a cascade begin so: keys of the header, and weights.
QUALITY_KEY, QUALITY_WEIGHT = "quality_", "quality."
ESTIMATOR = "estimator"  # key of what a quality network estimates with

Config = CascadeConfig | AutoencoderConfig


@dataclass(frozen=True)
class Kind:
    """A kind of networks in model files.

    format: the name of files of their own. shipped: the name of the file that comes with the package.
    name, purpose: what they are, and what they do. configuration: the class of their configuration. later: fields
    that came into it after the first version, with the values that files without them mean.
    """

    format: str
    shipped: str
    name: str
    purpose: str
    configuration: type[Config]
    later: tuple[tuple[str, Any], ...] = field(default=(), compare=False)

    def read_configuration(self, stored: dict[str, Any]) -> Any:
        """The configuration that a file or a checkpoint holds. Raises ValueError if it is out of range."""
        return typed.convert_all({**dict(self.later), **stored}, self.configuration)


CASCADE = Kind(
    "singlestrip-cascade",
    SHIPPED,
    "networks to strip with",
    "strips heads",
    CascadeConfig,
    (("locator_doublings", 0), ("classes", ()), ("class_evidence", asdict(EvidenceConfig()))),
)
AUTOENCODER = Kind(
    "singlestrip-autoencoder",
    "quality.safetensors",
    "quality network",
    "estimates the quality of masks",
    AutoencoderConfig,
)
KINDS = (CASCADE, AUTOENCODER)


@dataclass(frozen=True)
class Anatomy:
    """The anatomy that a cascade is for. brain_ml: volumes of the labelled brains, in millilitres."""

    brain_ml: Annotated[tuple[Annotated[float, Meta(gt=0, le=1e6)], ...], Meta(min_length=1, max_length=100_000)]


@dataclass(frozen=True)
class Part:
    """Networks of a file, as its header tells.

    key, prefix: how the names of their entries and weights begin. config: their configuration, in range. stored:
    configuration and provenance as they are in the file. estimator: of a quality network, if it has one.
    """

    key: str
    prefix: str
    config: Any
    stored: dict[str, dict[str, Any]]
    estimator: Estimator | None = None


@dataclass(frozen=True)
class Header:
    """The header of a model file without faults.

    entries: its texts. parts: what it tells of each kind of networks in the file; first of the kind that gives the
    file its format.
    """

    entries: dict[str, str]
    version: int
    parts: dict[Kind, Part]
    anatomy: Anatomy | None

    def describe(self, kind: Kind) -> dict[str, Any]:
        """What the file tells of networks of a kind, without their weights.

        Returns `format_version`, a number, `configuration` and `provenance`, dictionaries, and `anatomy`. Of a
        cascade also `quality`: configuration and provenance of the quality network in the same file, or None.
        """
        description = {"format_version": self.version, **self.parts[kind].stored, "anatomy": self.anatomy}
        if kind is CASCADE:
            quality = self.parts.get(AUTOENCODER)
            description["quality"] = None if quality is None else quality.stored
        return description


def read_header(path: Path, kind: Kind | None = None) -> Header:
    """The header of a model file that holds networks of this kind, or of any. Raises ModelError."""
    with open_safetensors(path, "np") as file:
        entries = file.metadata() or {}
    owner = next((each for each in KINDS if entries.get("format") == each.format), None)
    has_quality = owner is CASCADE and any(name.startswith(QUALITY_KEY) for name in entries)
    if kind is not None and not (kind is owner or (kind is AUTOENCODER and has_quality)):
        raise ModelError(f"{path}: holds no {kind.name}; name one that {kind.purpose}")
    if owner is None:
        raise ModelError(f"{path}: not a model of singlestrip")
    try:
        version = _parse_version(entries["format_version"])
        if version > FORMAT_VERSION:
            raise ModelError(
                f"{path}: its format version is newer than this singlestrip reads ({FORMAT_VERSION}); update it"
            )
        parts = {owner: _parse_part(path, entries, owner)}
        if has_quality:
            parts[AUTOENCODER] = _parse_part(path, entries, AUTOENCODER, QUALITY_KEY, QUALITY_WEIGHT)
        anatomy = None
        if owner is CASCADE and "anatomy" in entries:
            anatomy = typed.convert_all(typed.parse(entries["anatomy"]), Anatomy)
    except KeyError as error:
        raise ModelError(f"{path}: the header of the model is damaged (no {error.args[0]})") from error
    except ValueError as error:
        raise ModelError(f"{path}: the header of the model is damaged ({error})") from error
    return Header(entries, version, parts, anatomy)


def _parse_part(path: Path, entries: dict[str, str], kind: Kind, key: str = "", prefix: str = "") -> Part:
    """What the entries of a header tell of networks. key, prefix: how the names of entries and weights begin.

    Raises KeyError and ValueError for damaged entries, ModelError for a configuration out of range.
    """
    stored = {name: typed.parse(entries[key + name]) for name in ("configuration", "provenance")}
    if not all(isinstance(values, dict) for values in stored.values()):
        raise ValueError("configuration and provenance are objects")
    try:
        config = kind.read_configuration(stored["configuration"])
    except ValueError as error:
        raise ModelError(f"{path}: the {key}configuration of the model is wrong ({error})") from error
    estimator = None
    if kind is AUTOENCODER and key + ESTIMATOR in entries:
        estimator = typed.convert_all(typed.parse(entries[key + ESTIMATOR]), Estimator)
    return Part(key, prefix, config, stored, estimator)


def open_safetensors(path: Path, framework: Literal["np", "pt"]) -> safe_open:
    """A safetensors file of which the header was read; it covers the file exactly. Raises ModelError.

    framework: what its weights become. "pt", for tensors, imports torch.
    """
    try:
        with path.open("rb") as file:
            header_bytes = int.from_bytes(file.read(8), "little")
        if header_bytes > MAX_HEADER_BYTES:
            raise ModelError(f"{path}: not a model file, or damaged (its header is too long)")
        return safe_open(path, framework)
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (SafetensorError, ValueError) as error:
        raise ModelError(f"{path}: not a model file, or damaged ({typed.shortened(str(error))})") from error


def _parse_version(text: str) -> int:
    """A format version: a whole number from 1. Raises ValueError."""
    if not re.fullmatch("[1-9][0-9]{0,8}", text, re.ASCII):
        raise ValueError(f"format_version is {typed.shortened(ascii(text), 20)}, not a whole number")
    return int(text)
