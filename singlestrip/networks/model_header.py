"""Headers of model files: what a model is, without its weights. Imports no torch.

A model is one safetensors file: 8 bytes with the length of its header, the header as JSON, the weights. The header
has a text each for the format, the format version, the configuration and the provenance of the model.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError, safe_open

from ..configuration import AutoencoderConfig, CascadeConfig
from ..errors import ModelError
from ..io.text import typed

FORMAT_VERSION = 1
MAX_HEADER_BYTES = 16 * 2**20  # the shipped model's header has 24 kB; safetensors itself reads 100 MB

Config = CascadeConfig | AutoencoderConfig


@dataclass(frozen=True)
class Kind:
    """A kind of model file.

    format: its name in the header. shipped: the name of the file that comes with the package.
    purpose: what such a model does. configuration: the class of its configuration. later: fields that came into it
    after the first version, with the values that files without them mean.
    """

    format: str
    shipped: str
    purpose: str
    configuration: type[Config]
    later: tuple[tuple[str, Any], ...] = ()


CASCADE = Kind(
    "singlestrip-cascade",
    "singlestrip.safetensors",
    "strips heads",
    CascadeConfig,
    (("locator_doublings", 0),),
)
AUTOENCODER = Kind(
    "singlestrip-autoencoder", "quality.safetensors", "estimates the quality of masks", AutoencoderConfig
)


def read_header(path: Path, kind: Kind) -> dict[str, Any]:
    """Configuration, provenance and format version of a model file of that kind. Raises ModelError."""
    return parse_header(path, read_metadata(path), kind)


def read_metadata(path: Path) -> dict[str, str]:
    """The texts in the header of a safetensors file by their names, unchecked. Raises ModelError."""
    with open_safetensors(path, "np") as file:
        return file.metadata() or {}


def parse_header(path: Path, metadata: dict[str, str], kind: Kind) -> dict[str, Any]:
    """As `read_header`, from the texts of the header. path: of the file, for errors."""
    if metadata.get("format") != kind.format:
        raise ModelError(f"{path}: not a {kind.format} model; name one that {kind.purpose}")
    try:
        version = _parse_version(metadata["format_version"])
        if version > FORMAT_VERSION:
            raise ModelError(
                f"{path}: its format version is newer than this singlestrip reads ({FORMAT_VERSION}); update it"
            )
        parts = {name: typed.parse(metadata[name]) for name in ("configuration", "provenance")}
    except KeyError as error:
        raise ModelError(f"{path}: the header of the model is damaged (no {error.args[0]})") from error
    except ValueError as error:
        raise ModelError(f"{path}: the header of the model is damaged ({error})") from error
    if not all(isinstance(part, dict) for part in parts.values()):
        raise ModelError(f"{path}: the header of the model is damaged (configuration and provenance are objects)")
    return {"format_version": version, **parts}


def parse_configuration(path: Path, header: dict[str, Any], kind: Kind) -> Any:
    """The configuration in a header of `read_header`, an instance of `kind.configuration`. Raises ModelError."""
    try:
        return typed.convert_all({**dict(kind.later), **header["configuration"]}, kind.configuration)
    except ValueError as error:
        raise ModelError(f"{path}: the configuration of the model is wrong ({error})") from error


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
