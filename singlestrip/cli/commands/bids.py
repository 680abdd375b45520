"""singlestrip bids: from a BIDS data set to its masks."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ...configuration import BIDS_SUFFIXES, FlagConfig
from ...errors import InputError
from ..image_jobs import add_b0_limit, chosen_b0_limit
from ..options import (
    add_memory,
    add_model,
    add_processor_options,
    add_quality_options,
    apply_threads,
    check_quality_options,
    chosen_flags,
    exit_status,
    input_folder,
    load_judging_networks,
    load_quality,
    millimetres,
    output_folder,
    show_stripping,
)
from .qc import show_assessments

if TYPE_CHECKING:
    from ...bids.layout import Derivative

LEVELS = ("participant", "group")
IMAGE_KINDS = "; ".join(f"{folder}/ {', '.join(names)}" for folder, names in BIDS_SUFFIXES.items())

DESCRIPTION = f"""brain masks for a BIDS data set
The participant level strips the head images of a raw BIDS data set and writes a derivative data set. It
has a mask for each image, SUB_..._desc-brain_mask.nii.gz, with a JSON file that names the image, the
model and the version. The images are: {IMAGE_KINDS}.

A 4-D image has one mask in 3-D, from the mean of all volumes, or of the b=0 volumes of a diffusion
image. A mask keeps the entities of its image. Unless the image is T1w, bold, dwi, magnitude1, asl or pet, the name
of the mask also has the image's suffix, as in sub-01_space-FLAIR_desc-brain_mask.nii.gz.

If a scan fails, the command reports it and goes on with the others.

The group level scores all masks of the derivative, as qc does, by the quality network of the same --model
or of --qc-model, and with the networks of --model looks at their images. It writes
OUTPUT_DIR/reports/quality.tsv and beside it index.html, a page to review the masks. It reports images
without a mask."""

SYNOPSIS = [
    "singlestrip bids BIDS_DIR OUTPUT_DIR participant [OPTIONS]",
    "singlestrip bids BIDS_DIR OUTPUT_DIR group [OPTIONS]",
]

EXAMPLES = """\
    singlestrip bids study study/derivatives/singlestrip participant
    singlestrip bids study masks participant --participant-label 01 02 --suffix T1w FLAIR --resume
    singlestrip bids study study/derivatives/singlestrip group"""

PARTICIPANT_ONLY = ("save", "resume", "border", "b0_limit", "qc", "memory")


def add_options(parser: argparse.ArgumentParser) -> None:
    files = parser.add_argument_group("FILES")
    files.add_argument("bids_dir", type=input_folder, metavar="BIDS_DIR", help="raw BIDS data set")
    files.add_argument(
        "output_dir",
        type=output_folder,
        metavar="OUTPUT_DIR",
        help="derivative data set to write, made if missing",
    )
    files.add_argument("level", choices=LEVELS, metavar="LEVEL", help="participant or group")
    files.add_argument(
        "--participant-label",
        nargs="+",
        action="extend",
        metavar="LABEL",
        help="only these participants, such as 01 (default: all)",
    )
    files.add_argument(
        "--session-label", nargs="+", action="extend", metavar="LABEL", help="only these sessions (default: all)"
    )
    files.add_argument(
        "--suffix",
        nargs="+",
        action="extend",
        metavar="SUFFIX",
        help="only images with these suffixes, such as T1w (default: all)",
    )
    files.add_argument(
        "--save",
        choices=("mask", "brain"),
        nargs="+",
        metavar="KIND",
        help="brain: also write images with the background filled, as desc-brain; masks are always written",
    )
    files.add_argument(
        "--resume",
        action="store_true",
        help="keep outputs that are there, whole, and made from this image with this model and border",
    )
    add_model(files)
    files.add_argument(
        "-b",
        "--border",
        type=millimetres,
        metavar="MM",
        help="move the masks' surface out by MM, or in if negative (default 0)",
    )
    add_b0_limit(files)
    add_quality_options(
        parser, "participant: print each mask's estimated Dice and flag, and write them to its JSON file"
    )
    add_processor_options(parser)
    add_memory(parser)


def run(args: argparse.Namespace) -> int:
    _check_level(args)
    flags = chosen_flags(args)
    from ...bids.layout import Derivative, find_images

    images = find_images(args.bids_dir, args.participant_label, args.session_label, args.suffix)
    if not images and args.level == "participant":
        raise InputError(f"{args.bids_dir}: no image to strip; choose other kinds with --suffix")
    derivative = Derivative(args.bids_dir, args.output_dir)
    apply_threads(args)
    return (_participant if args.level == "participant" else _group)(args, derivative, images, flags)


def _check_level(args: argparse.Namespace) -> None:
    """End the program if an option does not go with the level."""
    if args.level == "group":
        for name in PARTICIPANT_ONLY:
            if getattr(args, name) is not None and getattr(args, name) is not False:
                args.parser.error(f"--{name.replace('_', '-')} goes with the participant level")
    else:
        check_quality_options(args, "--qc, or the group level")


def _participant(args: argparse.Namespace, derivative: Derivative, images: list[Path], flags: FlagConfig) -> int:
    from ...batch.jobs import StripOptions
    from ...batch.records import made_with
    from ...bids.app import ParticipantOptions, participant_level
    from ...networks.model_files import find_model
    from ...stripping.stripper import Stripper

    path = find_model(args.model)
    quality = load_quality(args, path, flags) if args.qc else None
    made = made_with(path) | ({"BorderMM": args.border} if args.border else {})
    stripper = Stripper.load(path, args.device, args.engine)
    options = ParticipantOptions(
        made_with=made,
        strip=StripOptions(args.border or 0.0, memory_gib=args.memory, b0_limit=chosen_b0_limit(args)),
        brain="brain" in (args.save or ()),
        resume=args.resume,
        debug=args.debug,
    )
    done = show_stripping(args, len(images))
    return exit_status(participant_level(derivative, images, stripper, options, quality, done))


def _group(args: argparse.Namespace, derivative: Derivative, images: list[Path], flags: FlagConfig) -> int:
    from ...bids.app import group_level
    from ...networks.model_files import find_model

    quality = load_quality(args, None if args.model is None else find_model(args.model), flags)
    about = f"BIDS data set {args.bids_dir.resolve().name}. Quality model: {quality.name}."
    chosen = args.participant_label or args.session_label or args.suffix
    networks = load_judging_networks(args)
    assessments = group_level(derivative, images, quality, about, networks, others=not chosen, debug=args.debug)
    return show_assessments(args, assessments)
