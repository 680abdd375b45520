"""singlestrip strip: from images to brain images, masks and signed distances."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ...batch.shards import table_name
from ...configuration import STRUCTURES_MODEL
from ...errors import ModelError
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
    add_mask_outputs,
    add_memory,
    add_model,
    add_processor_options,
    add_quality_options,
    apply_threads,
    check_quality_options,
    chosen_flags,
    exit_status,
    finite_float,
    load_quality,
    millimetres,
    not_negative,
    output_file,
    show_stripping,
)

if TYPE_CHECKING:
    from ...batch.jobs import Job
    from ...batch.pipeline import Outcome
    from ...quality.scores import MaskQuality

KINDS = ("brain", "mask", "sdt", "picture", "doubt", "probability")
DEFAULT_KINDS = ("brain", "mask")

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

--no-csf makes a tight mask. The networks tell the fluid around the brain from its tissue; the mask is where
tissue is more probable than everything else. Holes are filled, so that the ventricles belong to it.

--probability, and probability among what --save names, write how probable brain is in each voxel, in steps of
1/255. It is what the networks say, before the mask's components are left out, its holes filled and its border
moved. NIfTI holds bytes with a scaling, MGH 32-bit numbers.

--crop MM crops the image of the brain to the box around the mask, with a margin of MM on all sides as far as
the image reaches. Its header puts each voxel where it was. The other outputs keep the image's grid.

--resume goes on where a run stopped. A hidden folder .singlestrip beside the outputs records what each
was made with: image, version, model, border, centre, fill, crop, fluid and frames. Outputs that were made
in another way, or from an image that has been replaced, are made anew. Outputs without a record, and those
that another program has changed, are kept.

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
    singlestrip strip -i bold.nii.gz -m mask.nii.gz --mean-frame
    singlestrip strip -i t1.nii.gz -m mask.nii.gz --doubt doubt.nii.gz --qc
    singlestrip strip -i t1.nii.gz -o brain.nii.gz --crop 5
    singlestrip strip -i dwi.nii.gz -m mask.nii.gz --bval dwi.bval --b0-limit 100
    singlestrip strip -i fetus.nii.gz -m mask.nii.gz --centre -12 30.5 8
    singlestrip strip -i sub-*/anat/*_T1w.nii.gz --out-dir masks --save mask --resume
    singlestrip strip --list scans.txt --out-dir masks --shard 2/8 --resume"""


def add_options(parser: argparse.ArgumentParser) -> None:
    files = parser.add_argument_group("FILES")
    add_images(files, "strip")
    files.add_argument(
        "-o",
        "--out",
        type=output_file,
        metavar="FILE",
        help="image with the background filled, of the input's type",
    )
    add_mask_outputs(files)
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
        "--probability",
        type=output_file,
        metavar="FILE",
        help="probability of brain by the networks, from 0 to 1 in steps of 1/255",
    )
    add_folder(files, "strip", KINDS, DEFAULT_KINDS, "NAME_mask")
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
        "--no-csf",
        action="store_true",
        help="leave out the fluid around the brain, by the classes of a model that tells it apart (default model: "
        f"{STRUCTURES_MODEL})",
    )
    add_centre(mask)
    mask.add_argument(
        "-f",
        "--fill",
        type=finite_float,
        metavar="VALUE",
        help="background of --out (default: the image's minimum, or 0 if that is lower)",
    )
    mask.add_argument(
        "--crop",
        type=not_negative,
        metavar="MM",
        help="crop --out to the box of the brain with a margin of MM (default: leave it whole)",
    )
    mask.add_argument(
        "--mean-frame",
        action="store_true",
        help="4-D: one mask from the mean of all frames (default: one mask per frame)",
    )
    add_bvalues(mask, "one mask")
    add_quality_options(
        parser, "print each mask's estimated Dice and flag, pass, look or fail, and write DIR/qc.tsv; see qc"
    )
    add_processor_options(parser)
    add_memory(parser)


def _maps_doubt(args: argparse.Namespace) -> bool:
    """Whether a map of doubt is among the outputs."""
    return args.doubt is not None or "doubt" in (args.save or ())


def _jobs(args: argparse.Namespace) -> list[Job]:
    """The job of one image with the outputs that are named, or those of all images with --out-dir.

    A wrong command line ends the program. Raises InputError or OutputError if a file cannot be used. Imports no
    library.
    """
    images = read_images(args)
    check_quality_options(args, doubt=_maps_doubt(args))
    if args.qc and args.save and "mask" not in args.save:
        args.parser.error("--qc needs the mask among what --save names")
    if args.no_csf and (args.qc or _maps_doubt(args)):
        args.parser.error("--qc and maps of doubt judge masks with the fluid around the brain; leave out --no-csf")
    if args.bval is not None and (args.out_dir is not None or args.mean_frame):
        args.parser.error("--bval goes with one image, without --out-dir and --mean-frame")
    check_bvalues(args)
    written = args.save or DEFAULT_KINDS if args.out_dir is not None else ["brain"] if args.out else []
    if args.crop is not None and "brain" not in written:
        args.parser.error("--crop is about the image of the brain: name it with -o, or brain with --save")
    paths = zip(KINDS, (args.out, args.mask, args.sdt, args.picture, args.doubt, args.probability), strict=True)
    outputs = {kind: path for kind, path in paths if path is not None}
    if args.qc and args.resume and args.out_dir is None and args.mask is None:
        args.parser.error("--qc with --resume needs -m: there is no mask to score otherwise")
    return plan_jobs(args, images, outputs, "-o, -m, -d, -p, --doubt or --probability", DEFAULT_KINDS)


def run(args: argparse.Namespace) -> int:
    part = chosen_part(args)  # before folders are made
    jobs = deal_jobs(args, _jobs(args), part)
    if not jobs:
        return 0
    from ...batch.jobs import StripOptions
    from ...batch.records import made_with
    from ...networks.model_files import find_model

    # A wrong name is refused before the slow imports below.
    path = _model_without_fluid() if args.no_csf and args.model is None else find_model(args.model)
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
    stripper = Stripper.load(path, args.device, args.engine, not args.no_csf)
    centre = None if args.centre is None else tuple(args.centre)
    quality_sha256 = None if args.qc_model is None else checksum(find_model(args.qc_model, AUTOENCODER.shipped))
    options = StripOptions(
        args.border,
        args.fill,
        args.mean_frame,
        args.memory,
        centre,
        quality_sha256,
        chosen_b0_limit(args),
        args.crop,
    )
    outcomes = strip_files(
        stripper,
        jobs,
        options,
        quality=quality,
        resume=args.resume,
        debug=args.debug,
        made_with=made_with(path) | ({"CSF": "left out"} if args.no_csf else {}),
        done=show_stripping(args, len(jobs)),
        describe=describer_with_options(args),
        assess=args.qc,
    )
    if table is not None:
        _write_quality_table(outcomes, table)
    return exit_status(outcomes)


def _model_without_fluid() -> Path:
    """The model that --no-csf takes if none is named. Raises ModelError if it is not there."""
    from ...networks.model_files import describe_folders, find_in_folders

    path = find_in_folders(STRUCTURES_MODEL)
    if path is None:
        raise ModelError(
            "--no-csf needs a model that tells the fluid around the brain from the brain, and none is named "
            f"{STRUCTURES_MODEL} in {describe_folders()}; name one with --model"
        )
    return path


def _write_quality_table(outcomes: Sequence[Outcome[MaskQuality]], path: Path) -> None:
    """Add the masks that were assessed and the images that failed to the table of quality, worst first."""
    from ...batch.assessment import Assessment, Case
    from ...batch.quality_table import update_table

    assessments = []
    for outcome in outcomes:
        case = Case(outcome.job.outputs["mask"], outcome.job.image, name=str(outcome.job.image))
        quality = outcome.measured
        if quality is None:
            assessments.append(Assessment(case, "fail", {}, note=outcome.text))
        else:
            assessments.append(Assessment.of(case, quality))
    update_table(path, assessments)
