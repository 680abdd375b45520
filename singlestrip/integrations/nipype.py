"""Nipype interfaces to strip and qc, for workflows: pip install singlestrip[nipype]. Imports no torch.

    strip = Node(Strip(in_file="t1.nii.gz"), "strip")
    quality = Node(Quality(), "quality")
    workflow.connect(strip, "mask_file", quality, "mask_file")

Inputs are the options of the command, under the names that nipype's users expect: `in_file` is --image and
`num_threads` --threads; of the others, files end in `_file` and folders in `_dir`. Paths to read count from
where they are set, as absolute paths from then on; paths to write from where the interface runs, which in
a node is the node's folder. An exit status other than 0 is an error of the node.
"""

from __future__ import annotations

import csv
import json
import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

from nipype.interfaces.base import (
    CommandLine,
    CommandLineInputSpec,
    Directory,
    File,
    InputMultiObject,
    OutputMultiObject,
    Str,
    TraitedSpec,
    isdefined,
    traits,
)

from .._version import __version__
from ..batch.shards import Shard, parse_shard, slurm_shard, table_name
from ..batch.strip import Job, plan_folder, read_list, take_images
from ..cli.interface import Option, command_options
from ..cli.parser import build_parser
from ..io.escaping import from_cell

NAMES = {"image": "in_file", "threads": "num_threads"}
ENDINGS = {"input": "_file", "list": "_file", "table": "_file", "output": "_file", "folder": "_dir"}
# The kinds of output of strip and the inputs and outputs that hold them.
FILES = {"brain": "out_file", "mask": "mask_file", "sdt": "sdt_file", "picture": "picture_file"}


class InputFile(File):
    """A file that exists, as an absolute path with its links as they are: names of outputs come from it."""

    def __init__(self, **metadata):
        super().__init__(exists=True, **metadata)

    def validate(self, owner, name, value, return_pathlike=False):
        return os.path.abspath(super().validate(owner, name, value))  # noqa: PTH100 - links stay as named


class ModelFileOrName(traits.BaseStr):
    """A model file that exists, as an absolute path, or else a model's name. Nipype notices a file's change."""

    def validate(self, owner, name, value):
        text = super().validate(owner, name, os.fspath(value) if isinstance(value, Path) else value)
        return os.path.abspath(text) if Path(text).is_file() else text  # noqa: PTH100 - links stay as named


def input_name(option: Option) -> str:
    """The interface's name for an option."""
    name = NAMES.get(option.name, option.name.replace("-", "_"))
    ending = ENDINGS.get(option.role, "")
    return name if name.endswith(ending) else name + ending


def _trait(option: Option):
    about = {"desc": option.action.help, "argstr": option.flags[-1]}
    choices = option.action.choices
    several = option.nargs == "+"
    if option.role == "none":
        return traits.Bool(**about)
    if option.role == "output":
        return File(hash_files=False, **about)
    if option.role == "folder":
        return Directory(hash_files=False, **about)
    if option.role == "model":
        return ModelFileOrName(**about)
    if option.role != "value":
        kind = InputFile
    elif choices is not None:
        return InputMultiObject(traits.Enum(*choices), **about) if several else traits.Enum(*choices, **about)
    elif option.range is not None:
        kind = traits.Int if option.range.integer else traits.Float
    else:
        kind = Str
    return InputMultiObject(kind(), **about) if several else kind(**about)


def _generated_file(option: Option):
    return File(desc=option.action.help, argstr=option.flags[-1], hash_files=False, genfile=True)


def _file_or_true(option: Option):
    about = f"{option.action.help}; True for a name made from the image's"
    return traits.Either(
        traits.Bool(), File(), desc=about, argstr=option.flags[-1], hash_files=False, genfile=True
    )


def _input_spec(class_name: str, command: str, special: dict[str, Callable]) -> type[CommandLineInputSpec]:
    """A class with an input for each option of a command; `special`: what makes an input, by its name."""
    found = {input_name(option): option for option in command_options(build_parser(), command)}
    members = {name: special.get(name, _trait)(option) for name, option in found.items()}
    return type(class_name, (CommandLineInputSpec,), members | {"__module__": __name__})


class _Command(CommandLine):
    """A command of the singlestrip that this module belongs to, in the Python that runs it."""

    _version = __version__

    def __init__(self, **inputs):
        self._cmd = f"{shlex.quote(sys.executable)} -m singlestrip {self.subcommand}"
        super().__init__(**inputs)

    def _run_interface(self, runtime, correct_return_codes=(0,)):
        runtime = super()._run_interface(runtime, correct_return_codes)
        if runtime.returncode not in correct_return_codes:
            self.raise_exception(runtime)  # nipype from 1.8 on leaves it to nodes
        return runtime

    def _format_arg(self, name, spec, value):
        """An option with its values, such that the shell and the parser take them as they are."""
        if value is None:
            return None
        if isinstance(value, bool):
            return spec.argstr if value else None
        if isinstance(value, list):
            return " ".join([spec.argstr, *(shlex.quote(str(item)) for item in value)])
        return shlex.quote(f"{spec.argstr}={value}")


StripInputs = _input_spec("StripInputs", "strip", dict.fromkeys(FILES.values(), _file_or_true))


class StripOutputs(TraitedSpec):
    out_file = OutputMultiObject(File(exists=True), desc="image with the background filled")
    mask_file = OutputMultiObject(File(exists=True), desc="brain mask")
    sdt_file = OutputMultiObject(File(exists=True), desc="signed distance to the brain's surface in mm")
    picture_file = OutputMultiObject(File(exists=True), desc="picture of three slices with the mask's outline")
    out_dir = Directory(exists=True, desc="folder of the above, where one was named")
    qc_file = File(exists=True, desc="with qc and out_dir: the table of estimated quality, qc.tsv")


class Strip(_Command):
    """Take the skull off head images, as `singlestrip strip` does.

    Without out_dir: one image, and each output that is named, or True for NAME_brain, NAME_mask, NAME_sdt and
    NAME_picture in the working folder; brain and mask if nothing is said. With out_dir: any number of images,
    and the outputs that `save` names, brain and mask by default; outputs are lists then, in the order of the
    images, or for one image its file.

    >>> from singlestrip.nipype_interfaces import Strip
    >>> Strip(in_file="t1.nii.gz", mask_file=True).run().outputs.mask_file  # doctest: +SKIP
    '/data/t1_mask.nii.gz'
    """

    subcommand = "strip"
    input_spec = StripInputs
    output_spec = StripOutputs

    def _part(self) -> Shard | None:
        if not isdefined(self.inputs.shard):
            return None
        return slurm_shard() if self.inputs.shard == "slurm" else parse_shard(self.inputs.shard)

    def _jobs(self) -> list[Job]:
        """Each image with its outputs by kind."""
        inputs = self.inputs
        images = [Path(path) for path in inputs.in_file] if isdefined(inputs.in_file) else []
        images += read_list(Path(inputs.list_file)) if isdefined(inputs.list_file) else []
        images = take_images(images)
        if isdefined(inputs.out_dir):
            kinds = inputs.save if isdefined(inputs.save) else ("brain", "mask")
            suffix = inputs.suffix if isdefined(inputs.suffix) else None
            jobs = plan_folder(images, Path(inputs.out_dir), kinds, suffix)
            part = self._part()
            return jobs if part is None else part.deal(jobs)
        given = {kind: getattr(inputs, name) for kind, name in FILES.items() if isdefined(getattr(inputs, name))}
        wanted = {kind: value for kind, value in (given or {"brain": True, "mask": True}).items() if value}
        if len(images) != 1:
            return []  # the command says what is wrong
        default = plan_folder(images, Path(), wanted)[0].outputs
        named = {kind: default[kind] if value is True else Path(value) for kind, value in wanted.items()}
        return [Job(images[0], named)]

    def _gen_filename(self, name):
        if isdefined(self.inputs.out_dir):
            return None
        kind = next(kind for kind in FILES if FILES[kind] == name)
        path = next((job.outputs.get(kind) for job in self._jobs()), None)
        return None if path is None else str(path)

    def _format_arg(self, name, spec, value):
        if name in FILES.values() and value is True:
            value = self._gen_filename(name)
        return super()._format_arg(name, spec, value)

    def _list_outputs(self):
        outputs = self.output_spec().get()
        jobs = self._jobs()
        for kind, name in FILES.items():
            paths = [str(job.outputs[kind].absolute()) for job in jobs if kind in job.outputs]
            if paths:
                outputs[name] = paths
        if isdefined(self.inputs.out_dir):
            folder = Path(self.inputs.out_dir).absolute()
            outputs["out_dir"] = str(folder)
            if self.inputs.qc is True:
                outputs["qc_file"] = str(folder / table_name(self._part()))
        return outputs


QualityInputs = _input_spec("QualityInputs", "qc", {"out_file": _generated_file})


class QualityOutputs(TraitedSpec):
    out_file = File(exists=True, desc="table of scores, .tsv or .json")
    estimated_dice = OutputMultiObject(traits.Float(), desc="estimated Dice of each mask_file, in their order")
    flag = OutputMultiObject(Str(), desc="pass, look or fail, of each mask_file, in their order")
    report_dir = Directory(exists=True, desc="folder with the page, index.html")
    train_file = File(exists=True, desc="quality model, of train_file")


class Quality(_Command):
    """Say how far brain masks can be trusted, as `singlestrip qc` does.

    The table of scores is quality.tsv in the working folder if out_file names no other. A node keeps the
    page of report_dir where that output is connected, as nipype has it.

    >>> from singlestrip.nipype_interfaces import Quality
    >>> Quality(mask_file=["a_mask.nii.gz", "b_mask.nii.gz"]).run().outputs.flag  # doctest: +SKIP
    ['pass', 'look']
    """

    subcommand = "qc"
    input_spec = QualityInputs
    output_spec = QualityOutputs

    def _gen_filename(self, name):
        return "quality.tsv" if name == "out_file" and not isdefined(self.inputs.train_file) else None

    def _list_outputs(self):
        outputs = self.output_spec().get()
        inputs = self.inputs
        if isdefined(inputs.train_file):
            outputs["train_file"] = str(Path(inputs.train_file).absolute())
            return outputs
        table = Path(inputs.out_file if isdefined(inputs.out_file) else self._gen_filename("out_file")).absolute()
        outputs["out_file"] = str(table)
        if isdefined(inputs.report_dir):
            outputs["report_dir"] = str(Path(inputs.report_dir).absolute())
        if isdefined(inputs.mask_file):
            rows = {row["mask"]: row for row in _read_rows(table)}
            masks = [rows[path] for path in inputs.mask_file]
            outputs["estimated_dice"] = [float(row["estimated_dice"]) for row in masks]
            outputs["flag"] = [row["flag"] for row in masks]
        return outputs


def _read_rows(table: Path) -> list[dict]:
    text = table.read_text(encoding="utf-8")
    if table.suffix == ".json":
        found = json.loads(text)
        return found if isinstance(found, list) else [found]
    rows = csv.DictReader(text.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE)
    return [{column: from_cell(cell) for column, cell in row.items()} for row in rows]
