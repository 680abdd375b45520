"""Types of options, options and lines of progress that several subcommands share."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ..batch.shards import Shard, parse_shard
from ..configuration import ENGINES, FlagConfig, MaskGridConfig
from ..io.text.escaping import printable
from ..threads import set_thread_limit
from .streams import show_progress, tell

if TYPE_CHECKING:  # their modules import torch
    from ..batch.pipeline import Outcome
    from ..quality.scores import MaskQuality, QualityModel
    from ..quality.training import QualityProgress
    from ..stripping.stripper import Stripper
    from ..training.trainer import Progress

Number = TypeVar("Number", int, float)
FLAGS = FlagConfig()
MASK_RULE = """A mask has 0 outside the brain and one value above 0 inside. A soft mask, such as probabilities or
percent, is cut at half its maximum. In an image of the brain alone, such as FreeSurfer's
brainmask.mgz, all voxels above 0 are brain. Uneven values that fade out at the edge are cut at 0.4 of
the level inside. A warning says which of these a file was taken for. Label maps and signed distances are
refused."""
GRID_RULE = """A mask lies on the grid of its image: the shape is the same, and corners are within a tenth of a
voxel. A warning tells of a difference of 0.01 mm or more. The geometry of the image counts.
--trust-voxels takes the voxels of a mask of the same shape as they lie, however far its header puts them
from the image; a warning says how far. Use it if the mask was drawn on the image and only the header is
wrong."""


def input_file(text: str) -> Path:
    """An argparse type: a file to read."""
    return Path(text)


def input_folder(text: str) -> Path:
    """An argparse type: a folder to read."""
    return Path(text)


def input_list(text: str) -> Path:
    """An argparse type: a text file to read, with the path of one image per line."""
    return Path(text)


def input_table(text: str) -> Path:
    """An argparse type: a TSV to read, with paths as seen from the working folder or from its own."""
    return Path(text)


def output_file(text: str) -> Path:
    """An argparse type: a file to write."""
    return Path(text)


def output_folder(text: str) -> Path:
    """An argparse type: a folder to write in, made if missing."""
    return Path(text)


def not_negative(text: str) -> float:
    """An argparse type: a finite number from 0."""
    value = finite_float(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is below 0")
    return value


def model(text: str) -> str:
    """An argparse type: a model file to read, or a model's name."""
    return text


def shard(text: str) -> Shard | str:
    """An argparse type: K/N, or "slurm", which stands for the variables of a job array."""
    try:
        return text if text == "slurm" else parse_shard(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"name a part and the number of parts, such as 2/8, or slurm, not {text!r}"
        ) from None


def _number(kind: type[Number], text: str, wanted: str) -> Number:
    """The number in a text. Raises ArgumentTypeError, which says what is wanted."""
    try:
        return kind(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{wanted}, not {text!r}") from None


def positive_int(text: str) -> int:
    """An argparse type: a whole number from 1."""
    value = _number(int, text, "a whole number, such as 1")
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return value


def seed(text: str) -> int:
    """An argparse type: a whole number that seeds generators."""
    value = _number(int, text, "a whole number, such as 1")
    if not 0 <= value < 2**32:
        raise argparse.ArgumentTypeError(f"{text} is not from 0 to {2**32 - 1}")
    return value


def positive_float(text: str) -> float:
    """An argparse type: a finite number above 0."""
    value = finite_float(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


def finite_float(text: str) -> float:
    """An argparse type: a finite number."""
    value = _number(float, text, "a number, such as 0.5")
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text} is not a finite number")
    return value


def millimetres(text: str) -> float:
    """An argparse type: a finite number of mm."""
    return finite_float(str(_number(float, text, "a number of millimetres, such as 1")))


def positive_millimetres(text: str) -> float:
    """An argparse type: a finite number of mm above 0."""
    return positive_float(str(millimetres(text)))


def share(text: str) -> float:
    """An argparse type: a number from 0 to 1."""
    value = finite_float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not from 0 to 1")
    return value


def add_flag_options(group: argparse._ArgumentGroup) -> None:
    """Add --pass-from and --look-from."""
    by_shape = {"pass": "none by shape alone", "look": f"{FLAGS.shape_look_from:g} by shape alone"}
    for name, default in (("pass", FLAGS.pass_from), ("look", FLAGS.look_from)):
        group.add_argument(
            f"--{name}-from",
            type=share,
            metavar="DICE",
            help=f"lowest estimate flagged {name} (default {default:g}, {by_shape[name]})",
        )


def check_quality_options(args: argparse.Namespace, condition: str = "--qc", doubt: bool | None = None) -> None:
    """End the program if an option of --qc is given without it.

    condition: what it goes with, in words. doubt: whether a map of doubt is asked for, which takes --qc-model too;
    None if the command makes none.
    """
    for name in ("qc_model", "pass_from", "look_from"):
        takes_doubt = name == "qc_model" and doubt is not None
        if getattr(args, name) is not None and not args.qc and not (takes_doubt and doubt):
            or_doubt = " or --doubt" if takes_doubt else ""
            args.parser.error(f"--{name.replace('_', '-')} goes with {condition}{or_doubt}")


def chosen_flags(args: argparse.Namespace) -> FlagConfig:
    """The thresholds of the flags. The default of --look-from is lowered to --pass-from if that is lower."""

    def pair(pass_from: float, look_from: float) -> tuple[float, float]:
        """The options, or these defaults."""
        highest = pass_from if args.pass_from is None else args.pass_from
        lowest = min(look_from, highest) if args.look_from is None else args.look_from
        if lowest > highest:
            args.parser.error("--look-from lies above --pass-from")
        return highest, lowest

    by_networks, by_shape = (
        pair(FLAGS.pass_from, FLAGS.look_from),
        pair(FLAGS.shape_pass_from, FLAGS.shape_look_from),
    )
    return FlagConfig(*by_networks, *by_shape)


def add_mask_outputs(group: argparse._ArgumentGroup) -> None:
    """Add the files of the mask and of the signed distance."""
    group.add_argument("-m", "--mask", type=output_file, metavar="FILE", help="brain mask, uint8, brain 1")
    group.add_argument(
        "-d",
        "--sdt",
        type=output_file,
        metavar="FILE",
        help="signed distance to the brain's surface in mm, negative inside, float32",
    )


def add_model(group: argparse._ArgumentGroup) -> None:
    """Add --model."""
    group.add_argument(
        "--model",
        type=model,
        metavar="FILE",
        help="model file, or name that singlestrip models lists (default: the weights that come with singlestrip)",
    )


def add_quality_model(group: argparse._ArgumentGroup) -> None:
    """Add --qc-model."""
    group.add_argument(
        "--qc-model",
        type=model,
        metavar="FILE",
        help="model file with a quality network, or name that singlestrip models lists (default: the quality "
        "network in the file of --model, or else the one that comes with singlestrip)",
    )


def load_quality(args: argparse.Namespace, model_file: Path | None, flags: FlagConfig) -> QualityModel:
    """The quality network of --qc-model, or else the one that goes with the file of --model, None if not given."""
    from ..quality.scores import QualityModel

    if args.qc_model is None and model_file is not None:
        return QualityModel.load_for(model_file, args.device, flags, args.engine)
    return QualityModel.load(args.qc_model, args.device, flags, args.engine)


def load_judging_networks(args: argparse.Namespace) -> Stripper | None:
    """The networks of --model, to look at the images of masks.

    None if --qc-model names another quality network and --model no networks: those that come with singlestrip may
    not know its anatomy.
    """
    from ..stripping.stripper import Stripper

    if args.model is None and args.qc_model is not None:
        return None
    return Stripper.load(args.model, args.device, args.engine)


def add_quality_options(parser: argparse.ArgumentParser, about: str) -> None:
    """Add --qc and the options that go with it. about: what --qc does in this command."""
    group = parser.add_argument_group("QUALITY OPTIONS")
    group.add_argument("--qc", action="store_true", help=about)
    add_quality_model(group)
    add_flag_options(group)


def add_memory(parser: argparse.ArgumentParser) -> None:
    """Add --memory."""
    parser.add_argument(
        "--memory",
        type=positive_float,
        metavar="GIB",
        help="refuse images that need more memory (default: what is free)",
    )


def add_validation(group: argparse._ArgumentGroup, text: str) -> None:
    """Add --val. text: its help."""
    group.add_argument(
        "--val", nargs=2, action="append", default=[], type=input_file, metavar=("IMAGE", "MASK"), help=text
    )


def add_lesions(group: argparse._ArgumentGroup) -> None:
    """Add --lesions."""
    group.add_argument(
        "--lesions",
        type=input_table,
        metavar="LIST",
        help="put lesions of these scans into synthetic images: text file with the paths of a scan and of its "
        "lesion mask per line, with a tab between them, as seen from the folder of the file",
    )


def add_trust_voxels(group: argparse._ArgumentGroup, what: str = "a mask") -> None:
    """Add --trust-voxels. what: whose header may be wrong."""
    group.add_argument(
        "--trust-voxels",
        action="store_true",
        help=f"take the voxels of {what} for those of its image if only the headers differ; see above",
    )


def mask_grids(args: argparse.Namespace) -> MaskGridConfig:
    """How far the grids of masks may lie from those of their images."""
    return MaskGridConfig(trust_voxels=args.trust_voxels)


def add_processor_options(parser: argparse.ArgumentParser, trains: bool = False) -> None:
    """Add --device, --gpu and --threads, and --engine unless the command trains networks: only torch does that."""
    names = ["auto", "cpu", "cuda", "cuda:N", *([] if trains else ["mps"])]
    group = parser.add_argument_group("PROCESSOR OPTIONS")
    group.add_argument(
        "--device",
        default="auto",
        metavar="NAME",
        help=f"{', '.join(names)} (default auto: a CUDA GPU if any)",
    )
    group.add_argument(
        "-g",
        "--gpu",
        dest="device",
        action="store_const",
        const="cuda",
        help="run on the GPU, as --device cuda does; an error if there is none",
    )
    group.add_argument(
        "-t", "--threads", type=positive_int, metavar="N", help="processor threads (default: one per core)"
    )
    if not trains:
        group.add_argument(
            "--engine",
            choices=ENGINES,
            default=ENGINES[0],
            help="library that runs the networks; auto takes OpenVINO on a processor and torch on a GPU",
        )


def apply_threads(args: argparse.Namespace) -> None:
    """Limit the threads of this process as --threads says."""
    if args.threads:
        set_thread_limit(args.threads)


def shows_lines(args: argparse.Namespace) -> bool:
    """Whether to show lines of progress: not with --quiet, and only on a terminal."""
    return not args.quiet and sys.stderr.isatty()


def show_outcomes(args: argparse.Namespace, total: int) -> Callable[[Outcome[Any]], None]:
    """The function that is called after the work on each of `total` images, to show its outcome."""
    shows_progress = total > 1 and shows_lines(args)

    def done(outcome: Outcome[Any]) -> None:
        if outcome.failed:
            tell(outcome.text)
        elif shows_progress:
            count = f"{outcome.number}/{total}"
            show_progress(f"{count} {outcome.job.image}: {outcome.text}, {outcome.seconds:.1f} s", keep=True)

    return done


def show_stripping(args: argparse.Namespace, total: int) -> Callable[[Outcome[MaskQuality]], None]:
    """As `show_outcomes`, of masks, whose quality is printed if they were assessed."""
    show = show_outcomes(args, total)

    def done(outcome: Outcome[MaskQuality]) -> None:
        show(outcome)
        if outcome.measured is not None and not args.quiet:
            quality = outcome.measured
            text = f"{outcome.job.image}: {quality.flag}, estimated Dice {quality.estimated_dice:.3f}"
            print(printable(text), flush=True)

    return done


def exit_status(outcomes: Sequence[Outcome[Any]]) -> int:
    """1 if a scan failed, else 0. If there are several scans, list those that failed once more."""
    failures = [outcome.job for outcome in outcomes if outcome.failed]
    if failures and len(outcomes) > 1:
        tell(f"{len(failures)} of {len(outcomes)} images failed:")
        for job in failures:
            tell(f"  {job.image}")
    return 1 if failures else 0


def show_training(progress: Progress) -> None:
    """Show on one line where a training run stands. The line stays if it has a validation Dice."""
    text = f"step {progress.step}/{progress.steps}"
    text += "".join(f", {name} loss {loss:.3f}" for name, loss in progress.losses.items())
    text += f", {progress.steps_per_second:.2f} steps/s, {progress.seconds_left / 60:.0f} min left"
    if progress.dice is not None:
        text += f", validation Dice {progress.dice:.4f}"
    show_progress(text, keep=progress.dice is not None or progress.step == progress.steps)


def show_calibration(done: int, images: int) -> None:
    """Show on one line where a calibration stands."""
    show_progress(f"calibration: image {done}/{images}", keep=done == images)


def show_quality_training(progress: QualityProgress) -> None:
    """Show on one line where the training of a quality network stands."""
    text = f"quality network: epoch {progress.epoch}/{progress.epochs}, loss {progress.loss:.3f}"
    text += f", {progress.seconds_left / 60:.0f} min left"
    show_progress(text, keep=progress.epoch == progress.epochs)
