"""singlestrip strip: from images to brain images, masks and signed distances."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ...batch.shards import table_name
from ...configuration import LESION, LESIONS_MODEL, STRUCTURES_MODEL
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

KINDS = ("brain", "mask", "sdt", "picture", "doubt", "probability", "lesions")
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

--lesions, and lesions among what --save names, write a mask of lesions in the brain mask: tumours, infarcts,
bleeding, cavities and the like. Experimental: lesions are missed, and healthy tissue is taken for lesions.
It is no diagnosis. --model finds them if it has a class named lesion, as models of train --find-lesions
have; the brain mask is then that of the default model. Otherwise the model named lesions finds them, and
the brain mask is that of --model. The brain mask is the same with and without --lesions.

--crop MM crops the image of the brain to the box around the mask, with a margin of MM on all sides as far as
the image reaches. Its header puts each voxel where it was. The other outputs keep the image's grid.

--resume goes on where a run stopped. A hidden folder .singlestrip beside the outputs records what each
was made with: image, version, model, border, centre, fill, crop, fluid, model of lesions and frames. Outputs
that were made in another way, or from an image that has been replaced, are made anew. Outputs without a
record, and those that another program has changed, are kept.

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
    singlestrip strip -i t1.nii.gz -m mask.nii.gz --lesions found.nii.gz --model own.safetensors
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
    files.add_argument(
        "--lesions",
        type=output_file,
        metavar="FILE",
        help=f"mask of lesions in the brain mask; experimental, no diagnosis (default model: {LESIONS_MODEL})",
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


def _finds_lesions(args: argparse.Namespace) -> bool:
    """Whether a mask of lesions is among the outputs."""
    return args.lesions is not None or "lesions" in (args.save or ())


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
    paths = {kind: getattr(args, "out" if kind == "brain" else kind) for kind in KINDS}
    outputs = {kind: path for kind, path in paths.items() if path is not None}
    if args.qc and args.resume and args.out_dir is None and args.mask is None:
        args.parser.error("--qc with --resume needs -m: there is no mask to score otherwise")
    return plan_jobs(args, images, outputs, "-o, -m, -d, -p, --doubt, --probability or --lesions", DEFAULT_KINDS)


def run(args: argparse.Namespace) -> int:
    part = chosen_part(args)  # before folders are made
    jobs = deal_jobs(args, _jobs(args), part)
    if not jobs:
        return 0
    from ...batch.jobs import StripOptions
    from ...batch.records import made_with

    # A wrong name is refused before the slow imports below.
    path, lesion_path = _models(args)
    from ...batch.strip import strip_files
    from ...io.checksum import checksum
    from ...networks.model_files import find_model
    from ...networks.model_header import AUTOENCODER
    from ...stripping.lesion_finder import LesionFinder
    from ...stripping.stripper import Stripper

    apply_threads(args)
    table = args.out_dir / table_name(part) if args.qc and args.out_dir is not None else None
    if table is not None:
        from ...batch.quality_table import read_growing_table

        read_growing_table(table)
    flags = chosen_flags(args)
    quality = load_quality(args, path, flags) if args.qc or _maps_doubt(args) else None
    stripper = Stripper.load(path, args.device, args.engine, not args.no_csf)
    finder = None if lesion_path is None else LesionFinder.load(lesion_path, args.device, args.engine)
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
        None if lesion_path is None else checksum(lesion_path),
    )
    outcomes = strip_files(
        stripper,
        jobs,
        options,
        quality=quality,
        finder=finder,
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


def _models(args: argparse.Namespace) -> tuple[Path, Path | None]:
    """The files of the model that finds the brain, and of the one that finds lesions if any are wanted.

    Raises ModelError if one is not there.
    """
    from ...networks.model_files import find_model

    named = None if args.model is None else find_model(args.model)
    lesion_path = None
    if _finds_lesions(args):
        if named is not None and _has_class_of_lesions(named):
            named, lesion_path = None, named
        else:
            lesion_path = _usual_model(LESIONS_MODEL, f"--lesions needs a model with a class named {LESION}")
    if named is None and args.no_csf:
        need = "--no-csf needs a model that tells the fluid around the brain from the brain"
        return _usual_model(STRUCTURES_MODEL, need), lesion_path
    return named or find_model(None), lesion_path


def _has_class_of_lesions(path: Path) -> bool:
    """Whether a model finds lesions. Raises ModelError if it is no model to strip with."""
    from ...networks.model_header import CASCADE, read_header

    return read_header(path, CASCADE).parts[CASCADE].config.lesion_channel is not None


def _usual_model(name: str, need: str) -> Path:
    """The model of a name that comes with the package or lies in its folders. need: of it, a clause.

    Raises ModelError if it is not there.
    """
    from ...networks.model_files import describe_folders, find_in_folders

    path = find_in_folders(name)
    if path is None:
        raise ModelError(f"{need}, and none is named {name} in {describe_folders()}; name one with --model")
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
