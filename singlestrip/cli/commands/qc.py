"""singlestrip qc: how far masks can be trusted, and a page to look at."""

from __future__ import annotations

import argparse

from ...configuration import AutoencoderTrainConfig, FlagConfig
from ...io.text.escaping import printable
from ..options import (
    MASK_RULE,
    add_flag_options,
    add_processor_options,
    add_quality_model,
    apply_threads,
    chosen_flags,
    input_file,
    input_table,
    model,
    output_file,
    output_folder,
    positive_int,
    seed,
    show_quality_training,
    shows_lines,
)
from ..streams import clear_progress, show_progress, tell

FLAGS, TRAIN, AXES = FlagConfig(), AutoencoderTrainConfig(), ("sagittal", "coronal", "axial")
KINDS = ("volume", "slices")

DESCRIPTION = f"""say how far brain masks can be trusted
Scores masks with no truth at hand. A network that knows one brain mask and how masks go wrong
rebuilds each mask as it should be; the Dice of the two estimates the mask's own. Masks of
{FLAGS.pass_from:g} and above get the flag pass, from {FLAGS.look_from:g} on look, others fail: thresholds
measured on real predictions (docs/benchmarks.md). Even a perfect mask gets but 0.90 to 0.93, and
a well-shaped mask in the wrong place is not found out. Prints a line a mask, worst first.

--report makes a page that needs neither network nor server: pictures with the outlines of mask and
reconstruction, to sort, filter, search, rate and annotate, with the keyboard too.

--table takes tables that strip --qc wrote, too: masks are scored again, and scans without a mask keep
the note that says why.

With an image, --tta strips ten copies of it, turned within 30 degrees and scaled in intensity within
20 %: how well they agree, and how well the mask agrees with their median. With a reference, the
true Dice and HD95 stand beside the estimate.

--train makes a quality model from one brain mask, for another anatomy. Its estimates have a level of
their own: score masks known to be good, and set --pass-from and --look-from by what they get. Beside the
model lie NAME.checkpoint, from which --resume continues exactly where the training stopped,
NAME.metrics.csv and NAME.curve.png. A first SIGINT or SIGTERM writes the checkpoint and stops.

Of a mask of several frames, as strip makes of 4-D images, each frame is scored and the worst counts:
its number, from 0 on, is in the column frame. Its picture, --tta and --reference are of the same
frame, of an image and a reference of as many frames or of one.

{MASK_RULE}"""

SYNOPSIS = [
    "singlestrip qc -m MASK [MASK ...] [-i IMAGE [IMAGE ...]] [-o TABLE] [--report DIR] [OPTIONS]",
    "singlestrip qc --table FILE [FILE ...] [-o TABLE] [--report DIR] [OPTIONS]",
    "singlestrip qc --train MODEL -m MASK [OPTIONS]",
]

EXAMPLES = """\
    singlestrip qc -m mask.nii.gz
    singlestrip qc -m masks/*_mask.nii.gz -i scans/*.nii.gz -o quality.tsv --report report
    singlestrip qc -m mask.nii.gz -i t1.nii.gz --tta -o quality.json
    singlestrip qc --train mouse-quality.safetensors -m mouse-mask.nii.gz
    singlestrip qc --qc-model mouse-quality.safetensors -m other-mouse-mask.nii.gz"""


def add_options(parser: argparse.ArgumentParser) -> None:
    def paths(group, *names: str, metavar: str, help: str) -> None:
        group.add_argument(
            *names, nargs="+", action="extend", default=[], metavar=metavar, type=input_file, help=help
        )

    files = parser.add_argument_group("FILES")
    paths(files, "-m", "--mask", metavar="MASK", help="brain mask to score")
    paths(files, "-i", "--image", metavar="IMAGE", help="image of each mask, in the same order")
    paths(files, "--reference", metavar="MASK", help="true mask of each mask, in the same order")
    files.add_argument(
        "--table",
        nargs="+",
        action="extend",
        type=input_table,
        metavar="FILE",
        help="TSV with columns mask, image, reference, in place of the above; several are gathered",
    )
    files.add_argument("-o", "--out", type=output_file, metavar="TABLE", help="scores to write, .tsv or .json")
    files.add_argument(
        "--report", type=output_folder, metavar="DIR", help="folder of the page to write, made if missing"
    )
    add_quality_model(files)
    scores = parser.add_argument_group("SCORE OPTIONS")
    add_flag_options(scores)
    scores.add_argument("--tta", action="store_true", help="also score by test-time augmentation; needs images")
    scores.add_argument(
        "--model",
        type=model,
        metavar="FILE",
        help="model that strips for --tta (default: the weights that come with it)",
    )
    scores.add_argument("--seed", type=seed, metavar="N", help="of --tta and --train (default 0)")
    training = parser.add_argument_group("TRAINING OPTIONS")
    training.add_argument(
        "--train", type=output_file, metavar="MODEL", help="train a quality model from the one mask, .safetensors"
    )
    training.add_argument(
        "--resume",
        action="store_true",
        help="continue the training whose checkpoint lies beside MODEL, if there is one",
    )
    training.add_argument(
        "--epochs", type=positive_int, metavar="N", help=f"passes of training (default {TRAIN.epochs})"
    )
    training.add_argument(
        "--kind",
        choices=KINDS,
        help="volume: sees masks whole and mends faults; slices: the published network (default volume)",
    )
    training.add_argument(
        "--axes",
        nargs="+",
        choices=AXES,
        metavar="AXIS",
        help="sagittal, coronal, axial, for slices (default axial)",
    )
    add_processor_options(parser)


def run(args: argparse.Namespace) -> int:
    if args.train is not None:
        return _train(args)
    for name in ("epochs", "kind", "axes", "resume"):
        if getattr(args, name):
            args.parser.error(f"--{name} goes with --train")
    if args.tta and not (args.image or args.table):
        args.parser.error("--tta needs the image of each mask, -i")
    if not args.tta and (args.model is not None or args.seed is not None):
        args.parser.error("--model and --seed go with --tta")
    flags = chosen_flags(args)
    cases = _cases(args)
    from ...batch.assess import Assessor, assess_files
    from ...batch.quality_table import check_table, write_table
    from ...batch.report import write_report
    from ...io.output import make_folder
    from ...quality.scores import QualityModel
    from ...stripping.stripper import Stripper

    if args.report is not None:
        make_folder(args.report)
    if args.out is not None:
        check_table(args.out)
    apply_threads(args)
    assessor = Assessor(
        QualityModel.load(args.qc_model, args.device, flags),
        Stripper.load(args.model, args.device) if args.tta else None,
        args.seed or 0,
        args.report,
    )
    progress = len(cases) > 1 and shows_lines(args)

    def done(number: int, assessment) -> None:
        if progress:
            show_progress(f"{number}/{len(cases)} {assessment.case.mask.name}")

    assessments = assess_files(assessor, cases, done, args.debug)
    clear_progress()
    if args.out is not None:
        write_table(args.out, assessments)
    if args.report is not None:
        about = f"Quality model: {args.qc_model or 'shipped'}. {len(assessments)} masks."
        write_report(args.report, assessments, args.report.resolve().name, about)
    if not args.quiet:
        print(listing(assessments))
    unread = [a for a in assessments if a.note]
    for assessment in unread:
        tell(assessment.note)
    return 1 if unread else 0


def _cases(args: argparse.Namespace):
    from ...batch.assessment import Case
    from ...batch.quality_table import read_table
    from ...io.images.volume import merge_pairs, without_repeats
    from ...io.output import check_distinct

    if args.table is not None:
        if args.mask or args.image or args.reference:
            args.parser.error("--table stands in place of -m, -i and --reference")
        cases = [case for table in args.table for case in read_table(table)]
    else:
        if not args.mask:
            args.parser.error("name a mask with -m, or a table with --table")
        for name in ("mask", "image", "reference"):
            setattr(args, name, merge_pairs(getattr(args, name)))
        for name in ("image", "reference"):
            given = getattr(args, name)
            if given and len(given) != len(args.mask):
                args.parser.error(f"{len(args.mask)} masks and {len(given)} with --{name}: give one a mask")
        images, references = (given or [None] * len(args.mask) for given in (args.image, args.reference))
        cases = [Case(*paths) for paths in zip(args.mask, images, references, strict=True)]
    cases = without_repeats(cases, lambda case: (case.mask, case.image, case.reference))
    if args.out is not None:
        inputs = {path for case in cases for path in (case.mask, case.image, case.reference)}
        inputs.update(args.table or [])
        check_distinct(inputs - {None}, [args.out])
    return cases


def listing(assessments) -> str:
    """A line a mask, worst first."""
    names = [printable(a.case.name) for a in assessments]
    wide = max(map(len, names))
    lines = []
    for name, a in zip(names, assessments, strict=True):
        if a.note:
            lines.append(f"{name:<{wide}}  fail  could not be scored")
            continue
        text = f"{name:<{wide}}  {a.flag}  estimated Dice {a.estimated_dice:.3f}"
        text += f" (frame {a.values['frame']})" if "frame" in a.values else ""
        text += "".join(
            f", {title} {a.values[column]:.3f}"
            for column, title in (("tta_dice", "TTA Dice"), ("dice", "true Dice"))
            if column in a.values
        )
        lines.append(f"{text}, {a.values['volume_ml']:.0f} ml")
    return "\n".join(lines)


def _train(args: argparse.Namespace) -> int:
    if len(args.mask) != 1 or args.table is not None:
        args.parser.error("--train takes one mask, -m")
    for name in ("image", "reference", "out", "report", "qc_model", "model", "tta", "pass_from", "look_from"):
        if getattr(args, name):
            args.parser.error(f"--{name.replace('_', '-')} does not go with --train")
    if args.train.suffix != ".safetensors":
        args.parser.error("name the model with .safetensors")
    if args.axes and args.kind != "slices":
        args.parser.error("--axes goes with --kind slices")
    from ...io.images.pairs import check_exist
    from ...io.output import check_distinct
    from ...training.run_files import RunFiles

    files = RunFiles(args.train)
    files.check(args.resume)
    check_distinct(args.mask, files.all)
    check_exist(args.mask)
    from ...networks.device import choose_device
    from ...quality.training import QualityRecipe, train_quality

    apply_threads(args)
    device = choose_device(args.device)
    axes = tuple(AXES.index(name) for name in args.axes or ["axial"])
    train = AutoencoderTrainConfig(epochs=args.epochs or TRAIN.epochs, seed=args.seed or 0)
    progress = show_quality_training if shows_lines(args) else lambda progress: None
    recipe = QualityRecipe(train, args.kind or KINDS[0], axes)
    train_quality(args.mask[0], args.train, recipe, device, resume=args.resume, progress=progress)
    return 0
