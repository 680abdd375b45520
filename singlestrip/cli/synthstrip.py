"""mri_singlestrip: the command line of SynthStrip's mri_synthstrip, carried out by `singlestrip strip`.

The options are those that the help of mri_synthstrip 1.8 lists. nipreps-synthstrip calls the number of threads
-n, --num-threads.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ..configuration import SynthStripConfig
from .main import main as run_command
from .options import add_mask_outputs, finite_float, input_file, millimetres, model, output_file, positive_int
from .parser import ManualParser
from .streams import tell

WEIGHTS_SUFFIX = ".pt"  # of SynthStrip's weights
DEFAULTS = SynthStripConfig()

DESCRIPTION = f"""take the skull off a head image, with the command line of SynthStrip
Takes the options of mri_synthstrip, with its defaults, and runs singlestrip strip. Scripts work if they call
mri_singlestrip in place of mri_synthstrip, synthstrip-docker or synthstrip-singularity.

The masks are those of singlestrip. Its networks have other weights, so that a border of 1 mm is not quite that
of SynthStrip.

Defaults differ from those of singlestrip strip: the border is {DEFAULTS.border_mm:g} mm, not 0, and the networks
run on the processor, also if there is a GPU. Nothing is printed unless something is unusual. singlestrip strip
has more options, and takes many images at once. Options in brackets behind an error are those of strip."""

SYNOPSIS = ["mri_singlestrip -i FILE [-o FILE] [-m FILE] [-d FILE] [OPTIONS]"]

EXAMPLES = """\
    mri_singlestrip -i t1.nii.gz -o brain.nii.gz -m mask.nii.gz
    mri_singlestrip -i t1.mgz -m mask.mgz -d sdt.mgz -b 0
    mri_singlestrip -i t2.nii.gz -o brain.nii.gz --no-csf -g"""


def build_parser() -> ManualParser:
    """The parser of SynthStrip's command line. As there, options may be abbreviated."""
    parser = ManualParser(
        "mri_singlestrip", synopsis=SYNOPSIS, description=DESCRIPTION, examples=EXAMPLES, allow_abbrev=True
    )
    files = parser.add_argument_group("FILES")
    files.add_argument(
        "-i", "--image", type=input_file, required=True, metavar="FILE", help="image to strip, 3-D or 4-D"
    )
    files.add_argument(
        "-o", "--out", type=output_file, metavar="FILE", help="image with the background filled, of its type"
    )
    add_mask_outputs(files)
    files.add_argument(
        "--model",
        type=model,
        metavar="FILE",
        help="model of singlestrip, by file or name; weights of SynthStrip cannot be used",
    )
    choices = parser.add_argument_group("MASK OPTIONS")
    choices.add_argument(
        "-b",
        "--border",
        type=millimetres,
        default=DEFAULTS.border_mm,
        metavar="MM",
        help=f"move the mask's surface out by MM, or in if negative (default {DEFAULTS.border_mm:g})",
    )
    choices.add_argument(
        "--no-csf",
        action="store_true",
        help="leave out the fluid around the brain; needs a model that tells it apart",
    )
    choices.add_argument(
        "-f",
        "--fill",
        type=finite_float,
        metavar="VALUE",
        help="background of --out (default: the image's minimum, or 0 if that is lower)",
    )
    processor = parser.add_argument_group("PROCESSOR OPTIONS")
    processor.add_argument(
        "-g", "--gpu", action="store_true", help="run on the GPU, an error if there is none (default: processor)"
    )
    processor.add_argument(
        "-t",
        "--threads",
        "-n",
        "--num-threads",
        type=positive_int,
        metavar="N",
        help="processor threads (default: one per core)",
    )
    processor.add_argument("--debug", action="store_true", help="show where an error came from")
    return parser


def strip_arguments(args: argparse.Namespace) -> list[str]:
    """The command line of `singlestrip` that does what one of SynthStrip's asks for."""
    values = {
        "image": args.image,
        "out": args.out,
        "mask": args.mask,
        "sdt": args.sdt,
        "model": args.model,
        "border": args.border,
        "fill": args.fill,
        "threads": args.threads,
        "device": "cuda" if args.gpu else DEFAULTS.device,
    }
    switches = [f"--{name.replace('_', '-')}" for name in ("no_csf", "debug") if getattr(args, name)]
    # Joined by "=": a value may begin with a dash.
    return ["strip", *(f"--{name}={value}" for name, value in values.items() if value is not None), *switches]


def main(arguments: Sequence[str] | None = None) -> int:
    """Strip as a command line of SynthStrip's says; returns the exit status.

    Without `arguments`, take those of the process. A wrong command line ends the program.
    """
    parser = build_parser()
    args = parser.parse_args(sys.argv[1:] if arguments is None else arguments)
    if args.out is None and args.mask is None and args.sdt is None:
        parser.error("name at least one output: -o, -m or -d")
    if args.model is not None and Path(args.model).suffix == WEIGHTS_SUFFIX:
        tell(f"{args.model}: weights of SynthStrip, which these networks cannot use; leave out --model")
        return 1
    return run_command(strip_arguments(args))
