"""An algorithm of MRtrix3's dwi2mask: strips the mean of the b=0 volumes with singlestrip.

It lies in python/mrtrix3/commands/dwi2mask of MRtrix3 3.1; ALGORITHMS of __init__.py there has its name. dwi2mask
writes the mean as bzero.nii, calls `execute`, and takes the mask by the name that it returns.
"""

import shutil

from mrtrix3 import MRtrixError, app, run

NEEDS_MEAN_BZERO = True
PROGRAM = "singlestrip"
MASK = "singlestrip_mask.nii"
STRIPPED = "stripped.nii"


def usage(base_parser, subparsers):
    """Describe the algorithm and its options."""
    parser = subparsers.add_parser("singlestrip", parents=[base_parser])
    parser.set_author("singlestrip developers")
    parser.set_synopsis("Use singlestrip on the mean b=0 image")
    parser.add_description("This algorithm needs the program singlestrip, which is found through PATH.")
    parser.add_citation(
        "B. Specktor-Fadida, M. Hoffmann. SingleStrip: learning skull-stripping from a single labeled example. "
        "arXiv 2508.10464, 2025",
        is_external=True,
    )
    parser.add_argument("input", type=app.Parser.ImageIn(), help="The input DWI series")
    parser.add_argument("output", type=app.Parser.ImageOut(), help="The output mask image")
    options = parser.add_argument_group("Options specific to the 'singlestrip' algorithm")
    options.add_argument("-stripped", type=app.Parser.ImageOut(), help="The output stripped image")
    options.add_argument("-gpu", action="store_true", default=None, help="Use the GPU")
    options.add_argument("-model", type=app.Parser.FileIn(), help="Alternative model weights")
    options.add_argument("-border", type=app.Parser.Float(), help="Move the border of the mask outwards, in mm")


def execute():
    """Strip bzero.nii. Returns the name of the mask."""
    if not shutil.which(PROGRAM):
        raise MRtrixError(f'Unable to locate the program "{PROGRAM}"; please check its installation')
    command = [PROGRAM, "strip", "-i", "bzero.nii", "-m", MASK]
    if app.ARGS.stripped:
        command += ["-o", STRIPPED]
    if app.ARGS.gpu:
        command += ["--device", "cuda"]
    if app.ARGS.model:
        command += ["--model", str(app.ARGS.model)]
    if app.ARGS.border is not None:
        command += [f"--border={app.ARGS.border}"]
    run.command(command)
    if app.ARGS.stripped:
        run.command(
            ["mrconvert", STRIPPED, app.ARGS.stripped],
            mrconvert_keyval=app.ARGS.input,
            preserve_pipes=True,
            force=app.FORCE_OVERWRITE,
        )
    return MASK
