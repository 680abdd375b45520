"""A pydra task that strips one image: pip install singlestrip[pydra]. Imports no torch.

    from singlestrip.integrations.pydra import Strip

    outputs = Strip(in_file="t1.nii.gz", save=["mask", "sdt"])()
    outputs.mask_file, outputs.sdt_file

Inputs are the options of `singlestrip strip` that concern one image, by the names that the nipype interfaces have.
pydra itself goes over many images: `Strip(...).split(in_file=[...])`. Files are written in the folder of the task;
`save` chooses them, since pydra runs a task again if an input changes, but not for another name of an output.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fileformats.generic import File
from pydra.compose import shell

from ..batch.jobs import plan_folder
from ..cli.interface import Option, command_options
from ..cli.parser import build_parser
from .names import input_name

__all__ = ["Strip"]

USUAL = ("brain", "mask")  # what is written if nothing else is asked for
# The options about many images, and about what a person at a terminal sees.
LEFT_OUT = {"image", "list", "out-dir", "save", "format", "shard", "resume", "quiet", "debug"}


def output_name(kind: str) -> str:
    """The name of the output for a kind of file."""
    return "out_file" if kind == "brain" else f"{kind}_file"


def _planned(in_file: File, save: Sequence[str]) -> dict[str, Path]:
    """The files that a task writes, by kind, relative to its folder."""
    return plan_folder([Path(in_file)], Path(), save)[0].outputs


def _output(kind: str) -> Any:
    """The output of a kind: its file, or None if it was not asked for."""

    def written(in_file: Any, save: Any, cache_dir: Any) -> Path | None:
        return cache_dir / _planned(in_file, save)[kind] if kind in save else None

    return shell.out(callable=written)


def _save(kinds: dict[str, str]) -> Any:
    """The input that chooses what is written. kinds: the flag of each kind of file."""

    def arguments(in_file: Any, save: Any) -> list[str]:
        return [f"{kinds[kind]}={path}" for kind, path in _planned(in_file, save).items()]

    return shell.arg(default=list(USUAL), formatter=arguments, help=f"what to write: {', '.join(kinds)}")


def _input(option: Option) -> tuple[Any, Any]:
    """The type and the field of the input that stands for an option."""
    name, flag = input_name(option), option.flags[-1]
    if option.role == "none":
        return bool, shell.arg(default=False, argstr=flag, help=option.action.help)
    kind: Any = str
    if option.role == "input":
        kind = File
    elif option.range is not None:
        kind = int if option.range.integer else float
    several = option.nargs is not None
    # A value may begin with a dash, so that it follows an equals sign; several values are arguments of their own.
    argument = flag if several else f"{flag}={{{name}}}"
    choices = option.action.choices
    allowed = None if choices is None else [*choices, None]
    field = shell.arg(default=None, argstr=argument, allowed_values=allowed, help=option.action.help)
    if option.role == "model":  # of str and File, pydra would turn one into the other
        field.converter = _file_if_there
        return Any, field
    return (list[kind] if several else kind) | None, field


def _file_if_there(model: Any) -> Any:
    """A model's file, so that pydra notices if it changes; a name as it is."""
    return File(model) if isinstance(model, (str, Path)) and Path(model).is_file() else model


def _define_strip() -> Any:
    """The class of the task, with an input for each option that concerns one image."""
    options = {option.name: option for option in command_options(build_parser(), "strip")}
    kinds = {kind: f"--{'out' if kind == 'brain' else kind}" for kind in options["save"].action.choices or ()}
    outputs = {output_name(kind): (File | None, _output(kind)) for kind in kinds}
    inputs = {
        "in_file": (File, shell.arg(argstr="--image={in_file}", help="image to strip")),
        "save": (list[str], _save(kinds)),
    }
    for option in options.values():
        if option.name not in LEFT_OUT and option.role != "output":
            inputs[input_name(option)] = _input(option)
    results = types.new_class("Outputs", (shell.Outputs,), exec_body=_body(outputs))
    members = {"executable": [sys.executable, "-m", "singlestrip", "strip"], "Outputs": results}
    task = types.new_class("Strip", (shell.Task[results],), exec_body=_body(inputs, **members))
    task.__doc__ = "Strips one head image, as `singlestrip strip` does."
    return shell.define(task)


def _body(fields: dict[str, tuple[Any, Any]], **members: Any) -> Callable[[dict[str, Any]], None]:
    """What fills the namespace of a class with fields, each a type and a value, and other members."""

    def fill(namespace: dict[str, Any]) -> None:
        namespace["__module__"] = __name__
        namespace["__annotations__"] = {name: kind for name, (kind, _) in fields.items()}
        namespace.update({name: value for name, (_, value) in fields.items()}, **members)

    return fill


Strip = _define_strip()
