"""Options of commands that work on many images, and the jobs that they name."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..batch.shards import Shard, slurm_shard
from ..configuration import DiffusionConfig
from ..errors import OutputError
from .options import input_file, input_list, millimetres, not_negative, output_folder, shard
from .streams import tell

if TYPE_CHECKING:
    from ..batch.jobs import Job


DIFFUSION = DiffusionConfig()


def add_images(group: argparse._ArgumentGroup, verb: str) -> None:
    """Add --image and --list. verb: what the command does with an image."""
    group.add_argument(
        "-i",
        "--image",
        nargs="+",
        action="extend",
        default=[],
        metavar="IMAGE",
        type=input_file,
        help=f"image to {verb}; several with --out-dir",
    )
    group.add_argument(
        "--list", type=input_list, metavar="FILE", help="text file with the path of one image per line"
    )


def add_folder(
    group: argparse._ArgumentGroup, verb: str, kinds: Sequence[str], default: Sequence[str], example: str
) -> None:
    """Add --out-dir and the options that go with it. kinds: of outputs; example: the name of one."""
    group.add_argument(
        "--out-dir",
        type=output_folder,
        metavar="DIR",
        help=f"folder for the outputs of all images, such as {example}; made if missing",
    )
    group.add_argument(
        "--save",
        nargs="+",
        choices=kinds,
        metavar="KIND",
        help=f"what to write to --out-dir: {', '.join(kinds)} (default {' '.join(default)})",
    )
    group.add_argument(
        "--format",
        metavar="SUFFIX",
        help="file format in --out-dir by its suffix, such as .mgz (default: each image's own)",
    )
    group.add_argument(
        "--shard",
        type=shard,
        metavar="K/N",
        help=f"{verb} the K-th of N parts of the images; slurm: take K/N from the job array",
    )
    group.add_argument(
        "--resume",
        action="store_true",
        help="keep outputs that are there, whole, on the image's grid, and made in this way; see above",
    )


def add_centre(group: argparse._ArgumentGroup) -> None:
    """Add --centre."""
    group.add_argument(
        "--centre",
        type=millimetres,
        nargs=3,
        metavar=("X", "Y", "Z"),
        help="RAS mm of the middle of the brain, for one IMAGE in which it is not found (default: search)",
    )


def add_bvalues(group: argparse._ArgumentGroup, output: str) -> None:
    """Add --bval and --b0-limit. output: what is made of the mean of the b=0 frames."""
    group.add_argument(
        "--bval",
        type=input_file,
        metavar="FILE",
        help=f"b-values of a diffusion IMAGE: {output} from the mean of its b=0 frames",
    )
    add_b0_limit(group)


def add_b0_limit(group: argparse._ArgumentGroup) -> None:
    """Add --b0-limit."""
    group.add_argument(
        "--b0-limit",
        type=not_negative,
        metavar="B",
        help=f"b-value up to which frames count as b=0, in s/mm² (default {DIFFUSION.b0_limit:g})",
    )


def chosen_b0_limit(args: argparse.Namespace) -> float:
    """The value of --b0-limit, or its default."""
    return DIFFUSION.b0_limit if args.b0_limit is None else args.b0_limit


def check_bvalues(args: argparse.Namespace) -> None:
    """End the program if --b0-limit is given without --bval."""
    if args.b0_limit is not None and args.bval is None:
        args.parser.error("--b0-limit goes with --bval")


def read_images(args: argparse.Namespace) -> list[Path]:
    """The images that --image and --list name, at least one. A wrong command line ends the program.

    Raises InputError if the list cannot be read.
    """
    from ..batch.jobs import take_images
    from ..io.images.lists import read_list

    images = take_images(args.image + (read_list(args.list) if args.list else []))
    if not images:
        args.parser.error("name an image with -i, or a list with --list")
    if args.centre is not None and len(images) > 1:
        args.parser.error("--centre goes with one image")
    return images


def plan_jobs(
    args: argparse.Namespace,
    images: list[Path],
    outputs: dict[str, Path],
    options: str,
    default: Sequence[str],
    complete: Callable[[dict[str, Path]], dict[str, Path]] = dict,
) -> list[Job]:
    """The job of one image with the outputs that are named, or those of all images with --out-dir.

    outputs: by kind. options: that name them, in words. default: kinds that are written to --out-dir. complete:
    adds outputs that stand beside others. A wrong command line ends the program. Raises InputError or OutputError
    if a file cannot be used.
    """
    if args.out_dir is None:
        return [_single_job(args, images, outputs, options, complete)]
    from ..batch.jobs import plan_folder
    from ..io.images.names import SUFFIXES

    if outputs:
        args.parser.error(
            f"{options.replace(' or ', ' and ')} name the outputs of one image; with --out-dir use --save"
        )
    if args.format and args.format not in SUFFIXES:
        args.parser.error(f"--format: choose from {', '.join(SUFFIXES)}")
    return plan_folder(images, args.out_dir, args.save or default, args.format, complete)


def _single_job(
    args: argparse.Namespace,
    images: list[Path],
    outputs: dict[str, Path],
    options: str,
    complete: Callable[[dict[str, Path]], dict[str, Path]],
) -> Job:
    """The job of one image, without --out-dir. Raises InputError if there is no such file."""
    from ..batch.jobs import Job
    from ..io.images.names import check_output
    from ..io.images.path import check_is_file
    from ..io.output import check_distinct, check_picture, check_writable

    if args.save or args.format or args.shard:
        args.parser.error("--save, --format and --shard go with --out-dir")
    if len(images) > 1:
        args.parser.error("several images need --out-dir")
    if not outputs:
        args.parser.error(f"name at least one output: {options}")
    outputs = complete(outputs)
    try:
        check_distinct(images + ([args.bval] if args.bval else []), outputs.values())
    except OutputError as error:
        args.parser.error(str(error))
    checks = {"picture": check_picture, "table": check_writable, "names": check_writable}
    for kind, path in outputs.items():
        checks.get(kind, check_output)(path)
    check_is_file(images[0])
    return Job(images[0], outputs, args.bval)


def chosen_part(args: argparse.Namespace) -> Shard | None:
    """The part of the images that --shard names; None for all. Raises InputError outside a job array."""
    return slurm_shard() if args.shard == "slurm" else args.shard


def deal_jobs(args: argparse.Namespace, jobs: list[Job], part: Shard | None) -> list[Job]:
    """The jobs of a part. Says so if there are none."""
    if part is None:
        return jobs
    mine = part.deal(jobs)
    if not mine and not args.quiet:
        tell(f"nothing for part {part} of {len(jobs)} images")
    return mine
