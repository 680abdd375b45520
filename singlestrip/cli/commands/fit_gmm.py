"""singlestrip fit-gmm: from an image and its brain mask to a label map of GMM classes."""

from __future__ import annotations

import argparse

from ..options import (
    GRID_RULE,
    MASK_RULE,
    add_trust_voxels,
    input_file,
    mask_grids,
    output_file,
    positive_int,
    seed,
)

DESCRIPTION = f"""fit Gaussian mixtures to a labelled scan
Fits one mixture to the intensities inside the brain mask and one to those outside. Writes the most
probable class of each voxel: the label map from which train synthesises images. Labels 1, 2, ... are the
classes outside, labels 101, 102, ... those inside, so that all labels above 100 are brain. The classes of
each side are sorted by mean intensity.

A JSON file beside the output, with the same name, holds the mean, standard deviation, weight and number
of voxels of each class, the seed and the versions used.

{MASK_RULE}

{GRID_RULE}"""

SYNOPSIS = ["singlestrip fit-gmm -i IMAGE -m MASK -o LABELS [OPTIONS]"]

EXAMPLES = """\
    singlestrip fit-gmm -i t1.nii.gz -m mask.nii.gz -o labels.nii.gz
    singlestrip fit-gmm -i t1.mgz -m mask.mgz -o labels.mgz --inside 8 --picture labels.png"""


def add_options(parser: argparse.ArgumentParser) -> None:
    from ...configuration import GMMConfig

    default = GMMConfig()
    files = parser.add_argument_group("FILES")
    files.add_argument(
        "-i", "--image", type=input_file, required=True, metavar="IMAGE", help="the labelled image, 3-D"
    )
    files.add_argument(
        "-m",
        "--mask",
        type=input_file,
        required=True,
        metavar="MASK",
        help="its brain mask on the same grid",
    )
    add_trust_voxels(files, "the mask")
    files.add_argument("-o", "--out", type=output_file, required=True, metavar="LABELS", help="label map, uint8")
    files.add_argument(
        "-p", "--picture", type=output_file, metavar="FILE", help="picture of the label map beside the image"
    )
    fit = parser.add_argument_group("FIT OPTIONS")
    fit.add_argument(
        "--inside",
        type=positive_int,
        default=default.inside,
        metavar="N",
        help=f"classes inside the mask (default {default.inside})",
    )
    fit.add_argument(
        "--outside",
        type=positive_int,
        default=default.outside,
        metavar="N",
        help=f"classes outside the mask (default {default.outside})",
    )
    fit.add_argument(
        "--seed",
        type=seed,
        default=default.seed,
        metavar="N",
        help=f"same seed, same classes (default {default.seed})",
    )


def run(args: argparse.Namespace) -> int:
    from ...configuration import GMMConfig
    from ...synthesis.labelling import fit_files

    config = GMMConfig(args.inside, args.outside, args.seed)
    fit_files(args.image, args.mask, args.out, config, args.picture, mask_grids(args))
    return 0
