"""singlestrip train-qc: from one brain mask to a quality model."""

from __future__ import annotations

import argparse
from typing import Literal

from ...configuration import AutoencoderTrainConfig
from ..options import (
    MASK_RULE,
    add_processor_options,
    apply_threads,
    input_file,
    output_file,
    positive_int,
    seed,
    show_quality_training,
    shows_lines,
)

TRAIN, AXES = AutoencoderTrainConfig(), ("sagittal", "coronal", "axial")
KINDS: tuple[Literal["volume", "slices"], ...] = ("volume", "slices")

DESCRIPTION = f"""train a quality model from one brain mask
Trains a network that rebuilds masks without their faults, on one brain mask and on typical faults that are
planted in it. qc --qc-model uses it to estimate the Dice of masks of the same anatomy, without images.

train makes such a network too, beside those that strip, and puts it into the same file. The estimates of
both have their own level: score masks that are known to be good, and set --pass-from and --look-from of qc
accordingly.

Beside MODEL lie NAME.checkpoint, from which --resume continues exactly where the training stopped,
NAME.metrics.csv and NAME.curve.png. A first SIGINT or SIGTERM writes the checkpoint and stops.

{MASK_RULE}"""

SYNOPSIS = ["singlestrip train-qc -m MASK -o MODEL [OPTIONS]"]

EXAMPLES = """\
    singlestrip train-qc -m mouse-mask.nii.gz -o mouse-quality.safetensors
    singlestrip train-qc -m mouse-mask.nii.gz -o mouse-quality.safetensors --epochs 800 --resume"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of train-qc."""
    files = parser.add_argument_group("FILES")
    files.add_argument("-m", "--mask", type=input_file, required=True, metavar="MASK", help="brain mask")
    files.add_argument(
        "-o", "--out", type=output_file, required=True, metavar="MODEL", help="model to write, .safetensors"
    )
    files.add_argument(
        "--resume",
        action="store_true",
        help="continue the training whose checkpoint lies beside MODEL, if there is one",
    )
    training = parser.add_argument_group("TRAINING OPTIONS")
    training.add_argument(
        "--epochs",
        type=positive_int,
        default=TRAIN.epochs,
        metavar="N",
        help=f"passes of training (default {TRAIN.epochs})",
    )
    training.add_argument(
        "--kind",
        choices=KINDS,
        default=KINDS[0],
        help="volume: a network that sees whole masks; slices: the published network (default volume)",
    )
    training.add_argument(
        "--axes",
        nargs="+",
        choices=AXES,
        metavar="AXIS",
        help="sagittal, coronal, axial: the slices of --kind slices (default axial)",
    )
    training.add_argument(
        "--seed",
        type=seed,
        default=TRAIN.seed,
        metavar="N",
        help=f"same seed, same model (default {TRAIN.seed})",
    )
    add_processor_options(parser, trains=True)


def run(args: argparse.Namespace) -> int:
    """Train a quality model as the command line says; returns the exit status."""
    if args.out.suffix != ".safetensors":
        args.parser.error("name the model with .safetensors")
    if args.axes and args.kind != "slices":
        args.parser.error("--axes goes with --kind slices")
    from ...io.images.pairs import check_exist
    from ...io.output import check_distinct
    from ...training.run_files import RunFiles

    files = RunFiles(args.out)
    files.check(args.resume)
    check_distinct([args.mask], files.all)
    check_exist([args.mask])
    from ...networks.device import choose_training_device
    from ...quality.training import QualityRecipe, train_quality

    apply_threads(args)
    device = choose_training_device(args.device)
    axes = tuple(AXES.index(name) for name in args.axes or ["axial"])
    recipe = QualityRecipe(AutoencoderTrainConfig(epochs=args.epochs, seed=args.seed), args.kind, axes)
    progress = show_quality_training if shows_lines(args) else lambda progress: None
    train_quality(args.mask, args.out, recipe, device, resume=args.resume, progress=progress)
    return 0
