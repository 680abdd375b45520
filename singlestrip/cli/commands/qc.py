"""singlestrip qc: the estimated quality of masks, and a page to review them."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING

from ...configuration import FlagConfig
from ...io.text.escaping import printable
from ..advice import describer_with_options
from ..image_jobs import add_bvalues, add_centre, check_bvalues, chosen_b0_limit
from ..options import (
    GRID_RULE,
    MASK_RULE,
    add_flag_options,
    add_processor_options,
    add_quality_model,
    add_trust_voxels,
    apply_threads,
    chosen_flags,
    input_file,
    input_table,
    load_judging_networks,
    load_quality,
    mask_grids,
    model,
    output_file,
    output_folder,
    seed,
    shows_lines,
)
from ..streams import clear_progress, show_progress, tell

if TYPE_CHECKING:
    from ...batch.assessment import Assessment, Case
    from ...quality.scores import QualityModel

FLAGS = FlagConfig()

DESCRIPTION = f"""say how far brain masks can be trusted
Estimates the Dice of masks and true masks, without a reference. Prints one line per mask, worst first.

With -i the networks of --model, or those that come with singlestrip, strip each image. The estimate is made
of how far the mask differs from theirs, and of how sure they are of their own: whether their views agree,
and whether their mask has the shape of a brain. A mask gets the flag pass from {FLAGS.pass_from:g} on, look from
{FLAGS.look_from:g} on, otherwise fail. A mask much larger or smaller than any brain that the model is for
fails, and so does one that fills its image or lies in the dark.

Without -i, or with --qc-model but no --model, the estimate is the Dice of a mask and its reconstruction: a
network trained on one brain mask and on typical faults rebuilds the mask without its faults. Even a perfect
mask gets only 0.90 to 0.93, and a mask of good shape may lie in the wrong place. No mask passes by its shape
alone; it gets look from {FLAGS.shape_look_from:g} on.

The thresholds were measured on real predictions (docs/benchmarks.md). Each row says what the mask was judged
by: mask; image; model, which is all three.

--doubt writes a map of where the mask may be wrong: in each voxel the share of votes against the mask. Each
view that the networks were shown has a vote, and so has the mask as the quality network rebuilds it.

--report writes a page to sort, filter, search, rate and annotate the masks, with pictures that show the
outlines of mask and reconstruction, and the doubt where it is largest. It needs neither network nor server.

--table also takes tables that strip --qc wrote. It scores the masks again; scans without a mask keep the
note that says why.

--tta strips ten copies of each image, turned within 30 degrees and scaled in intensity within 20 %. It
reports how well their masks agree, and how well the given mask agrees with their median. With
--reference, the true Dice and HD95 stand beside the estimate.

A model that train made holds a quality network for its anatomy: name its file with --model. train-qc makes
a quality model of its own from one brain mask: name it with --qc-model. The estimates of both have their
own level: score masks that are known to be good, and set --pass-from and --look-from accordingly.
calibrate-qc fits how a quality network estimates Dice to one labelled scan.

If a mask has several frames, as strip makes of 4-D images, each frame is scored and the worst counts.
The column frame has its number, from 0 on. Picture, --tta and --reference use the same frame; image and
reference have as many frames, or one. One mask of several frames is judged by their mean, and --tta strips
copies of the mean; with --bval it is that of the b=0 frames.

{MASK_RULE}

{GRID_RULE}"""

SYNOPSIS = [
    "singlestrip qc -m MASK [MASK ...] [-i IMAGE [IMAGE ...]] [-o TABLE] [--report DIR] [OPTIONS]",
    "singlestrip qc --table FILE [FILE ...] [-o TABLE] [--report DIR] [OPTIONS]",
]

EXAMPLES = """\
    singlestrip qc -m mask.nii.gz
    singlestrip qc -m masks/*_mask.nii.gz -i scans/*.nii.gz -o quality.tsv --report report
    singlestrip qc -m mask.nii.gz -i t1.nii.gz --doubt doubt.nii.gz
    singlestrip qc -m mask.nii.gz -i t1.nii.gz --tta -o quality.json
    singlestrip qc --qc-model mouse-quality.safetensors -m other-mouse-mask.nii.gz
    singlestrip qc --model mouse.safetensors -m other-mouse-mask.nii.gz"""


def add_options(parser: argparse.ArgumentParser) -> None:
    def paths(group: argparse._ArgumentGroup, *names: str, metavar: str, help: str) -> None:
        group.add_argument(
            *names, nargs="+", action="extend", default=[], metavar=metavar, type=input_file, help=help
        )

    files = parser.add_argument_group("FILES")
    paths(files, "-m", "--mask", metavar="MASK", help="brain mask to score")
    paths(files, "-i", "--image", metavar="IMAGE", help="image of each mask, in the same order")
    paths(files, "--reference", metavar="MASK", help="true mask for each mask, in the same order")
    files.add_argument(
        "--table",
        nargs="+",
        action="extend",
        type=input_table,
        metavar="FILE",
        help="TSV with columns mask, image, reference, in place of the options above; several are joined",
    )
    add_trust_voxels(files)
    files.add_argument("-o", "--out", type=output_file, metavar="TABLE", help="scores to write, .tsv or .json")
    files.add_argument(
        "--doubt",
        type=output_file,
        metavar="FILE",
        help="map of how far shape and networks speak against the one MASK, from 0 to 1, float32",
    )
    files.add_argument("--report", type=output_folder, metavar="DIR", help="folder for the page, made if missing")
    add_quality_model(files)
    scores = parser.add_argument_group("SCORE OPTIONS")
    add_flag_options(scores)
    scores.add_argument(
        "--tta", action="store_true", help="also score by test-time augmentation; needs the images"
    )
    scores.add_argument(
        "--model",
        type=model,
        metavar="FILE",
        help="model whose quality network scores, and whose networks look at the images and strip for --tta "
        "(default: the weights that come with singlestrip)",
    )
    scores.add_argument("--seed", type=seed, metavar="N", help="seed of --tta (default 0)")
    add_centre(scores)
    add_bvalues(scores, "its one mask is judged")
    add_processor_options(parser)


def run(args: argparse.Namespace) -> int:
    _check_options(args)
    flags = chosen_flags(args)
    cases = _cases(args)
    from ...batch.quality_table import check_table, write_table
    from ...batch.report import write_report
    from ...io.images.volume import check_output
    from ...io.output import make_folder

    if args.report is not None:
        make_folder(args.report)
    if args.out is not None:
        check_table(args.out)
    if args.doubt is not None:
        check_output(args.doubt)
    apply_threads(args)
    from ...networks.model_files import find_model

    quality = load_quality(args, None if args.model is None else find_model(args.model), flags)
    assessments = _assess(args, cases, quality)
    if args.out is not None:
        write_table(args.out, assessments)
    if args.report is not None:
        about = f"Quality model: {quality.name}. {len(assessments)} masks."
        write_report(args.report, assessments, args.report.resolve().name, about)
    return show_assessments(args, assessments)


def _check_options(args: argparse.Namespace) -> None:
    """End the program if options do not go together when masks are scored."""
    if args.tta and not (args.image or args.table):
        args.parser.error("--tta needs the image of each mask, -i")
    check_bvalues(args)
    for name in ("bval", "centre"):
        if getattr(args, name) is not None and not (args.image or args.table):
            args.parser.error(f"--{name} is about the image of the mask: name it with -i")
    if not args.tta and args.seed is not None:
        args.parser.error("--seed goes with --tta")
    if not (args.image or args.table) and args.model is not None and args.qc_model is not None:
        args.parser.error("--model beside --qc-model needs the image of each mask, -i")


def _cases(args: argparse.Namespace) -> list[Case]:
    """The masks to score, from --table or from -m, -i and --reference, each once."""
    from ...batch.quality_table import read_table
    from ...io.images.volume import without_repeats
    from ...io.output import check_distinct

    if args.table is None:
        cases = _named_cases(args)
    elif args.mask or args.image or args.reference:
        args.parser.error("--table stands in place of -m, -i and --reference")
    else:
        cases = [case for table in args.table for case in read_table(table)]
    cases = without_repeats(cases, lambda case: (case.mask, case.image, case.reference))
    for name in ("doubt", "bval", "centre"):
        if getattr(args, name) is not None and len(cases) != 1:
            args.parser.error(f"--{name} goes with one mask")
    paths = {path for case in cases for path in (case.mask, case.image, case.reference) if path is not None}
    paths |= {args.bval} if args.bval else set()
    check_distinct(paths.union(args.table or ()), [path for path in (args.out, args.doubt) if path is not None])
    return cases


def _named_cases(args: argparse.Namespace) -> list[Case]:
    """The masks of -m, with their images and references if there are any."""
    from ...batch.assessment import Case
    from ...io.images.volume import merge_pairs

    if not args.mask:
        args.parser.error("name a mask with -m, or a table with --table")
    masks, images, references = (merge_pairs(paths) for paths in (args.mask, args.image, args.reference))
    for name, paths in (("image", images), ("reference", references)):
        if paths and len(paths) != len(masks):
            args.parser.error(f"{len(masks)} masks and {len(paths)} with --{name}: give one a mask")
    return [Case(*paths) for paths in zip_longest(masks, images, references)]


def _assess(args: argparse.Namespace, cases: list[Case], quality: QualityModel) -> list[Assessment]:
    """Score the masks, worst first, and draw their pictures for the page if there is one."""
    from ...batch.assess import Assessor, assess_files
    from ...stripping.stripper import Stripper

    networks = load_judging_networks(args) if any(case.image is not None for case in cases) else None
    augmenter = (networks or Stripper.load(args.model, args.device, args.engine)) if args.tta else None
    assessor = Assessor(
        quality,
        networks,
        augmenter,
        args.seed or 0,
        args.report,
        mask_grids(args),
        args.doubt,
        args.bval,
        chosen_b0_limit(args),
        args.centre,
    )
    shows_progress = len(cases) > 1 and shows_lines(args)

    def done(number: int, assessment: Assessment) -> None:
        if shows_progress:
            show_progress(f"{number}/{len(cases)} {assessment.case.mask.name}")

    assessments = assess_files(assessor, cases, done, args.debug, describer_with_options(args))
    clear_progress()
    return assessments


def show_assessments(args: argparse.Namespace, assessments: Sequence[Assessment]) -> int:
    """Print one line per mask and tell why masks could not be scored. Returns the exit status."""
    if not args.quiet:
        print("\n".join(_assessment_lines(assessments)))
    notes = [assessment.note for assessment in assessments if assessment.note]
    for note in notes:
        tell(note)
    return 1 if notes else 0


def _assessment_lines(assessments: Sequence[Assessment]) -> Iterator[str]:
    """One line per mask: name, flag, estimated Dice with interval and evidence, other Dice if known, volume, and
    the gravest reason against it."""
    names = [printable(assessment.case.name) for assessment in assessments]
    width = max(map(len, names))
    for name, assessment in zip(names, assessments, strict=True):
        if assessment.note:
            yield f"{name:<{width}}  fail  could not be scored"
            continue
        values = assessment.values
        text = f"{name:<{width}}  {assessment.flag}  estimated Dice {assessment.estimated_dice:.3f}"
        interval = "" if assessment.interval is None else "{:.3f} to {:.3f} ".format(*assessment.interval)
        frame = f", frame {values['frame']}" if "frame" in values else ""
        text += f" ({interval}by {assessment.evidence}{frame})"
        for column, title in (("tta_dice", "TTA Dice"), ("dice", "true Dice")):
            text += f", {title} {values[column]:.3f}" if column in values else ""
        reason = f": {printable(assessment.reasons[0])}" if assessment.reasons else ""
        yield f"{text}, {values['volume_ml']:.0f} ml{reason}"
