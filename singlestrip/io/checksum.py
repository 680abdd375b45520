"""Checksums of files, which identify later what an output was made from."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path


def checksum(path: Path) -> str:
    """The SHA-256 of a file in hexadecimal digits, as `sha256sum` prints it."""
    digest = sha256()
    with Path(path).open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()
