"""Nipype interfaces to strip, segment and qc, for workflows: pip install singlestrip[nipype]. Imports no torch.

    strip = Node(Strip(in_file="t1.nii.gz"), "strip")
    quality = Node(Quality(), "quality")
    workflow.connect(strip, "mask_file", quality, "mask_file")

Inputs are the options of the command, with names that are usual in nipype: `in_file` is --image and `num_threads`
is --threads; other names end in `_file` for files and in `_dir` for folders. Strip also has the names of nipreps'
interface to SynthStrip: `out_mask`, `border_mm` and `use_gpu`.

A relative path to read starts from the folder in which it is set. A relative path to write starts from the
folder in which the interface runs; for a node that is the node's own folder. An exit status other than 0 is an
error of the node.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

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
from ..batch.assessment import BETWEEN_REASONS
from ..batch.jobs import Job, plan_folder, take_images
from ..batch.shards import Shard, parse_shard, shard_table, slurm_shard, table_name
from ..cli.interface import Option, command_options, former_options
from ..cli.parser import build_parser
from ..io.images.lists import read_list
from ..io.text.table import parse_table
from .names import input_name

TABLE = "quality.tsv"  # of qc, unless out_file names another
# The names of the inputs and outputs for each kind of output of strip.
FILES = {
    "brain": "out_file",
    "mask": "mask_file",
    "sdt": "sdt_file",
    "picture": "picture_file",
    "doubt": "doubt_file",
    "probability": "probability_file",
    "lesions": "lesions_file",
}
# The same of segment, and the tables that one run writes of all images.
SEGMENT_FILES = {"dseg": "out_file", "probseg": "posteriors_file", "picture": "picture_file"}
SEGMENT_TABLES = ("volumes_file", "qc_file")


class InputFile(File):
    """A file that exists, as an absolute path. Links are kept, since names of outputs are made from it."""

    def __init__(self, **metadata: Any) -> None:
        super().__init__(exists=True, **metadata)

    def validate(self, owner: Any, name: str, value: Any, return_pathlike: bool = False) -> str:
        return os.path.abspath(super().validate(owner, name, value))  # noqa: PTH100 - keeps links


class ModelFileOrName(traits.BaseStr):
    """An existing model file, as an absolute path, or a model's name. Nipype notices if the file changes."""

    def validate(self, owner: Any, name: str, value: Any) -> str:
        text = super().validate(owner, name, os.fspath(value) if isinstance(value, Path) else value)
        return os.path.abspath(text) if Path(text).is_file() else text  # noqa: PTH100 - keeps links


def _trait(option: Option, **metadata: Any) -> Any:
    """The trait that takes an option's values."""
    about: dict[str, Any] = {"desc": option.action.help, "argstr": option.flags[-1], **metadata}
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
    if isinstance(option.nargs, int):
        return traits.List(kind(), minlen=option.nargs, maxlen=option.nargs, **about)
    return InputMultiObject(kind(), **about) if several else kind(**about)


def _generated_file(option: Option) -> Any:
    """The trait of a file to write whose name the interface makes if none is given."""
    return File(desc=option.action.help, argstr=option.flags[-1], hash_files=False, genfile=True)


def _file_or_true(option: Option, **metadata: Any) -> Any:
    """The trait of a file to write, or True for a name that the interface makes."""
    about = f"{option.action.help}; True for a name made from the image's"
    return traits.Either(
        traits.Bool(), File(), desc=about, argstr=option.flags[-1], hash_files=False, genfile=True, **metadata
    )


def _input_spec(
    class_name: str, command: str, special: dict[str, Callable[[Option], Any]]
) -> type[CommandLineInputSpec]:
    """A class with an input for each option of a command, also by former names.

    special: functions that make an input's trait in place of `_trait`, by the input's name.
    """
    parser = build_parser()
    former = {input_name(option): option for option in former_options(parser, command)}
    options = former | {input_name(option): option for option in command_options(parser, command)}
    members = {name: special.get(name, _trait)(option) for name, option in options.items()}
    return type(class_name, (CommandLineInputSpec,), members | {"__module__": __name__})


class _Command(CommandLine):
    """A command of this installation of singlestrip, run by the Python that runs this module."""

    subcommand: str
    _version = __version__

    def __init__(self, **inputs: Any) -> None:
        self._cmd = f"{shlex.quote(sys.executable)} -m singlestrip {self.subcommand}"
        super().__init__(**inputs)

    def _run_interface(self, runtime: Any, correct_return_codes: tuple[int, ...] = (0,)) -> Any:
        runtime = super()._run_interface(runtime, correct_return_codes)
        if runtime.returncode not in correct_return_codes:
            self.raise_exception(runtime)  # nipype since 1.8 leaves that to nodes
        return runtime

    def _format_arg(self, name: str, spec: Any, value: Any) -> str | None:
        """An option with its values, quoted for the shell; None for an option that is not given."""
        if value is None:
            return None
        if isinstance(value, bool):
            return spec.argstr if value else None
        if isinstance(value, list):
            return " ".join([spec.argstr, *(shlex.quote(str(item)) for item in value)])
        return shlex.quote(f"{spec.argstr}={value}")


# The inputs of strip that have another name in nipreps' interface to SynthStrip; either name is given, not both.
_StripOptions = _input_spec(
    "_StripOptions",
    "strip",
    dict.fromkeys(FILES.values(), _file_or_true)
    | {
        "mask_file": partial(_file_or_true, xor=["out_mask"]),
        "out_dir": partial(_trait, xor=["out_mask"]),
        "border": partial(_trait, xor=["border_mm"]),
        "device": partial(_trait, xor=["use_gpu"]),
    },
)


class StripInputs(_StripOptions):  # type: ignore[misc, valid-type]
    """Inputs of Strip: the options of the command, and names of nipreps' interface to SynthStrip."""

    out_mask = traits.Either(
        traits.Bool(), File(), desc="the same as mask_file", hash_files=False, xor=["mask_file", "out_dir"]
    )
    border_mm = traits.Float(desc="the same as border", argstr="--border", xor=["border"])
    use_gpu = traits.Bool(desc="run on the GPU; False: on the processor", argstr="--device", xor=["device"])


class StripOutputs(TraitedSpec):
    """Outputs of Strip."""

    out_file = OutputMultiObject(File(exists=True), desc="image with the background filled")
    mask_file = OutputMultiObject(File(exists=True), desc="brain mask")
    out_mask = OutputMultiObject(File(exists=True), desc="the same as mask_file")
    sdt_file = OutputMultiObject(File(exists=True), desc="signed distance to the brain's surface in mm")
    picture_file = OutputMultiObject(File(exists=True), desc="picture of three slices with the mask's outline")
    doubt_file = OutputMultiObject(File(exists=True), desc="map of doubt, from 0 to 1")
    probability_file = OutputMultiObject(File(exists=True), desc="probability of brain, from 0 to 1")
    lesions_file = OutputMultiObject(File(exists=True), desc="lesions found in the brain mask (experimental)")
    out_dir = Directory(exists=True, desc="the folder given as out_dir")
    qc_file = File(exists=True, desc="with qc and out_dir: the table of estimated quality, qc.tsv")


class _ImageCommand(_Command):
    """A command that writes files of one image, or of any number of images to out_dir.

    files: the names of inputs and outputs for each kind of file. usual: the kinds that are written if none is
    named.
    """

    files: dict[str, str]
    usual: tuple[str, ...]

    def _part(self) -> Shard | None:
        """The part of the images that this run works on; None for all."""
        if not isdefined(self.inputs.shard):
            return None
        return slurm_shard() if self.inputs.shard == "slurm" else parse_shard(self.inputs.shard)

    def _jobs(self) -> list[Job]:
        """Each image with its outputs."""
        inputs = self.inputs
        images = [Path(path) for path in inputs.in_file] if isdefined(inputs.in_file) else []
        images += read_list(Path(inputs.list_file)) if isdefined(inputs.list_file) else []
        images = take_images(images)
        if isdefined(inputs.out_dir):
            kinds = inputs.save if isdefined(inputs.save) else self.usual
            suffix = next(filter(isdefined, (inputs.format, inputs.suffix)), None)
            jobs = plan_folder(images, Path(inputs.out_dir), kinds, suffix)
            part = self._part()
            return jobs if part is None else part.deal(jobs)
        given = {kind: value for kind in self.files if isdefined(value := self._file(kind))}
        wanted = {kind: value for kind, value in (given or dict.fromkeys(self.usual, True)).items() if value}
        if len(images) != 1:
            return []  # the command will report it
        default = plan_folder(images, Path(), wanted)[0].outputs
        outputs = {kind: default[kind] if value is True else Path(value) for kind, value in wanted.items()}
        return [Job(images[0], outputs)]

    def _file(self, kind: str) -> Any:
        """The file to write of a kind, True for a name that is made, or undefined."""
        return getattr(self.inputs, self.files[kind])

    def _gen_filename(self, name: str) -> str | None:
        if isdefined(self.inputs.out_dir):
            return None
        kind = next(kind for kind in self.files if self.files[kind] == name)
        path = next((job.outputs.get(kind) for job in self._jobs()), None)
        return None if path is None else str(path)

    def _format_arg(self, name: str, spec: Any, value: Any) -> str | None:
        if name in self.files.values() and value is True:
            value = self._gen_filename(name)
        return super()._format_arg(name, spec, value)

    def _list_outputs(self) -> dict[str, Any]:
        outputs = self.output_spec().get()
        jobs = self._jobs()
        for kind, name in self.files.items():
            paths = [str(job.outputs[kind].absolute()) for job in jobs if kind in job.outputs]
            if paths:
                outputs[name] = paths
        if isdefined(self.inputs.out_dir):
            outputs["out_dir"] = str(Path(self.inputs.out_dir).absolute())
        return outputs


class Strip(_ImageCommand):
    """Strip head images, as `singlestrip strip` does.

    Without out_dir it takes one image. Each output is a file name, or True for NAME_brain, NAME_mask, NAME_sdt,
    NAME_picture, NAME_doubt, NAME_probability or NAME_lesions in the working folder; without any, brain and mask
    are written. With out_dir it takes any number of images and writes what `save` names, brain and mask by
    default. Outputs are then lists in the order of the images, or a single file for one image.

    It takes the inputs of nipreps' interface to SynthStrip, and has its outputs. The border is 0 mm unless it is
    given, and not 1, and names of files are made as above.

    >>> from singlestrip.nipype_interfaces import Strip
    >>> Strip(in_file="t1.nii.gz", mask_file=True).run().outputs.mask_file  # doctest: +SKIP
    '/data/t1_mask.nii.gz'
    """

    subcommand = "strip"
    input_spec = StripInputs
    output_spec = StripOutputs
    files = FILES
    usual = ("brain", "mask")

    def _file(self, kind: str) -> Any:
        value = super()._file(kind)
        return self.inputs.out_mask if kind == "mask" and not isdefined(value) else value

    def _format_arg(self, name: str, spec: Any, value: Any) -> str | None:
        if name == "use_gpu":
            value = "cuda" if value else "cpu"
        return super()._format_arg(name, spec, value)

    def _list_outputs(self) -> dict[str, Any]:
        outputs = super()._list_outputs()
        outputs["out_mask"] = outputs["mask_file"]
        if isdefined(self.inputs.out_dir) and self.inputs.qc is True:
            outputs["qc_file"] = str(Path(outputs["out_dir"]) / table_name(self._part()))
        return outputs


SegmentInputs = _input_spec("SegmentInputs", "segment", dict.fromkeys(SEGMENT_FILES.values(), _file_or_true))


class SegmentOutputs(TraitedSpec):
    """Outputs of Segment."""

    out_file = OutputMultiObject(File(exists=True), desc="label map")
    posteriors_file = OutputMultiObject(File(exists=True), desc="probability of each structure, a frame for each")
    picture_file = OutputMultiObject(File(exists=True), desc="picture of three slices with outlines")
    label_table_file = File(exists=True, desc="table of the structures, of label_table_file")
    table_file = File(exists=True, desc="the same, if table_file, the former name, asks for it")
    volumes_file = File(exists=True, desc="table of volumes in mm³, of volumes_file")
    qc_file = File(exists=True, desc="table of how far views agree on each structure, of qc_file")
    out_dir = Directory(exists=True, desc="the folder given as out_dir")


class Segment(_ImageCommand):
    """Label the structures in head images, as `singlestrip segment` does.

    Without out_dir it takes one image. Each output is a file name, or True for NAME_dseg, NAME_probseg or
    NAME_picture in the working folder; without any, the label map is written. With out_dir it takes any number of
    images and writes what `save` names. Outputs are then lists, as of Strip.

    >>> from singlestrip.nipype_interfaces import Segment
    >>> Segment(in_file="t1.nii.gz", volumes_file="volumes.tsv").run().outputs.out_file  # doctest: +SKIP
    '/data/t1_dseg.nii.gz'
    """

    subcommand = "segment"
    input_spec = SegmentInputs
    output_spec = SegmentOutputs
    files = SEGMENT_FILES
    usual = ("dseg",)

    def _list_outputs(self) -> dict[str, Any]:
        outputs = super()._list_outputs()
        for name in ("label_table_file", "table_file"):
            if isdefined(getattr(self.inputs, name)):
                outputs[name] = str(Path(getattr(self.inputs, name)).absolute())
        part = self._part()
        for name in SEGMENT_TABLES:
            if isdefined(getattr(self.inputs, name)):
                path = Path(getattr(self.inputs, name)).absolute()
                outputs[name] = str(path if part is None else shard_table(path, part))
        return outputs


QualityInputs = _input_spec("QualityInputs", "qc", {"out_file": _generated_file})


class QualityOutputs(TraitedSpec):
    """Outputs of Quality."""

    out_file = File(exists=True, desc="table of scores, .tsv or .json")
    estimated_dice = OutputMultiObject(traits.Float(), desc="estimated Dice of each mask_file, in their order")
    flag = OutputMultiObject(Str(), desc="pass, look or fail, of each mask_file, in their order")
    reasons = OutputMultiObject(Str(), desc="what speaks against each mask_file, in their order; may be empty")
    doubt_file = File(exists=True, desc="map of doubt, from 0 to 1, of doubt_file")
    report_dir = Directory(exists=True, desc="folder with the page, index.html")
    train_file = File(exists=True, desc="quality model, of train_file")


class Quality(_Command):
    """Estimate how far brain masks can be trusted, as `singlestrip qc` does.

    The table of scores is quality.tsv in the working folder unless out_file names another. A node keeps the page
    of report_dir if that output is connected, as usual in nipype.

    >>> from singlestrip.nipype_interfaces import Quality
    >>> Quality(mask_file=["a_mask.nii.gz", "b_mask.nii.gz"]).run().outputs.flag  # doctest: +SKIP
    ['pass', 'look']
    """

    subcommand = "qc"
    input_spec = QualityInputs
    output_spec = QualityOutputs

    def _gen_filename(self, name: str) -> str | None:
        return TABLE if name == "out_file" and not isdefined(self.inputs.train_file) else None

    def _list_outputs(self) -> dict[str, Any]:
        outputs = self.output_spec().get()
        inputs = self.inputs
        if isdefined(inputs.train_file):
            outputs["train_file"] = str(Path(inputs.train_file).absolute())
            return outputs
        table = Path(inputs.out_file if isdefined(inputs.out_file) else TABLE).absolute()
        outputs["out_file"] = str(table)
        if isdefined(inputs.report_dir):
            outputs["report_dir"] = str(Path(inputs.report_dir).absolute())
        if isdefined(inputs.doubt_file):
            outputs["doubt_file"] = str(Path(inputs.doubt_file).absolute())
        if isdefined(inputs.mask_file):
            rows = {row["mask"]: row for row in _read_rows(table)}
            masks = [rows[path] for path in inputs.mask_file]
            outputs["estimated_dice"] = [float(row["estimated_dice"]) for row in masks]
            outputs["flag"] = [row["flag"] for row in masks]
            outputs["reasons"] = [_as_text(row.get("reasons", "")) for row in masks]
        return outputs


def _as_text(reasons: str | list[str]) -> str:
    """The reasons of a row of a table as in a cell; in JSON they are a list."""
    return reasons if isinstance(reasons, str) else BETWEEN_REASONS.join(reasons)


def _read_rows(table: Path) -> list[dict[str, Any]]:
    """The rows of a table of qc, .tsv or .json, by column."""
    text = table.read_text(encoding="utf-8")
    if table.suffix == ".json":
        content = json.loads(text)
        return content if isinstance(content, list) else [content]
    columns, rows = parse_table(text)
    return [dict(zip(columns, cells, strict=True)) for cells in rows.values()]
