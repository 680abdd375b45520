"""Tables and a figure of the experiment of self-training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def write_report(results: Sequence[Path], out: Path) -> None:
    """Write the tables and the figure of results into a folder."""
