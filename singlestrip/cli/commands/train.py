"""singlestrip train: from labelled scans to a model."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...configuration import GMMConfig, QualityPartTrainConfig, TrainConfig
from ...errors import InputError
from ..options import (
    MASK_RULE,
    add_processor_options,
    add_validation,
    apply_threads,
    input_file,
    model,
    output_file,
    positive_float,
    positive_int,
    positive_millimetres,
    seed,
    show_quality_training,
    show_training,
    shows_lines,
)

if TYPE_CHECKING:
    import torch

    from ...configuration import CascadeConfig
    from ...networks.cascade import Cascade
    from ...quality.training import QualityTask
    from ...synthesis.gmm import NativeMap
    from ...training.cascade import TrainingData

DESCRIPTION = f"""train a model from one labelled scan, or several
Makes a label map of each scan as fit-gmm does, or takes the label maps given with -l. Synthesises images
of random shape, contrast and quality from the label maps, and trains the two networks that strip uses:
one finds the brain in the whole scan, the other draws its border. The networks never learn from the scan
itself. After the training the scan sets the exact border, so that its predicted mask has the volume of
its own. With -l there is no scan, and this step is left out.

Then a quality network for the same anatomy is trained on the first mask, or on the brain of the first
label map, and put into the model file. strip --qc and qc --model use it. --no-quality leaves it out. The
file also has the volumes of the labelled brains, by which strip remarks on brains of another size.

Beside the model lie NAME.checkpoint, from which --resume continues exactly where the run stopped,
NAME.metrics.csv and NAME.curve.png. The quality network has such files too: NAME.quality.checkpoint,
NAME.quality.metrics.csv and NAME.quality.curve.png. A first SIGINT or SIGTERM writes the checkpoint and
stops. While the quality network learns, the model file is there without it.

{MASK_RULE}

On several devices: torchrun --nproc-per-node N -m singlestrip train ..."""

SYNOPSIS = [
    "singlestrip train -i IMAGE [IMAGE ...] -m MASK [MASK ...] -o MODEL [OPTIONS]",
    "singlestrip train -l LABELS [LABELS ...] -o MODEL [OPTIONS]",
]

EXAMPLES = """\
    singlestrip train -i t1.nii.gz -m mask.nii.gz -o my-anatomy.safetensors
    singlestrip train -i t1.nii.gz -m mask.nii.gz -o my-anatomy.safetensors --steps 20000 --resume
    singlestrip train -i ct.nii.gz -m mask.nii.gz -o ct.safetensors --init singlestrip --steps 2000
    singlestrip train -i t1.nii.gz -m mask.nii.gz --samples sheet.png"""

# Training options that are fields of the one dataclass that holds their defaults.
NUMBERS = {
    "steps": (positive_int, "N", "updates of the weights"),
    "batch": (positive_int, "N", "images per step and device"),
    "lr": (positive_float, "RATE", "highest learning rate"),
    "seed": (seed, "N", "same seed, same run"),
    "validate_every": (positive_int, "N", "steps between validations"),
    "save_every": (positive_int, "N", "steps between checkpoints"),
}


def add_options(parser: argparse.ArgumentParser) -> None:
    files = parser.add_argument_group("FILES")
    files.add_argument(
        "-i",
        "--image",
        nargs="+",
        action="extend",
        default=[],
        type=input_file,
        metavar="IMAGE",
        help="labelled image, 3-D",
    )
    files.add_argument(
        "-m",
        "--mask",
        nargs="+",
        action="extend",
        default=[],
        type=input_file,
        metavar="MASK",
        help="brain mask of each image, in the same order",
    )
    files.add_argument(
        "-l",
        "--labels",
        nargs="+",
        action="extend",
        default=[],
        type=input_file,
        metavar="LABELS",
        help="label maps from fit-gmm, instead of or beside images with masks",
    )
    files.add_argument("-o", "--out", type=output_file, metavar="MODEL", help="model to write, .safetensors")
    add_validation(files, "image and mask to score during training; the best weights are kept; may be repeated")
    files.add_argument(
        "--init", type=model, metavar="MODEL", help="start from the weights of this model, and take its voxel size"
    )
    files.add_argument(
        "--resume",
        action="store_true",
        help="continue the run whose checkpoint lies beside MODEL, if there is one",
    )
    files.add_argument(
        "--samples",
        type=output_file,
        metavar="FILE",
        help="write a picture of 16 synthetic images; train only if -o is given too",
    )
    group = parser.add_argument_group("TRAINING OPTIONS")
    for name, (kind, metavar, text) in NUMBERS.items():
        group.add_argument(
            f"--{name.replace('_', '-')}",
            type=kind,
            metavar=metavar,
            default=None,
            help=f"{text} (default {getattr(TrainConfig(), name):g})",
        )
    group.add_argument(
        "--amp",
        choices=("auto", "on", "off"),
        default=None,
        help="train in bfloat16: auto, on or off (default auto: if the processor supports it)",
    )
    group.add_argument(
        "--voxel-size",
        type=positive_millimetres,
        metavar="MM",
        help="voxel size of the finer network (default: 2 mm for an adult brain, others in proportion)",
    )
    group.add_argument("--no-quality", action="store_true", help="train no quality network")
    group.add_argument(
        "--norm",
        choices=("instance", "none"),
        default=None,
        help="normalisation layers: instance or none (default instance)",
    )
    add_processor_options(parser)


def run(args: argparse.Namespace) -> int:
    if len(args.image) != len(args.mask):
        args.parser.error(f"{len(args.image)} images and {len(args.mask)} masks: give one mask per image")
    if not args.image and not args.labels:
        args.parser.error("name a labelled scan with -i and -m, or a label map with -l")
    if args.out is None and args.samples is None:
        args.parser.error("name the model to write with -o, or a picture with --samples")
    if args.out is not None and args.out.suffix != ".safetensors":
        args.parser.error("name the model with .safetensors")
    if args.init and (args.voxel_size or args.norm):
        args.parser.error("--voxel-size and --norm come with the weights of --init")
    _check_files(args)
    _check_checkpoint(args)
    init, header = _initial_networks(args.init)
    from ...synthesis.labelling import labelled_scan, read_label_map

    validation = [labelled_scan(*pair) for pair in args.val]
    given = [read_label_map(path) for path in args.labels]
    from ...networks.device import choose_device
    from ...training.allocator import keep_memory
    from ...training.fitting import check_memory

    apply_threads(args)
    keep_memory()
    device = choose_device(args.device)
    chosen = {name: value for name in (*NUMBERS, "amp") if (value := getattr(args, name)) is not None}
    config = TrainConfig(**chosen)
    outlines = [*map(_outline, args.mask), *given]
    cascade = init.config if init is not None else _fitting_networks(args, outlines)
    check_memory(outlines, cascade, config, device)
    data = replace(_training_data(args, given), init=init, validation=validation)
    if init is not None:
        data.provenance["init"] = {"name": Path(args.init).name, "provenance": header["provenance"]}
    quality = None if args.no_quality or args.out is None else _quality_task(args, data, config, device)
    device = _join_processes(device)
    if args.samples:
        _sample_sheet(data.maps, cascade, config, device, args.samples)
    if args.out is not None:
        is_first = _train(args, data, cascade, config, device)
        if quality is not None and is_first:
            _train_quality(args, quality)
    return 0


def _train(
    args: argparse.Namespace, data: TrainingData, cascade: CascadeConfig, config: TrainConfig, device: torch.device
) -> bool:
    """Train; at the end, also after an error, leave the group of processes.

    Returns whether this process is the first of the group, which writes all files.
    """
    import torch

    from ...training.cascade import train_cascade
    from ...training.processes import process_number

    progress = show_training if shows_lines(args) else lambda progress: None
    try:
        train_cascade(data, args.out, cascade, config, device=device, resume=args.resume, progress=progress)
        return process_number() == 0
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def _quality_task(
    args: argparse.Namespace, data: TrainingData, config: TrainConfig, device: torch.device
) -> QualityTask:
    """What trains the quality network on the brain of the first label map.

    It is built before the cascade is trained, so that a mask with nothing to learn from is told at once. Raises
    InputError.
    """
    from ...errors import errors_named
    from ...quality.training import quality_part_task
    from ...space.scan import Scan
    from ...synthesis.gmm import is_inside

    first = data.maps[0]
    mask = Scan(is_inside(first.labels), first.vox2world)
    provenance = {"labelled": data.provenance["labelled"][:1]}
    with errors_named((args.mask or args.labels)[0]):
        try:
            return quality_part_task(mask, provenance, QualityPartTrainConfig(seed=config.seed), device)
        except InputError as error:
            raise InputError(f"{error}; --no-quality trains without a quality network") from error


def _train_quality(args: argparse.Namespace, task: QualityTask) -> None:
    """Train the quality network and put it into the model file."""
    from ...quality.training import train_quality_part

    progress = show_quality_training if shows_lines(args) else lambda progress: None
    train_quality_part(task, args.out, resume=args.resume, progress=progress)


def _check_checkpoint(args: argparse.Namespace) -> None:
    """Raise ModelError if a checkpoint beside the model is damaged: before classes are fitted."""
    from ...networks.autoencoder import Autoencoder
    from ...networks.cascade import Cascade
    from ...training.run_files import QUALITY_PART, RunFiles
    from ...training.state import read_state

    if args.out is None:
        return
    if (path := RunFiles(args.out).checkpoint).exists():
        read_state(path, Cascade)
    if not args.no_quality and (path := RunFiles(args.out, QUALITY_PART).checkpoint).exists():
        read_state(path, Autoencoder)


def _initial_networks(name: str | None) -> tuple[Cascade | None, dict[str, Any]]:
    """The model to begin with and its header; without a name None, and an empty header."""
    from ...networks.checkpoint import find_model, load_model

    return load_model(find_model(name)) if name else (None, {})


def _fitting_networks(args: argparse.Namespace, outlines: list[NativeMap]) -> CascadeConfig:
    """The sizes of networks for the brains of label maps, with the chosen voxel size and normalisation."""
    from ...configuration import UNetConfig
    from ...training.fitting import fitting_cascade

    return fitting_cascade(outlines, args.voxel_size, args.norm or UNetConfig.norm)


def _check_files(args: argparse.Namespace) -> None:
    """Raise InputError or OutputError where a file is missing or cannot be written: before any work is done."""
    from ...io.images.pairs import check_exist
    from ...io.output import check_distinct, check_writable
    from ...io.pictures import figures
    from ...training.run_files import QUALITY_PART, RunFiles

    inputs = [*args.image, *args.mask, *args.labels, *(path for pair in args.val for path in pair)]
    outputs: list[Path] = []
    if args.out is not None:
        files = RunFiles(args.out)
        files.check(args.resume)
        outputs += files.all
        if not args.no_quality:
            quality_files = RunFiles(args.out, QUALITY_PART)
            quality_files.check(args.resume)
            outputs += quality_files.beside
    if args.samples is not None:
        figures.check_picture(args.samples)
        check_writable(args.samples)
        outputs.append(args.samples)
    check_distinct(inputs, outputs)
    check_exist(inputs)


def _outline(mask_path: Path) -> NativeMap:
    """A label map with one class on each side of a mask: the sizes of networks and maps depend on nothing else."""
    import numpy as np

    from ...configuration import INSIDE_BASE
    from ...io.images.masks import read_mask
    from ...synthesis.gmm import NativeMap

    scan, mask = read_mask(mask_path)
    if not mask.any():
        raise InputError(f"{mask_path}: the brain mask is empty")
    return NativeMap(mask * np.uint8(INSIDE_BASE) + np.uint8(1), scan.vox2world)


def _training_data(args: argparse.Namespace, given: list[NativeMap]) -> TrainingData:
    """Label maps fitted to the labelled scans, label maps given with -l, and their provenance."""
    from ...io.checksum import checksum
    from ...synthesis.labelling import labelled_example
    from ...training.cascade import TrainingData
    from ...training.fitting import labelled_anatomy

    gmm = GMMConfig()
    maps, scans, sources = [], [], []
    for image_path, mask_path in zip(args.image, args.mask, strict=True):
        example, scan = labelled_example(image_path, mask_path, gmm)
        maps.append(example)
        scans.append(scan)
        named = {"image": image_path, "mask": mask_path}
        sources.append({kind: {"name": p.name, "sha256": checksum(p)} for kind, p in named.items()})
    for path, source in zip(args.labels, given, strict=True):
        maps.append(source)
        sources.append({"labels": {"name": path.name, "sha256": checksum(path)}})
    provenance = {"labelled": sources, "gmm": asdict(gmm) if args.image else None}
    return TrainingData(maps, scans=scans, provenance=provenance, anatomy=labelled_anatomy(maps))


def _join_processes(device: torch.device) -> torch.device:
    """Under torchrun, join the other processes. Returns the GPU with this process's number, or `device`."""
    if "WORLD_SIZE" not in os.environ:
        return device
    import torch

    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return device


def _sample_sheet(
    maps: Sequence[NativeMap], cascade: CascadeConfig, config: TrainConfig, device: torch.device, path: Path
) -> None:
    """Write a picture of the segmenter's first 16 images."""
    import numpy as np

    from ...io.pictures import figures
    from ...training.maps import image_sources

    source = image_sources(maps, cascade, config, device)["segmenter"]
    batches = [source.draw([number]) for number in range(16)]
    images, brains = (np.stack([batch[part][0, 0].cpu().numpy() for batch in batches]) for part in (0, 1))
    figures.synthesis_figure(images, brains, path)
