"""singlestrip strip: from images to brain images, masks and signed distances."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ...batch.shards import slurm_shard, table_name
from ...configuration import B0_LIMIT
from ...errors import OutputError
from ..advice import describer_with_options
from ..options import (
    add_memory,
    add_model,
    add_processor_options,
    add_quality_options,
    apply_threads,
    check_quality_options,
    chosen_flags,
    exit_status,
    finite_float,
    input_file,
    input_list,
    load_quality,
    millimetres,
    output_file,
    output_folder,
    shard,
    show_stripping,
)
from ..streams import tell

if TYPE_CHECKING:
    from ...batch.jobs import Job
    from ...batch.strip import Outcome

KINDS = ("brain", "mask", "sdt", "picture", "doubt")

DESCRIPTION = """take the skull off head images
Finds the brain in a head image of any contrast, resolution, orientation and field of view. Writes the
image with the background filled, the brain mask, the signed distance to the brain's surface, or a
picture. Outputs have the image's own grid and geometry. Reads and writes NIfTI (.nii, .nii.gz,
.img/.hdr) and MGH (.mgh, .mgz); the output's suffix sets its format.

With --out-dir one loaded model strips many images: name them with -i, or a list of them with --list;
--list /dev/stdin reads the list from a pipe. If an image fails, the command reports it and goes on with
the others. Each output appears whole or not at all.

If no brain is found, or another part is taken for it, --centre says where its middle is. X, Y and Z are
RAS mm, to the right, front and top of the origin, as FSLeyes and freeview show them for the cursor. The
networks then do not search the image. In an adult's head 20 mm aside do no harm.

--resume goes on where a run stopped. A hidden folder .singlestrip beside the outputs records what each
was made with: image, version, model, border, centre, fill and frames. Outputs that were made in another
way, or from an image that has been replaced, are made anew. Outputs without a record, and those that
another program has changed, are kept.

--shard K/N shares the work among several processes. Give all of them the whole list. Process K, counted
from 1, strips images K, K+N, K+2N and so on; outputs have the same names as without --shard.
--shard slurm reads K and N from the variables of a SLURM job array. With --qc each process writes a
table of its own, DIR/qc-K-of-N.tsv; qc --table DIR/qc-*-of-N.tsv gathers them.

--doubt, and doubt among what --save names, write a map of where the mask may be wrong: in each voxel the
share of votes against the mask. Each view of the image that the networks were shown has a vote, and so has
the mask as the quality network rebuilds it, which is loaded for this as with --qc.

Standard output has one line per image with --qc, otherwise nothing. Errors and warnings go to standard
error, one per line, each after "singlestrip: "; the names of all images that failed follow at the end.
With the same number of threads, -t, the mask is the same again; with another number some voxels at the
border may differ.

The network's memory does not grow with the scan: a 512³ scan takes less than 2.5 GiB. --sdt and
--border take 40 bytes a voxel more. The command computes the need from the image's header and compares
it with the free memory before it reads the image. With several images it reads the next one and writes
the outputs of the last one while the networks see an image, if memory holds all of them; --memory counts
for their sum."""

SYNOPSIS = [
    "singlestrip strip -i IMAGE [-o FILE] [-m FILE] [-d FILE] [-p FILE] [--doubt FILE] [OPTIONS]",
    "singlestrip strip -i IMAGE [IMAGE ...] [--list FILE] --out-dir DIR [OPTIONS]",
]

EXAMPLES = """\
    singlestrip strip -i t1.nii.gz -o brain.nii.gz -m mask.nii.gz
    singlestrip strip -i bold.nii.gz -m mask.nii.gz --mask-mean-frame
    singlestrip strip -i t1.nii.gz -m mask.nii.gz --doubt doubt.nii.gz --qc
    singlestrip strip -i fetus.nii.gz -m mask.nii.gz --centre -12 30.5 8
    singlestrip strip -i sub-*/anat/*_T1w.nii.gz --out-dir masks --save mask --resume
    singlestrip strip --list scans.txt --out-dir masks --shard 2/8 --resume"""


def add_options(parser: argparse.ArgumentParser) -> None:
    files = parser.add_argument_group("FILES")
    files.add_argument(
        "-i",
        "--image",
        nargs="+",
        action="extend",
        default=[],
        metavar="IMAGE",
        type=input_file,
        help="image to strip; several with --out-dir",
    )
    files.add_argument(
        "--list", type=input_list, metavar="FILE", help="text file with the path of one image per line"
    )
    files.add_argument(
        "-o",
        "--out",
        type=output_file,
        metavar="FILE",
        help="image with the background filled, of the input's type",
    )
    files.add_argument("-m", "--mask", type=output_file, metavar="FILE", help="brain mask, uint8, brain 1")
    files.add_argument(
        "-d",
        "--sdt",
        type=output_file,
        metavar="FILE",
        help="signed distance to the brain's surface in mm, negative inside, float32",
    )
    files.add_argument(
        "-p",
        "--picture",
        type=output_file,
        metavar="FILE",
        help="picture of three slices with the mask's outline, .png",
    )
    files.add_argument(
        "--doubt",
        type=output_file,
        metavar="FILE",
        help="map of how far the networks would put the brain elsewhere, from 0 to 1, float32",
    )
    files.add_argument(
        "--out-dir",
        type=output_folder,
        metavar="DIR",
        help="folder for the outputs of all images, such as NAME_mask; made if missing",
    )
    files.add_argument(
        "--save",
        nargs="+",
        choices=KINDS,
        metavar="KIND",
        help="what to write to --out-dir: brain, mask, sdt, picture, doubt (default brain mask)",
    )
    files.add_argument(
        "--suffix", metavar="SUFFIX", help="format in --out-dir, such as .mgz (default: each image's own)"
    )
    files.add_argument(
        "--shard",
        type=shard,
        metavar="K/N",
        help="strip the K-th of N parts of the images; slurm: take K/N from the job array",
    )
    files.add_argument(
        "--resume",
        action="store_true",
        help="keep outputs that are there, whole, on the image's grid, and made in this way; see above",
    )
    add_model(files)
    mask = parser.add_argument_group("MASK OPTIONS")
    mask.add_argument(
        "-b",
        "--border",
        type=millimetres,
        default=0.0,
        metavar="MM",
        help="move the mask's surface out by MM, or in if negative (default 0)",
    )
    mask.add_argument(
        "--centre",
        type=millimetres,
        nargs=3,
        metavar=("X", "Y", "Z"),
        help="RAS mm of the middle of the brain, for one IMAGE in which it is not found (default: search)",
    )
    mask.add_argument(
        "-f",
        "--fill",
        type=finite_float,
        metavar="VALUE",
        help="background of --out (default: the image's minimum, or 0 if that is lower)",
    )
    mask.add_argument(
        "--mask-mean-frame",
        action="store_true",
        help="4-D: one mask from the mean of all frames (default: one mask per frame)",
    )
    mask.add_argument(
        "--bval",
        type=input_file,
        metavar="FILE",
        help=f"b-values of a diffusion IMAGE: one mask from the mean of the frames up to {B0_LIMIT:g} s/mm²",
    )
    add_quality_options(
        parser, "print each mask's estimated Dice and flag, pass, look or fail, and write DIR/qc.tsv; see qc"
    )
    add_processor_options(parser, has_engine=True)
    add_memory(parser)


def _maps_doubt(args: argparse.Namespace) -> bool:
    """Whether a map of doubt is among the outputs."""
    return args.doubt is not None or "doubt" in (args.save or ())


def _jobs(args: argparse.Namespace) -> list[Job]:
    """The job of one image with the outputs that are named, or those of all images with --out-dir.

    A wrong command line ends the program. Raises InputError or OutputError if a file cannot be used. Imports no
    library.
    """
    from ...batch.jobs import take_images
    from ...io.images.lists import read_list

    images = take_images(args.image + (read_list(args.list) if args.list else []))
    check_quality_options(args, doubt=_maps_doubt(args))
    if args.qc and args.save and "mask" not in args.save:
        args.parser.error("--qc needs the mask among what --save names")
    if not images:
        args.parser.error("name an image with -i, or a list with --list")
    if args.bval is not None and (args.out_dir is not None or args.mask_mean_frame):
        args.parser.error("--bval goes with one image, without --out-dir and --mask-mean-frame")
    if args.centre is not None and len(images) > 1:
        args.parser.error("--centre goes with one image")
    paths = zip(KINDS, (args.out, args.mask, args.sdt, args.picture, args.doubt), strict=True)
    outputs = {kind: path for kind, path in paths if path is not None}
    if args.out_dir is None:
        return [_single_job(args, images, outputs)]
    return _folder_jobs(args, images, outputs)


def _single_job(args: argparse.Namespace, images: list[Path], outputs: dict[str, Path]) -> Job:
    """The job of one image, without --out-dir. Raises InputError if there is no such file."""
    from ...batch.jobs import Job
    from ...io.images.names import check_output
    from ...io.images.path import check_is_file
    from ...io.output import check_distinct, check_picture

    if args.save or args.suffix or args.shard:
        args.parser.error("--save, --suffix and --shard go with --out-dir")
    if len(images) > 1:
        args.parser.error("several images need --out-dir")
    if not outputs:
        args.parser.error("name at least one output: -o, -m, -d, -p or --doubt")
    if args.qc and args.resume and args.mask is None:
        args.parser.error("--qc with --resume needs -m: there is no mask to score otherwise")
    try:
        check_distinct(images + ([args.bval] if args.bval else []), outputs.values())
    except OutputError as error:
        args.parser.error(str(error))
    for kind, path in outputs.items():
        check_picture(path) if kind == "picture" else check_output(path)
    check_is_file(images[0])
    return Job(images[0], outputs, args.bval)


def _folder_jobs(args: argparse.Namespace, images: list[Path], outputs: dict[str, Path]) -> list[Job]:
    """The jobs of all images with --out-dir, with which no output may be named."""
    from ...batch.jobs import plan_folder
    from ...io.images.names import SUFFIXES

    if outputs:
        args.parser.error("-o, -m, -d, -p and --doubt name the outputs of one image; with --out-dir use --save")
    if args.suffix and args.suffix not in SUFFIXES:
        args.parser.error(f"--suffix: choose from {', '.join(SUFFIXES)}")
    return plan_folder(images, args.out_dir, args.save or ("brain", "mask"), args.suffix)


def run(args: argparse.Namespace) -> int:
    part = slurm_shard() if args.shard == "slurm" else args.shard
    jobs = _jobs(args)
    if part is not None:
        total, jobs = len(jobs), part.deal(jobs)
        if not jobs:
            if not args.quiet:
                tell(f"nothing for part {part} of {total} images")
            return 0
    from ...batch.jobs import StripOptions
    from ...batch.records import made_with
    from ...networks.model_files import find_model

    path = find_model(args.model)  # a wrong name is refused before the slow imports below
    from ...batch.strip import strip_files
    from ...io.checksum import checksum
    from ...networks.model_header import AUTOENCODER
    from ...stripping.stripper import Stripper

    apply_threads(args)
    table = args.out_dir / table_name(part) if args.qc and args.out_dir is not None else None
    if table is not None:
        from ...batch.quality_table import read_growing_table

        read_growing_table(table)
    flags = chosen_flags(args)
    quality = load_quality(args, path, flags) if args.qc or _maps_doubt(args) else None
    stripper = Stripper.load(path, args.device, args.engine)
    centre = None if args.centre is None else tuple(args.centre)
    quality_sha256 = None if args.qc_model is None else checksum(find_model(args.qc_model, AUTOENCODER.shipped))
    options = StripOptions(args.border, args.fill, args.mask_mean_frame, args.memory, centre, quality_sha256)
    outcomes = strip_files(
        stripper,
        jobs,
        options,
        quality=quality,
        resume=args.resume,
        debug=args.debug,
        made_with=made_with(path),
        done=show_stripping(args, len(jobs)),
        describe=describer_with_options(args),
        assess=args.qc,
    )
    if table is not None:
        _write_quality_table(outcomes, table)
    return exit_status(outcomes)


def _write_quality_table(outcomes: Sequence[Outcome], path: Path) -> None:
    """Add the masks that were assessed and the images that failed to the table of quality, worst first."""
    from ...batch.assessment import Assessment, Case
    from ...batch.quality_table import update_table

    assessments = []
    for outcome in outcomes:
        case = Case(outcome.job.outputs["mask"], outcome.job.image, name=str(outcome.job.image))
        quality = outcome.quality
        if quality is None:
            assessments.append(Assessment(case, "fail", {}, note=outcome.text))
        else:
            assessments.append(Assessment.of(case, quality))
    update_table(path, assessments)
