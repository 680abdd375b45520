"""singlestrip segment: from images to labels of structures, and their volumes."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ...batch.shards import Shard, shard_table
from ...configuration import STRUCTURES_MODEL
from ..advice import describer_with_options
from ..image_jobs import (
    add_bvalues,
    add_centre,
    add_folder,
    add_images,
    check_bvalues,
    chosen_b0_limit,
    chosen_part,
    deal_jobs,
    plan_jobs,
    read_images,
)
from ..options import (
    add_memory,
    add_processor_options,
    apply_threads,
    exit_status,
    model,
    output_file,
    show_outcomes,
)

if TYPE_CHECKING:
    from ...batch.jobs import Job
    from ...batch.pipeline import Outcome
    from ...batch.segment import StructureMeasures
    from ...configuration import TargetClass

KINDS = ("dseg", "probseg", "picture")
DEFAULT_KINDS = ("dseg",)

DESCRIPTION = """label the structures in head images
Labels the structures that a model knows in a head image of any contrast, resolution, orientation and field
of view. The label map has the image's own grid and geometry. Each voxel takes the structure that is most
probable in its middle; no map of labels is resampled. Of structures that the model says are one piece, only
the largest component is kept. Reads and writes NIfTI and MGH as strip does.

Beside a NIfTI label map a table of the same name with .tsv gives number, name and colour of each structure,
as BIDS has it. An MGH or MGZ label map holds the names and colours itself, where freeview finds them.
--label-table writes the table elsewhere; if its name does not end in .tsv, it is a FreeSurfer colour table.

--volumes writes a table with a row for each image, and a column for each structure with its volume in mm³.
Volumes are soft: the sum of the structure's probabilities, so that voxels at its border count in part.
total_intracranial is the volume of the brain with the fluid around it.

--posteriors writes the probability of each structure as a frame of a 4-D image, in steps of 1/255. A file of
the same name with .json gives the names of the frames. Probabilities below half a step are 0, and so are those
of voxels that were taken from a structure because they lay apart from it.

--qc writes a table of how sure the networks are of each structure: the Dice of its voxels in views of the
image, mirrored and in other contrasts, with those in the mean of all views. Low numbers mean that the
structure may be wrong. High ones are no proof that it is right: views may agree on a mistake.

With --out-dir one loaded model segments many images, and --list, --shard and --resume work as in strip. Records
beside the outputs hold the volumes, so that tables have the images that --resume keeps too. With --shard K/N
each process writes tables of its own, such as volumes-K-of-N.tsv. If no brain is found, --centre says where its
middle is.

Structures are labelled in a window around the brain, of 192 mm a side in models of the adult head. Beyond it
all is background. The memory that a scan takes is computed from its header and compared with the free memory
before the scan is read."""

SYNOPSIS = [
    "singlestrip segment -i IMAGE [-o FILE] [--volumes FILE] [--posteriors FILE] [-p FILE] [OPTIONS]",
    "singlestrip segment -i IMAGE [IMAGE ...] [--list FILE] --out-dir DIR [OPTIONS]",
]

EXAMPLES = """\
    singlestrip segment -i t2.nii.gz -o dseg.nii.gz --volumes volumes.tsv
    singlestrip segment -i t1.mgz -o aseg.mgz -p aseg.png
    singlestrip segment -i t1.nii.gz -o dseg.nii.gz --posteriors probseg.nii.gz --qc qc.tsv
    singlestrip segment -i sub-*/anat/*_T1w.nii.gz --out-dir labels --volumes volumes.tsv --resume
    singlestrip segment --model organs.safetensors -i mouse.nii.gz -o organs.nii.gz"""


def add_options(parser: argparse.ArgumentParser) -> None:
    files = parser.add_argument_group("FILES")
    add_images(files, "segment")
    files.add_argument("-o", "--out", type=output_file, metavar="FILE", help="label map, with its table beside it")
    files.add_argument(
        "--label-table",
        type=output_file,
        metavar="FILE",
        help="table of the structures in --out, .tsv or a FreeSurfer colour table (default: beside a NIfTI --out)",
    )
    files.add_argument(
        "--posteriors",
        type=output_file,
        metavar="FILE",
        help="probability of each structure, a frame for each",
    )
    files.add_argument(
        "-p",
        "--picture",
        type=output_file,
        metavar="FILE",
        help="picture of three slices with the structures' outlines in their colours, .png",
    )
    files.add_argument(
        "--volumes", type=output_file, metavar="FILE", help="table of volumes in mm³, a row for each image, .tsv"
    )
    files.add_argument(
        "--qc",
        type=output_file,
        metavar="FILE",
        help="table of how far views of the image agree on each structure, a row for each image, .tsv",
    )
    add_folder(files, "segment", KINDS, DEFAULT_KINDS, "NAME_dseg")
    files.add_argument(
        "--model",
        type=model,
        default=STRUCTURES_MODEL,
        metavar="FILE",
        help=f"model file, or name that singlestrip models lists (default {STRUCTURES_MODEL})",
    )
    choices = parser.add_argument_group("SEGMENTATION OPTIONS")
    add_centre(choices)
    choices.add_argument(
        "--mean-frame",
        action="store_true",
        help="4-D: one label map from the mean of all frames (default: one per frame)",
    )
    add_bvalues(choices, "one label map")
    add_processor_options(parser)
    add_memory(parser)


def _jobs(args: argparse.Namespace) -> list[Job]:
    """The jobs that the command line names. A wrong one ends the program. Raises InputError or OutputError."""
    from ...batch.jobs import with_companions

    images = read_images(args)
    if args.bval is not None and (args.out_dir is not None or args.mean_frame):
        args.parser.error("--bval goes with one image, without --out-dir and --mean-frame")
    check_bvalues(args)
    if args.label_table is not None and args.out is None:
        args.parser.error("--label-table goes with -o")
    named = {"dseg": args.out, "table": args.label_table, "probseg": args.posteriors, "picture": args.picture}
    outputs = {kind: path for kind, path in named.items() if path is not None}
    return plan_jobs(args, images, outputs, "-o, --posteriors or -p", DEFAULT_KINDS, with_companions)


def _tables(args: argparse.Namespace, jobs: Sequence[Job], part: Shard | None) -> dict[str, Path]:
    """The paths of the tables that are asked for, by option. Raises OutputError if they cannot be written."""
    from ...batch.structure_tables import check_table
    from ...io.output import check_distinct, file_identity

    tables = {name: path for name in ("volumes", "qc") if (path := getattr(args, name)) is not None}
    if part is not None:
        tables = {name: shard_table(path, part) for name, path in tables.items()}
    for path in tables.values():
        check_table(path)
    outputs = {file_identity(path): path for job in jobs for path in job.outputs.values()}
    check_distinct([job.image for job in jobs], [*outputs.values(), *tables.values()])
    return tables


def run(args: argparse.Namespace) -> int:
    part = chosen_part(args)  # before folders are made
    jobs = deal_jobs(args, _jobs(args), part)
    if not jobs:
        return 0
    tables = _tables(args, jobs, part)
    from ...batch.jobs import SegmentOptions
    from ...batch.records import made_with
    from ...networks.model_files import find_model

    path = find_model(args.model)  # a wrong name is refused before the slow imports below
    from ...batch.segment import segment_files
    from ...stripping.segmenter import Segmenter

    apply_threads(args)
    segmenter = Segmenter.load(path, args.device, args.engine)
    centre = None if args.centre is None else tuple(args.centre)
    outcomes = segment_files(
        segmenter,
        jobs,
        SegmentOptions(args.mean_frame, args.memory, centre, chosen_b0_limit(args)),
        resume=args.resume,
        debug=args.debug,
        made_with=made_with(path),
        done=show_outcomes(args, len(jobs)),
        describe=describer_with_options(args),
    )
    _write_tables(tables, outcomes, segmenter.classes)
    return exit_status(outcomes)


def _write_tables(
    tables: dict[str, Path], outcomes: Sequence[Outcome[list[StructureMeasures]]], classes: Sequence[TargetClass]
) -> None:
    """Write the tables, by option. Raises OutputError."""
    from ...batch.structure_tables import write_agreement, write_volumes

    writers: dict[str, Callable[..., None]] = {"volumes": write_volumes, "qc": write_agreement}
    for option, path in tables.items():
        writers[option](path, outcomes, classes)
