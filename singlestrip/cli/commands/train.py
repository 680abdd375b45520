"""singlestrip train: from labelled scans to a model."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...configuration import (
    LESION_CLASSES,
    ClassTrainConfig,
    GMMConfig,
    LesionTrainConfig,
    MaskGridConfig,
    QualityPartTrainConfig,
    StudentTrainConfig,
    TrainConfig,
    TransferConfig,
)
from ...errors import InputError
from ...io.text.escaping import printable
from ..options import (
    GRID_RULE,
    MASK_RULE,
    add_lesions,
    add_processor_options,
    add_trust_voxels,
    add_validation,
    apply_threads,
    input_file,
    mask_grids,
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
from ..streams import clear_progress

if TYPE_CHECKING:
    import torch

    from ...configuration import CascadeConfig, TargetClass
    from ...networks.cascade import Cascade
    from ...quality.training import QualityTask
    from ...synthesis.found_lesions import LesionBank
    from ...synthesis.generation_maps import GenerationMap
    from ...synthesis.gmm import NativeMap
    from ...synthesis.labelling import LabelledScan
    from ...training.cascade import TrainingData

DESCRIPTION = f"""train a model from one labelled scan, or several
Makes a label map of each scan as fit-gmm does, or takes the label maps given with -l. Synthesises images
of random shape, contrast and quality from the label maps, and trains the two networks that strip uses:
one finds the brain in the whole scan, the other draws its border. The networks never learn from the scan
itself. After the training the scan sets the exact border, so that its predicted mask has the volume of
its own. If there is no scan, this step is left out.

With --brain the label maps may be of any program. Labels that are a large part of the brain, or of what
is outside, are parted so that images have contrast: by the image of the map, or by position.

With --classes the model tells apart the labels of a map: tissues, organs or regions. segment draws them in
other scans. Images are drawn from all labels of the map, and the table of classes says which of them are
one class, which lie left and right, and which are brain. If some are brain, strip works with the model too.

With --find-lesions the model tells lesions from the rest of the brain. Lesions are painted into most of the
images, so that the labelled brains need none. strip --lesions writes what such a model finds. Experimental.

The training begins with the weights that come with singlestrip, for any anatomy: networks see voxels, not
millimetres. The voxel size is that at which the labelled brain is as many voxels long as an adult's. If
the brain is about as long as those that the model is for, the voxel size stays. --init begins with
another model, --init none from nothing, which takes more than ten times the steps.

With --lesions some synthetic brains have lesions: half of these have shape and texture of lesions of
other scans, whose masks LIST names. In a lesion mask all values but 0 are lesion. What lies in a lesion
stays brain. A scan without lesions is left out with a warning.

With --teacher the model learns to see through lesions, and through signal loss, ghosts and what operations
leave. It sees synthetic images with them, and learns what MODEL says of the same images without. It begins
with MODEL's weights, and draws whole brains as MODEL does.

Then the model strips the labelled scans. The command prints the Dice of each, and writes
NAME.labelled.png, a picture with the outlines of both masks.

At last a quality network for the same anatomy is trained on the first mask, or on the brain of the first
label map, and put into the model file. strip --qc and qc --model use it. --no-quality leaves it out. The
file also has the volumes of the labelled brains, by which strip remarks on brains of another size.

Beside the model lie also NAME.checkpoint, from which --resume continues exactly where the run stopped,
NAME.metrics.csv and NAME.curve.png. The quality network has such files too: NAME.quality.checkpoint,
NAME.quality.metrics.csv and NAME.quality.curve.png. A first SIGINT or SIGTERM writes the checkpoint and
stops. While the quality network learns, the model file is there without it.

{MASK_RULE}

{GRID_RULE}

On several devices: torchrun --nproc-per-node N -m singlestrip train ..."""

SYNOPSIS = [
    "singlestrip train -i IMAGE [IMAGE ...] -m MASK [MASK ...] -o MODEL [OPTIONS]",
    "singlestrip train -l LABELS [LABELS ...] -o MODEL [OPTIONS]",
    "singlestrip train -l LABELS [LABELS ...] --brain LABEL [LABEL ...] -o MODEL [OPTIONS]",
    "singlestrip train -l LABELS [LABELS ...] --classes TABLE -o MODEL [OPTIONS]",
    "singlestrip train -i IMAGE [IMAGE ...] -m MASK [MASK ...] --find-lesions -o MODEL [OPTIONS]",
    "singlestrip train -i IMAGE [IMAGE ...] -m MASK [MASK ...] --teacher MODEL -o MODEL [OPTIONS]",
]

EXAMPLES = """\
    singlestrip train -i t1.nii.gz -m mask.nii.gz -o my-anatomy.safetensors
    singlestrip train -i t1.nii.gz -m mask.nii.gz -o my-anatomy.safetensors --steps 2000 --resume
    singlestrip train -i rat.nii.gz -m rat-mask.nii.gz -o rat.safetensors --init mouse.safetensors
    singlestrip train -i t1.nii.gz -m mask.nii.gz -o own.safetensors --init none
    singlestrip train -l dseg.nii.gz --brain 3 4 -o my-anatomy.safetensors
    singlestrip train -l dseg.nii.gz --classes classes.tsv -o tissues.safetensors
    singlestrip train -i t1.nii.gz -m mask.nii.gz -o patients.safetensors --lesions lesions.txt
    singlestrip train -i t1.nii.gz -m mask.nii.gz --find-lesions --no-quality -o lesions.safetensors
    singlestrip train -i t1.nii.gz -m mask.nii.gz --teacher own.safetensors -o patients.safetensors
    singlestrip train -i t1.nii.gz -m mask.nii.gz --picture sheet.png"""

NO_INIT = "none"  # in place of a model to begin with
EACH_LABEL = "each"  # in place of a table of classes

# Training options that are fields of the one dataclass that holds their defaults.
NUMBERS = {
    "steps": (positive_int, "N", "updates of the weights"),
    "batch": (positive_int, "N", "images per step and device"),
    "lr": (positive_float, "RATE", "highest learning rate"),
    "seed": (seed, "N", "same seed, same run"),
    "validate_every": (positive_int, "N", "steps between validations"),
    "save_every": (positive_int, "N", "steps between checkpoints"),
}


def _default(name: str) -> str:
    """The default of a training option, in words if it depends on what the training begins with."""
    kinds = {
        "": TransferConfig(),
        " with --init none": TrainConfig(),
        " with --classes": ClassTrainConfig(),
        " with --find-lesions": LesionTrainConfig(),
        " with --teacher": StudentTrainConfig(),
    }
    values = {kind: f"{getattr(config, name):g}" for kind, config in kinds.items()}
    return "; ".join(value + kind for kind, value in values.items() if not kind or value != values[""])


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
        help="label maps, instead of or beside images with masks: of fit-gmm, or with --brain of any program",
    )
    files.add_argument(
        "--brain",
        nargs="+",
        action="extend",
        default=[],
        metavar="LABEL",
        help="labels that are brain: numbers, ranges such as 1001-1035, or names; all others are outside. Large "
        "labels are parted, by the image of each map given with -i if there is no -m, else by position",
    )
    files.add_argument(
        "--classes",
        type=input_file,
        metavar="TABLE",
        help="learn to tell the labels of the maps apart, as this table says: FreeSurfer colour table, or BIDS "
        "dseg.tsv that may also have the columns target, side, brain, fluid and largest; or the word "
        f"{EACH_LABEL}: each label is a class",
    )
    files.add_argument(
        "--find-lesions",
        action="store_true",
        help="learn to tell lesions, which are painted into the images, from the rest of the brain (experimental)",
    )
    files.add_argument(
        "--label-table",
        type=input_file,
        metavar="FILE",
        help="names of labels: FreeSurfer colour table or BIDS dseg.tsv (default: the dseg.tsv beside a map)",
    )
    files.add_argument("-o", "--out", type=output_file, metavar="MODEL", help="model to write, .safetensors")
    add_validation(files, "image and mask to score during training; the best weights are kept; may be repeated")
    add_lesions(files)
    add_trust_voxels(files)
    files.add_argument(
        "--init",
        type=model,
        metavar="MODEL",
        help="begin with the weights of this model, or none (default: the weights that come with singlestrip)",
    )
    files.add_argument(
        "--teacher",
        type=model,
        metavar="MODEL",
        help="learn what this model says of synthetic images without their lesions and faults; begins with its "
        "weights",
    )
    files.add_argument(
        "--resume",
        action="store_true",
        help="continue the run whose checkpoint lies beside MODEL, if there is one",
    )
    files.add_argument(
        "-p",
        "--picture",
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
            help=f"{text} (default {_default(name)})",
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
        help="voxel size of the finer network (default: in proportion to the brain, 2 mm for an adult)",
    )
    group.add_argument("--no-quality", action="store_true", help="train no quality network")
    group.add_argument(
        "--norm",
        choices=("instance", "none"),
        default=None,
        help="normalisation layers: instance or none (default instance); needs --init none",
    )
    add_processor_options(parser, trains=True)


def run(args: argparse.Namespace) -> int:
    if args.brain and not args.labels:
        args.parser.error("--brain is about label maps: name them with -l")
    if args.label_table and not args.brain and not args.classes:
        args.parser.error("--label-table has the names for --brain: say which are brain")
    if args.classes and (args.mask or not args.labels):
        args.parser.error("--classes is about label maps: name them with -l, and no masks")
    if args.classes and args.label_table:
        args.parser.error("--label-table has the names for --brain; with --classes the table of classes has them")
    if args.classes and args.find_lesions:
        args.parser.error("--find-lesions tells lesions from the brain, and --classes has other classes")
    if args.teacher and (args.classes or args.find_lesions or args.init or args.voxel_size):
        args.parser.error(
            "--teacher has the networks to begin with and says what they learn: give no --init, --voxel-size, "
            "--classes or --find-lesions"
        )
    if args.teacher == NO_INIT:
        args.parser.error("--teacher is a model: begin without one with --init none")
    images_of_maps = (args.brain or args.classes) and not args.mask
    if args.classes and args.lesions:
        args.parser.error("--lesions is about brain masks: with --classes no class is known in a lesion")
    if images_of_maps and len(args.image) not in (0, len(args.labels)):
        args.parser.error(f"{len(args.image)} images and {len(args.labels)} label maps: give one image per map")
    if len(args.image) != len(args.mask) and not images_of_maps:
        args.parser.error(f"{len(args.image)} images and {len(args.mask)} masks: give one mask per image")
    if not args.image and not args.labels:
        args.parser.error("name a labelled scan with -i and -m, or a label map with -l")
    if args.out is None and args.picture is None:
        args.parser.error("name the model to write with -o, or a picture with --picture")
    if args.out is not None and args.out.suffix != ".safetensors":
        args.parser.error("name the model with .safetensors")
    if args.norm and args.init != NO_INIT:
        args.parser.error("--norm comes with the weights; --init none begins without any")
    lesions = _read_lesion_list(args)
    _check_files(args, lesions)
    _check_checkpoint(args)
    init, source = _initial_networks(args.teacher or args.init)
    if args.teacher and init is not None and init.config.classes:
        args.parser.error("--teacher is about brain masks, and this model tells classes apart")
    from ...synthesis.labelling import labelled_scan

    validation = [labelled_scan(image, mask, mask_grids(args)) for image, mask in args.val]
    given, classes, knows_sides = _read_label_maps(args)
    if args.find_lesions:
        classes = LESION_CLASSES
    has_brain = not classes or any(each.brain for each in classes)
    if args.val and not has_brain:
        args.parser.error("--val scores brain masks, and no class is brain")
    from ...networks.device import choose_training_device
    from ...training.allocator import keep_memory
    from ...training.fitting import check_memory

    apply_threads(args)
    keep_memory()
    device = choose_training_device(args.device)
    chosen = {name: value for name in (*NUMBERS, "amp") if (value := getattr(args, name)) is not None}
    config = _kind_of_training(args, init)(**chosen)
    if classes and not knows_sides:
        config = config.without_flips()
    if lesions:
        config = replace(config, synth=config.synth.with_lesions())
    pairs = zip(args.image if args.mask else [], args.mask, strict=True)
    outlines = [*(_outline(*pair, mask_grids(args)) for pair in pairs), *(example.map for example in given)]
    cascade = replace(_fitting_networks(args, outlines, init), classes=classes)
    if args.find_lesions:
        cascade = replace(cascade, class_evidence=None)  # neither brain nor lesions have an intensity of their own
    check_memory(outlines, cascade, config, device)
    bank = _lesion_bank(args, lesions, cascade)
    data = replace(_training_data(args, given), init=init, validation=validation, lesions=bank)
    data.provenance["teacher" if args.teacher else "init"] = source
    if lesions:
        data.provenance["lesions"] = [_describe_files(image=image, mask=mask) for image, mask in lesions]
    if not has_brain:
        data = replace(data, anatomy=None)
    with_quality = has_brain and not args.no_quality and args.out is not None
    quality = _quality_task(args, data, config, device) if with_quality else None
    device = _join_processes(device)
    if args.picture:
        _sample_sheet(data, cascade, config, device, args.picture)
    if args.out is not None:
        is_first = _train(args, data, cascade, config, device)
        if is_first and data.scans:
            _show_labelled(args, data.scans, device)
        if is_first and quality is not None:
            _train_quality(args, quality)
    return 0


def _kind_of_training(args: argparse.Namespace, init: Cascade | None) -> type[TrainConfig]:
    """The configuration that has the defaults of what is learned. init: the networks to begin with."""
    if args.find_lesions:
        return LesionTrainConfig
    if args.classes:
        return ClassTrainConfig
    if args.teacher:
        return StudentTrainConfig
    return TrainConfig if init is None else TransferConfig


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


def _show_labelled(args: argparse.Namespace, scans: Sequence[LabelledScan], device: torch.device) -> None:
    """Strip the labelled scans with the new model, print the Dice of each and draw them."""
    from ...io.pictures import figures
    from ...networks.checkpoint import load_model
    from ...training.cascade import strip_labelled
    from ...training.run_files import RunFiles

    stripped = strip_labelled(load_model(args.out, device)[0], scans)
    titles = [f"{path.name}, Dice {each.dice:.3f}" for path, each in zip(args.image, stripped, strict=True)]
    if not args.quiet:
        clear_progress()
        print("\n".join(f"{printable(title)} with its own mask" for title in titles), flush=True)
    cases = [(e.labelled.scan, e.mask, e.labelled.mask, title) for e, title in zip(stripped, titles, strict=True)]
    figures.comparison_figure(cases, RunFiles(args.out).labelled)


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


def _initial_networks(name: str | None) -> tuple[Cascade | None, dict[str, Any] | None]:
    """The model to begin with, and what the record of the new model tells of it; None twice for none."""
    from ...networks.checkpoint import load_model
    from ...networks.model_files import find_model

    if name == NO_INIT:
        return None, None
    path = find_model(name)
    model, header = load_model(path)
    return model, {"name": path.name, "provenance": header["provenance"]}


def _fitting_networks(args: argparse.Namespace, outlines: list[NativeMap], init: Cascade | None) -> CascadeConfig:
    """The sizes of networks for the brains of label maps, with the chosen voxel size and normalisation."""
    from ...configuration import UNetConfig
    from ...training.fitting import continued_cascade, fitting_cascade

    if init is None:
        return fitting_cascade(outlines, args.voxel_size, norm=args.norm or UNetConfig.norm)
    continued = continued_cascade(outlines, init.config, args.voxel_size)
    if not args.teacher:
        return continued
    if continued.scale != init.config.scale:
        args.parser.error("--teacher is for brains of another size: it has nothing to say of these")
    return init.config


def _read_lesion_list(args: argparse.Namespace) -> list[tuple[Path, Path]]:
    """The files of scans and lesion masks that --lesions names; none without it. Raises InputError."""
    from ...io.images.lists import read_pair_list

    return [] if args.lesions is None else read_pair_list(args.lesions)


def _lesion_bank(
    args: argparse.Namespace, lesions: list[tuple[Path, Path]], cascade: CascadeConfig
) -> LesionBank | None:
    """The lesions of scans, None if none were given. Raises InputError."""
    from ...synthesis.found_lesions import read_lesion_bank

    return read_lesion_bank(lesions, cascade.scale, mask_grids(args)) if lesions else None


def _check_files(args: argparse.Namespace, lesions: list[tuple[Path, Path]]) -> None:
    """Raise InputError or OutputError if a file is missing or cannot be written: before any work is done."""
    from ...io.images.pairs import check_exist
    from ...io.output import check_distinct, check_picture, check_writable
    from ...training.run_files import QUALITY_PART, RunFiles

    inputs = [*args.image, *args.mask, *args.labels, *(path for pair in (*args.val, *lesions) for path in pair)]
    if args.classes and str(args.classes) != EACH_LABEL:
        inputs.append(args.classes)
    outputs: list[Path] = []
    if args.out is not None:
        files = RunFiles(args.out)
        files.check(args.resume)
        outputs += files.all
        if args.image:
            check_writable(files.labelled)
            outputs.append(files.labelled)
        if not args.no_quality:
            quality_files = RunFiles(args.out, QUALITY_PART)
            quality_files.check(args.resume)
            outputs += quality_files.beside
    if args.picture is not None:
        check_picture(args.picture)
        check_writable(args.picture)
        outputs.append(args.picture)
    check_distinct([*inputs, *([args.lesions] if args.lesions else [])], outputs)
    check_exist(inputs)


def _outline(image_path: Path, mask_path: Path, grids: MaskGridConfig) -> NativeMap:
    """A label map with one class on each side of a mask: the sizes of networks and maps depend on nothing else."""
    import numpy as np

    from ...configuration import INSIDE_BASE
    from ...io.images.masks import read_mask_on
    from ...io.images.volume import read_header
    from ...synthesis.gmm import NativeMap

    image = read_header(image_path)
    mask = read_mask_on(mask_path, image, grids)
    if not mask.any():
        raise InputError(f"{mask_path}: the brain mask is empty")
    return NativeMap(mask * np.uint8(INSIDE_BASE) + np.uint8(1), image.vox2world)


def _read_label_maps(args: argparse.Namespace) -> tuple[list[GenerationMap], tuple[TargetClass, ...], bool]:
    """The label maps given with -l, the classes to tell apart, and whether their sides are known.

    The maps are of any program if --classes says what to tell apart, or --brain which labels are brain; else of
    fit-gmm.
    """
    from ...synthesis.generation_maps import GenerationMap, read_class_maps, read_generation_maps
    from ...synthesis.labelling import read_label_map

    if args.classes:
        table = None if str(args.classes) == EACH_LABEL else args.classes
        read = read_class_maps(args.labels, table, args.brain, args.image)
        return read.maps, read.classes, read.knows_sides
    if args.brain:
        images = [] if args.mask else args.image
        return read_generation_maps(args.labels, args.brain, args.label_table, images), (), True
    maps = [GenerationMap(read_label_map(path), None, _describe_files(labels=path)) for path in args.labels]
    return maps, (), True


def _training_data(args: argparse.Namespace, given: list[GenerationMap]) -> TrainingData:
    """Label maps fitted to the labelled scans, label maps given with -l, and their provenance."""
    from ...synthesis.labelling import labelled_example
    from ...training.cascade import TrainingData
    from ...training.fitting import labelled_anatomy

    gmm = GMMConfig()
    maps, scans, sources = [], [], []
    images = args.image if args.mask else []  # without masks they are of the label maps
    for image_path, mask_path in zip(images, args.mask, strict=True):
        fitted, scan = labelled_example(image_path, mask_path, gmm, mask_grids(args))
        maps.append(fitted)
        scans.append(scan)
        sources.append(_describe_files(image=image_path, mask=mask_path))
    for example in given:
        maps.append(example.map)
        if example.scan is not None:
            scans.append(example.scan)
        sources.append(example.source)
    provenance = {"labelled": sources, "gmm": asdict(gmm) if args.image else None}
    return TrainingData(maps, scans=scans, provenance=provenance, anatomy=labelled_anatomy(maps))


def _describe_files(**paths: Path) -> dict[str, dict[str, str]]:
    """Name and checksum of files, as the model file tells them."""
    from ...io.checksum import checksum

    return {kind: {"name": path.name, "sha256": checksum(path)} for kind, path in paths.items()}


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
    data: TrainingData, cascade: CascadeConfig, config: TrainConfig, device: torch.device, path: Path
) -> None:
    """Write a picture of the segmenter's first 16 images."""
    import numpy as np

    from ...io.pictures import figures
    from ...training.maps import image_sources

    source = image_sources(data.maps, cascade, config, device, lesions=data.lesions)["segmenter"]
    # Lesions are outlined, or classes that are brain, or all if none is.
    channels = list(cascade.brain_channels or range(1, cascade.segmenter_outputs)) if cascade.classes else [0]
    if cascade.lesion_channel is not None and isinstance(config, LesionTrainConfig):
        channels = [cascade.lesion_channel]
    images, outlined = [], []
    for number in range(16):
        image, shares, _ = source.draw([number], number)
        images.append(image[0, 0].cpu().numpy())
        outlined.append(shares[0, channels].sum(0).cpu().numpy())
    figures.synthesis_figure(np.stack(images), np.stack(outlined), path)
