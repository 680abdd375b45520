"""singlestrip calibrate-qc: from one labelled scan to how a quality network estimates Dice."""

from __future__ import annotations

import argparse
from dataclasses import replace

from ...configuration import CaseConfig
from ..options import (
    GRID_RULE,
    MASK_RULE,
    add_processor_options,
    add_trust_voxels,
    apply_threads,
    input_file,
    mask_grids,
    model,
    output_file,
    positive_int,
    seed,
    show_calibration,
    shows_lines,
)

CASES = CaseConfig()

DESCRIPTION = f"""fit how a quality network estimates Dice to one labelled scan
Draws synthetic images of the scan, masks of all qualities, and what can be seen of them. Fits how these become
an estimate of Dice, and writes what it learned into the model file. qc then uses it.

The networks that look at the images are those of the same file, or else of --model.

{MASK_RULE}

{GRID_RULE}"""

SYNOPSIS = ["singlestrip calibrate-qc -i IMAGE -m MASK --qc-model MODEL [OPTIONS]"]

EXAMPLES = """\
    singlestrip calibrate-qc -i mouse.nii.gz -m mouse-mask.nii.gz --qc-model mouse.safetensors"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of calibrate-qc."""
    files = parser.add_argument_group("FILES")
    files.add_argument(
        "-i", "--image", type=input_file, required=True, metavar="IMAGE", help="labelled image, 3-D"
    )
    files.add_argument("-m", "--mask", type=input_file, required=True, metavar="MASK", help="its brain mask")
    add_trust_voxels(files, "the mask")
    files.add_argument(
        "--qc-model",
        type=output_file,
        required=True,
        metavar="MODEL",
        help="model file with the quality network, which is written again",
    )
    files.add_argument(
        "--model",
        type=model,
        metavar="FILE",
        help="model whose networks look at the images, if MODEL has none (default: the weights that come with "
        "singlestrip)",
    )
    fit = parser.add_argument_group("FIT OPTIONS")
    fit.add_argument(
        "--images",
        type=positive_int,
        default=CASES.images,
        metavar="N",
        help=f"synthetic images (default {CASES.images})",
    )
    fit.add_argument(
        "--seed", type=seed, default=CASES.seed, metavar="N", help=f"same seed, same fit (default {CASES.seed})"
    )
    add_processor_options(parser, trains=True)


def run(args: argparse.Namespace) -> int:
    """Fit the estimate as the command line says; returns the exit status."""
    from ...io.images.pairs import check_exist
    from ...io.output import check_distinct, check_writable

    check_distinct([args.image, args.mask], [args.qc_model])
    check_exist([args.image, args.mask, args.qc_model])
    check_writable(args.qc_model)
    from ...networks.checkpoint import load_model
    from ...networks.device import choose_training_device
    from ...networks.model_files import find_model
    from ...networks.model_header import CASCADE, read_header
    from ...quality.calibration import calibrate, label_map_of

    apply_threads(args)
    has_networks = CASCADE in read_header(args.qc_model).parts
    if has_networks and args.model is not None:
        args.parser.error("--model does not go with a file of --qc-model that has networks of its own")
    path = args.qc_model if has_networks else find_model(args.model)
    networks, _ = load_model(path, choose_training_device(args.device))
    label_map, labelled = label_map_of(args.image, args.mask, grids=mask_grids(args))
    cases = replace(CASES, seed=args.seed, images=args.images)
    progress = show_calibration if shows_lines(args) else lambda done, images: None
    told = {"labelled": labelled, "networks": path.name}
    calibrate(args.qc_model, label_map, networks, told, cases, device=args.device, progress=progress)
    return 0
