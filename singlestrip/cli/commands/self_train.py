"""singlestrip self-train: from one labelled scan and many unlabelled ones to a model."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any

from ...configuration import AutoencoderTrainConfig, RoundTrainConfig, SelfTrainConfig, TrainConfig
from ...self_training.plan import Inputs, Options
from ..options import (
    GRID_RULE,
    MASK_RULE,
    add_processor_options,
    add_trust_voxels,
    add_validation,
    apply_threads,
    input_file,
    input_list,
    mask_grids,
    model,
    output_folder,
    positive_float,
    positive_int,
    seed,
    show_quality_training,
    show_training,
    shows_lines,
)

log = logging.getLogger(__name__)
DEFAULTS = Options()
RANKS = ("ae", "tta", "truth")

DESCRIPTION = f"""improve a model on unlabelled scans
Works in rounds. Each round strips all unlabelled images, scores the masks as qc does, and keeps the best
as pseudo-labels. It fits classes to these as fit-gmm does, and goes on training on images synthesised
from the label maps of the labelled example and of the pseudo-labels, each drawn equally often.

Before the first round, the command makes the first model from the labelled example unless --model gives
one, and the quality model unless --qc-model gives one or the file of --model holds one.

DIR holds the record of the run: for each round scores.tsv (every scan, whether it was kept, and why not),
the label maps kept, the model and its curve; run.json with configuration, seeds, versions and checksums;
index.html, the page of the last round's masks; model.safetensors, for strip --model. --resume goes on
with a run that was stopped and gives the same result as without the stop. Scans that cannot be used are
listed and left out.

{MASK_RULE}

{GRID_RULE}"""

SYNOPSIS = ["singlestrip self-train -i IMAGE -m MASK --unlabelled LIST -o DIR [OPTIONS]"]

EXAMPLES = """\
    singlestrip self-train -i t1.nii.gz -m mask.nii.gz --unlabelled scans.txt -o run
    singlestrip self-train -i t1.nii.gz -m mask.nii.gz --unlabelled scans.txt -o run --resume
    singlestrip self-train -i t1.nii.gz -m mask.nii.gz --unlabelled new.txt --model mine -o run"""


def add_options(parser: argparse.ArgumentParser) -> None:
    files = parser.add_argument_group("FILES")
    files.add_argument(
        "-i", "--image", type=input_file, required=True, metavar="IMAGE", help="labelled image, 3-D"
    )
    files.add_argument("-m", "--mask", type=input_file, required=True, metavar="MASK", help="its brain mask")
    files.add_argument(
        "--unlabelled",
        type=input_list,
        required=True,
        metavar="LIST",
        help="text file with the path of one unlabelled image per line",
    )
    files.add_argument("-o", "--out", type=output_folder, required=True, metavar="DIR", help="folder of the run")
    files.add_argument("--model", type=model, metavar="FILE", help="model to begin with (default: train one)")
    files.add_argument(
        "--qc-model",
        type=model,
        metavar="FILE",
        help="quality model (default: that in the file of --model, or else train one)",
    )
    add_validation(
        files, "image and mask to score after each round; the model of the best round is kept; may be repeated"
    )
    files.add_argument(
        "--references",
        type=input_list,
        metavar="LIST",
        help="true masks of the unlabelled images, in their order, for --rank truth",
    )
    add_trust_voxels(files)
    files.add_argument("--resume", action="store_true", help="go on with the run in DIR")
    rounds = parser.add_argument_group("ROUND OPTIONS")
    rounds.add_argument(
        "--rounds", type=positive_int, metavar="N", help=f"rounds (default {DEFAULTS.rounds.rounds})"
    )
    rounds.add_argument(
        "--keep",
        type=positive_int,
        metavar="N",
        help=f"highest number of pseudo-labels of a round (default {DEFAULTS.rounds.keep})",
    )
    rounds.add_argument(
        "--threshold",
        type=positive_float,
        metavar="SCORE",
        help="lowest score of a pseudo-label (default: with ae that of the flag look, otherwise none)",
    )
    rounds.add_argument(
        "--rank",
        choices=RANKS,
        help="score to rank by: ae, the quality model's estimated Dice; tta, the agreement of augmented masks; "
        "truth, the Dice to --references, for experiments (default ae)",
    )
    rounds.add_argument(
        "--from-scratch",
        action="store_true",
        help="train new networks in each round (default: go on with those of the round before)",
    )
    training = parser.add_argument_group("TRAINING OPTIONS")
    training.add_argument(
        "--steps", type=positive_int, metavar="N", help=f"updates of each round (default {DEFAULTS.later.steps})"
    )
    training.add_argument(
        "--first-steps",
        type=positive_int,
        metavar="N",
        help=f"updates of the first model, without --model (default {DEFAULTS.first.steps})",
    )
    training.add_argument(
        "--epochs",
        type=positive_int,
        metavar="N",
        help=f"passes of the quality model's training, without --qc-model (default {DEFAULTS.quality.epochs})",
    )
    training.add_argument(
        "--batch", type=positive_int, metavar="N", help=f"images per step (default {DEFAULTS.first.batch})"
    )
    training.add_argument(
        "--lr", type=positive_float, metavar="RATE", help=f"highest learning rate (default {DEFAULTS.first.lr:g})"
    )
    training.add_argument(
        "--seed", type=seed, metavar="N", help=f"same seed, same run (default {DEFAULTS.first.seed})"
    )
    training.add_argument(
        "--save-every",
        type=positive_int,
        metavar="N",
        help=f"steps between checkpoints (default {DEFAULTS.first.save_every})",
    )
    add_processor_options(parser)


def run(args: argparse.Namespace) -> int:
    if args.model and args.first_steps:
        args.parser.error("--first-steps goes without --model")
    if args.qc_model and args.epochs:
        args.parser.error("--epochs goes without --qc-model")
    if (args.rank == "truth") != (args.references is not None):
        args.parser.error("--rank truth and --references go together")
    from ...io.images.lists import read_list
    from ...networks.device import choose_device
    from ...networks.model_files import find_model
    from ...self_training.rounds import Listeners, SelfTraining
    from ...training.allocator import keep_memory

    apply_threads(args)
    keep_memory()
    inputs = Inputs(
        args.image,
        args.mask,
        tuple(read_list(args.unlabelled)),
        tuple(read_list(args.references)) if args.references else (),
        find_model(args.model) if args.model else None,
        _quality_file(args),
        tuple(tuple(pair) for pair in args.val),
        mask_grids(args),
    )
    listeners = Listeners(show_training, show_quality_training) if shows_lines(args) else Listeners()
    device = choose_device(args.device)
    model = SelfTraining(args.out, inputs, _options(args), device, args.resume, listeners).run()
    log.info("the model is %s", model)
    return 0


def _quality_file(args: argparse.Namespace) -> Path | None:
    """The file of the quality network that is given; None to train one, as --epochs asks for."""
    from ...networks.model_files import find_model
    from ...networks.model_header import AUTOENCODER, CASCADE, read_header

    if args.qc_model:
        return find_model(args.qc_model, AUTOENCODER.shipped)
    if not args.model or args.epochs:
        return None
    path = find_model(args.model)
    return path if AUTOENCODER in read_header(path, CASCADE).parts else None


def _options(args: argparse.Namespace) -> Options:
    """The options of the run: the defaults, replaced if the command line says otherwise."""

    def given(*names: str) -> dict[str, Any]:
        return {name: value for name in names if (value := getattr(args, name)) is not None}

    common = given("batch", "lr", "seed", "save_every")
    first = common if args.first_steps is None else common | {"steps": args.first_steps}
    return Options(
        rounds=SelfTrainConfig(from_scratch=args.from_scratch, **given("rounds", "keep", "threshold", "rank")),
        first=TrainConfig(**first),
        later=RoundTrainConfig(**common, **given("steps")),
        quality=AutoencoderTrainConfig(**given("epochs", "seed")),
    )
