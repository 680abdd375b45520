"""The command lines of docker, podman, apptainer and singularity."""

import os
import shutil
from typing import Dict, List, Optional, Sequence, Tuple

from .mounts import Mount
from .places import Refusal
from .plan import named_paths, plan_mounts

ENGINES = ("docker", "podman", "apptainer", "singularity")
IMAGE_FILE_ENGINES = ("apptainer", "singularity")
DEFAULT_IMAGE = "singlestrip"

MODELS_VARIABLE = "SINGLESTRIP_MODELS"
PASSED_ON = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "SLURM_ARRAY_TASK_ID",
    "SLURM_ARRAY_TASK_MIN",
    "SLURM_ARRAY_TASK_MAX",
    "SLURM_ARRAY_TASK_STEP",
    "SLURM_ARRAY_TASK_COUNT",
    MODELS_VARIABLE,
)
PASSED_ON_WITH_GPU = ("CUDA_VISIBLE_DEVICES",)


def choose_engine(name: Optional[str], image: Optional[str]) -> str:
    """The named engine, or the first on the path. Only apptainer and singularity take an image in a file."""
    if name:
        if name not in ENGINES:
            raise Refusal(f"{name}: no such engine; choose from {', '.join(ENGINES)}")
        if not shutil.which(name):
            raise Refusal(f"{name}: not found on the path")
        return name
    candidates = IMAGE_FILE_ENGINES if image and _is_in_file(image) else ENGINES
    for engine in candidates:
        if shutil.which(engine):
            return engine
    raise Refusal(f"none of {', '.join(candidates)} found on the path")


def _is_in_file(image: str) -> bool:
    """Whether an image is a file, or an address that only apptainer and singularity take."""
    return image.endswith(".sif") or "://" in image or os.path.exists(image)


def engine_command(
    engine: str, image: Optional[str], command: str, arguments: Sequence[str], gpu: bool, create: bool
) -> Tuple[List[str], Dict[str, str]]:
    """The engine's command line that runs a singlestrip command, and the variables that it needs in addition.

    gpu: let the container use the GPUs even if no argument asks for them. create: make output folders.
    """
    paths, device = named_paths(command, arguments)
    gpu = gpu or device.startswith("cuda")
    model_folders = os.environ.get(MODELS_VARIABLE, "").split(os.pathsep)
    mounts, working_folder = plan_mounts(paths, model_folders, create)
    variables = passed_variables(gpu)
    environment: Dict[str, str] = {}
    if engine in IMAGE_FILE_ENGINES:
        if not image:
            raise Refusal("name the image file with --image or SINGLESTRIP_IMAGE")
        start = apptainer_command(engine, image, mounts, working_folder, gpu)
        environment = {f"{engine.upper()}ENV_{name}": value for name, value in variables.items()}
    else:
        start = docker_command(engine, image or DEFAULT_IMAGE, mounts, working_folder, variables, gpu)
    return [*start, command, *arguments], environment


def passed_variables(gpu: bool) -> Dict[str, str]:
    """The variables of the environment that the container gets too."""
    names = PASSED_ON + (PASSED_ON_WITH_GPU if gpu else ())
    return {name: os.environ[name] for name in names if os.environ.get(name)}


def docker_command(
    engine: str, image: str, mounts: Sequence[Mount], working_folder: str, variables: Dict[str, str], gpu: bool
) -> List[str]:
    """The command of docker or podman, up to the arguments of singlestrip."""
    user, group = os.getuid(), os.getgid()
    command = [engine, "run", "--rm", "--pull=never", "--network=none", f"--user={user}:{group}"]
    if engine == "docker":
        command += [f"--group-add={other}" for other in sorted(set(os.getgroups()) - {group})]
    elif user != 0:  # podman's root has no ids to keep
        command += ["--userns=keep-id", "--group-add=keep-groups"]
    command.append("--security-opt=label=disable")  # SELinux would hide mounted folders
    if gpu:
        command += ["--gpus", "all"] if engine == "docker" else ["--device", "nvidia.com/gpu=all"]
    command.append("--workdir=" + working_folder)
    home = os.environ.get("HOME")  # for ~ in lists
    for name, value in sorted({**variables, **({"HOME": home} if home else {})}.items()):
        command += ["--env", f"{name}={value}"]
    for mount in mounts:
        fields = ["type=bind", f"source={mount.host}", f"target={mount.inside}"]
        fields += [] if mount.writable else ["readonly"]
        command += ["--mount", ",".join(map(_csv_field, fields))]
    return [*command, image]


def _csv_field(text: str) -> str:
    if any(mark in text for mark in ',"\n\r'):
        return '"' + text.replace('"', '""') + '"'
    return text


def apptainer_command(
    engine: str, image: str, mounts: Sequence[Mount], working_folder: str, gpu: bool
) -> List[str]:
    """The command of apptainer or singularity, up to the arguments of singlestrip."""
    command = [engine, "exec", "--containall", "--net", "--network", "none"]
    if gpu:
        command.append("--nv")
    command += ["--pwd", working_folder]
    for mount in mounts:
        for path in (mount.host, mount.inside):
            if any(mark in path for mark in ",:\\"):
                raise Refusal(f"{path}: {engine} cannot mount a folder with a comma, colon or backslash")
        command += ["--bind", f"{mount.host}:{mount.inside}:{'rw' if mount.writable else 'ro'}"]
    return [*command, image, "singlestrip"]
