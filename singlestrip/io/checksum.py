"""Checksums of files, to tell later what an output was made from."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path


def checksum(path: Path) -> str:
    """SHA-256 of a file, for provenance."""
    found = sha256()
    with Path(path).open("rb") as file:
        while block := file.read(2**20):
            found.update(block)
    return found.hexdigest()
