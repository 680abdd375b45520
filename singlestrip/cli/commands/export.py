"""singlestrip export: the networks of a model for programs that run them without Python."""

from __future__ import annotations

import argparse

from ..options import model, output_folder

DESCRIPTION = """write the networks of a model as ONNX files
Writes two or three files into the folder, each a plain network from "image" to "logit":

locator.onnx sees the whole head at a large voxel size, [1, 1, X, Y, Z], and finds the brain. segmenter.onnx
sees a window of fixed size around it and draws its border. quality.onnx, the quality network of the same
anatomy, rebuilds a mask as a brain would be; it is there if the model has one.

Browsers, C++, 3D Slicer, napari and others run them with ONNX Runtime (docs/elsewhere.md). The page in
docs/try takes them in place of the adult model.

The metadata of each file hold, as JSON: "configuration" (voxel size, sizes of the windows, classes),
"stripping" (all numbers of the method), "anatomy", "card" with the scores and limits, "licence" and
"provenance"; "model_sha256" is the checksum of the model file, the same in files that belong together.

Weights of 16 bits stay in 16 bits; the arithmetic has 32. This needs the library onnx
(pip install 'singlestrip[export]'), and no torch."""

SYNOPSIS = ["singlestrip export MODEL -o DIR [OPTIONS]"]

EXAMPLES = """\
    singlestrip export singlestrip -o adult
    singlestrip export mouse.safetensors -o mouse-onnx"""


def add_options(parser: argparse.ArgumentParser) -> None:
    files = parser.add_argument_group("FILES")
    files.add_argument(
        "model", type=model, metavar="MODEL", help="model file, or name that singlestrip models lists"
    )
    files.add_argument(
        "-o",
        "--out",
        type=output_folder,
        required=True,
        metavar="DIR",
        help="folder to write into; made if it is missing",
    )


def run(args: argparse.Namespace) -> int:
    from ...networks.model_files import find_model
    from ...networks.onnx_export import export_model

    export_model(find_model(args.model), args.out)
    return 0
