"""singlestrip self-train: from one labelled scan and many unlabelled ones to a model."""

from __future__ import annotations

import argparse
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...configuration import (
    QualityPartTrainConfig,
    RoundTrainConfig,
    SelfTrainConfig,
    SynthConfig,
    TrainConfig,
    TransferConfig,
)
from ...self_training.plan import Inputs, Options
from ..options import (
    GRID_RULE,
    MASK_RULE,
    add_lesions,
    add_processor_options,
    add_trust_voxels,
    add_validation,
    apply_threads,
    input_file,
    input_list,
    mask_grids,
    model,
    not_negative,
    output_folder,
    positive_float,
    positive_int,
    seed,
    share,
    show_quality_training,
    show_training,
    shows_lines,
)
from .train import NO_INIT

log = logging.getLogger(__name__)
DEFAULTS = Options()
RANKS = ("estimate", "ae", "tta", "truth")

DESCRIPTION = f"""improve a model on unlabelled scans
Works in rounds. Each round strips all unlabelled images, scores the masks as qc does, and keeps the best
as pseudo-labels. It fits classes to these as fit-gmm does, and goes on training on synthetic images. Half
of them are made from the labelled example, the others from the pseudo-labels. Near the border of a
pseudo-label no loss is taken. A brain of unusual volume is no pseudo-label.

Then the model of the round is compared with the one before: by its mask of the labelled scan, on
synthetic images that no training has seen, and by how far the views of the networks agree on unlabelled
scans. A fifth of the scans, ten at most, are kept apart for this and never become pseudo-labels. If the
new model is worse, the one before stays, the command says why, and the run ends.

Before the first round, the command makes the first model from the labelled example as train does, unless
--model gives one. It makes the quality network as train does, unless --qc-model gives one or the file of
--model holds one. At the start it says how many steps, minutes and megabytes the run takes at most.

DIR holds the record of the run: for each round scores.tsv (every scan, whether it was kept, and why not),
the label maps kept, the model and its curve, and index.html, the outlines of the scans kept apart before
and after the round; run.json with configuration, seeds, versions, checksums and comparisons; index.html,
the page of the last round's masks; model.safetensors, for strip --model. --resume goes on with a run that
was stopped and gives the same result as without the stop. Scans that cannot be used are listed and left
out.

{MASK_RULE}

{GRID_RULE}"""

SYNOPSIS = ["singlestrip self-train -i IMAGE -m MASK --list LIST -o DIR [OPTIONS]"]

EXAMPLES = """\
    singlestrip self-train -i t1.nii.gz -m mask.nii.gz --list scans.txt -o run
    singlestrip self-train -i t1.nii.gz -m mask.nii.gz --list scans.txt -o run --resume
    singlestrip self-train -i t1.nii.gz -m mask.nii.gz --list new.txt --model mine -o run
    singlestrip self-train -i t1.nii.gz -m mask.nii.gz --list scans.txt --rank ae -o run"""


def add_options(parser: argparse.ArgumentParser) -> None:
    files = parser.add_argument_group("FILES")
    files.add_argument(
        "-i", "--image", type=input_file, required=True, metavar="IMAGE", help="labelled image, 3-D"
    )
    files.add_argument("-m", "--mask", type=input_file, required=True, metavar="MASK", help="its brain mask")
    files.add_argument(
        "--list",
        type=input_list,
        required=True,
        metavar="LIST",
        help="text file with the path of one unlabelled image per line",
    )
    files.add_argument("-o", "--out", type=output_folder, required=True, metavar="DIR", help="folder of the run")
    files.add_argument(
        "--model", type=model, metavar="FILE", help="model that the rounds begin with (default: train one)"
    )
    files.add_argument(
        "--init",
        type=model,
        metavar="MODEL",
        help="weights that the training of the first model begins with, or none (default: those that come with "
        "singlestrip)",
    )
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
        "--reference-list",
        type=input_list,
        metavar="LIST",
        help="true masks of the unlabelled images, in their order, for --rank truth",
    )
    add_lesions(files)
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
        help="lowest score of a pseudo-label (default: with estimate and ae that of the flag look, else none)",
    )
    rounds.add_argument(
        "--rank",
        choices=RANKS,
        help="score to rank by: estimate, the estimated Dice by the shape of the mask and the networks that made "
        "it; ae, the Dice of the mask and its reconstruction by the quality network; tta, the agreement of "
        f"augmented masks; truth, the Dice to --reference-list, for experiments (default {DEFAULTS.rounds.rank})",
    )
    rounds.add_argument(
        "--from-scratch",
        action="store_true",
        help="train new networks in each round (default: go on with those of the round before)",
    )
    rounds.add_argument(
        "--halves",
        action="store_true",
        help="let the rounds learn from two halves of the scans in turn: no model labels the scans that its "
        "round learned from",
    )
    rounds.add_argument(
        "--shapes",
        action="store_true",
        help="learn the shapes of the pseudo-labels alone: they deform the label map of the labelled example, and "
        "no border is learned from them",
    )
    rounds.add_argument(
        "--example-share",
        type=share,
        metavar="SHARE",
        help="share of the synthetic images that are made from the labelled example "
        f"(default {DEFAULTS.rounds.example_share:g})",
    )
    rounds.add_argument(
        "--spare-border",
        type=not_negative,
        metavar="VOXELS",
        help="take no loss within so many voxels of the border of a pseudo-label, 0 for none "
        f"(default {DEFAULTS.rounds.spared_voxels:g})",
    )
    rounds.add_argument(
        "--accept-worse",
        action="store_true",
        help="go on with the model of a round also if it is worse than the one before",
    )
    training = parser.add_argument_group("TRAINING OPTIONS")
    training.add_argument(
        "--steps", type=positive_int, metavar="N", help=f"updates of each round (default {DEFAULTS.later.steps})"
    )
    training.add_argument(
        "--first-steps",
        type=positive_int,
        metavar="N",
        help=f"updates of the first model, without --model (default {DEFAULTS.first.steps}; {TrainConfig.steps} "
        "with --init none)",
    )
    training.add_argument(
        "--epochs",
        type=positive_int,
        metavar="N",
        help=f"passes of the quality network's training, without --qc-model (default {DEFAULTS.quality.epochs})",
    )
    training.add_argument(
        "--batch", type=positive_int, metavar="N", help=f"images per step (default {DEFAULTS.first.batch})"
    )
    training.add_argument(
        "--lr",
        type=positive_float,
        metavar="RATE",
        help=f"highest learning rate (default {DEFAULTS.later.lr:g} in rounds, {TrainConfig.lr:g} with "
        f"--from-scratch; of the first model {DEFAULTS.first.lr:g}, {TrainConfig.lr:g} with --init none)",
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
    add_processor_options(parser, trains=True)


def run(args: argparse.Namespace) -> int:
    if args.model and args.first_steps:
        args.parser.error("--first-steps goes without --model")
    if args.model and args.init:
        args.parser.error("--init is about the training of a first model, which --model gives")
    if args.shapes and not args.example_share is args.spare_border is None:
        args.parser.error("--shapes learns from no label maps that --example-share and --spare-border are about")
    if args.qc_model and args.epochs:
        args.parser.error("--epochs goes without --qc-model")
    if (args.rank == "truth") != (args.reference_list is not None):
        args.parser.error("--rank truth and --reference-list go together")
    from ...io.images.lists import read_list, read_pair_list
    from ...networks.device import choose_training_device
    from ...networks.model_files import find_model
    from ...self_training.rounds import Listeners, SelfTraining
    from ...training.allocator import keep_memory

    apply_threads(args)
    keep_memory()
    inputs = Inputs(
        args.image,
        args.mask,
        tuple(read_list(args.list)),
        tuple(read_list(args.reference_list)) if args.reference_list else (),
        find_model(args.model) if args.model else None,
        _quality_file(args),
        tuple(tuple(pair) for pair in args.val),
        mask_grids(args),
        None if args.model or args.init == NO_INIT else find_model(args.init),
        tuple(read_pair_list(args.lesions)) if args.lesions else (),
    )
    listeners = Listeners(show_training, show_quality_training) if shows_lines(args) else Listeners()
    device = choose_training_device(args.device)
    options = _options(args, inputs.model)
    model = SelfTraining(args.out, inputs, options, device, args.resume, listeners).run()
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


def _options(args: argparse.Namespace, model_file: Path | None = None) -> Options:
    """The options of the run: the defaults, replaced if the command line says otherwise.

    model_file: of --model. Rounds synthesise images as its training did, or as that of the first model does.
    """

    def given(*names: str) -> dict[str, Any]:
        return {name: value for name in names if (value := getattr(args, name)) is not None}

    def synthesis(config: SynthConfig) -> SynthConfig:
        return config.with_lesions() if args.lesions else config

    common = given("batch", "lr", "seed", "save_every")
    first_steps = {} if args.first_steps is None else {"steps": args.first_steps}
    begun = TrainConfig if args.init == NO_INIT else TransferConfig
    first = begun(**common, **first_steps)
    first = replace(first, synth=synthesis(first.synth))
    anew = {"lr": TrainConfig.lr} if args.from_scratch else {}
    spared = {} if args.spare_border is None else {"spared_voxels": args.spare_border}
    return Options(
        rounds=SelfTrainConfig(
            from_scratch=args.from_scratch,
            halves=args.halves,
            shapes=args.shapes,
            accept_worse=args.accept_worse,
            **given("rounds", "keep", "threshold", "rank", "example_share"),
            **spared,
        ),
        first=first,
        later=RoundTrainConfig(**(anew | common | given("steps")), synth=synthesis(_synthesis(model_file, first))),
        quality=QualityPartTrainConfig(**given("epochs", "seed")),
    )


def _synthesis(model_file: Path | None, first: TrainConfig) -> SynthConfig:
    """The ranges of the synthesis in rounds."""
    if model_file is None:
        return first.synth
    from ...networks.model_header import CASCADE, read_header
    from ...self_training.plan import recorded_synthesis

    return recorded_synthesis(read_header(model_file, CASCADE).parts[CASCADE].stored["provenance"])
