"""The state of an unfinished training run: a torch file of tensors and plain values, which cannot run code."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import torch

from ..errors import ModelError
from ..io.output import atomic_write

ZIP_MAGIC = b"PK\x03\x04"


def save_training_state(path: Path, state: dict[str, Any]) -> None:
    """Write the state of a run, whole or not at all. Raises OutputError."""
    with atomic_write(path) as (partial,):
        torch.save(state, partial)


def load_training_state(path: Path) -> dict[str, Any]:
    """The state that `save_training_state` wrote. Raises ModelError for any other file."""
    damaged = f"{path}: not a training checkpoint, or damaged; remove it to begin anew, or put back a good copy"
    try:
        # torch.save stores without compression. A file that unpacks to more than its size, or has torch's old
        # format, which does not limit sizes, is of another origin.
        with path.open("rb") as file:
            zipped = file.read(len(ZIP_MAGIC)) == ZIP_MAGIC
        with zipfile.ZipFile(path) as archive:
            unpacked_bytes = sum(entry.file_size for entry in archive.infolist())
        if not zipped or unpacked_bytes > path.stat().st_size:
            raise ModelError(damaged)
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror or error})") from error
    except ModelError:
        raise
    except Exception as error:  # torch raises half a dozen kinds for a file that is damaged or holds code
        raise ModelError(damaged) from error
