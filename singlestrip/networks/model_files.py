"""Where model files lie, and how one is found by its name. Imports no torch."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import ModelError
from ..io.file_kind import path_kind

MODELS_VARIABLE = "SINGLESTRIP_MODELS"
SUFFIX = ".safetensors"
SHIPPED = f"singlestrip{SUFFIX}"  # the default model


def shipped_folder() -> Path:
    """The folder of the models that come with singlestrip: in the installed package, or in the source tree."""
    package = Path(__file__).parents[1]
    return next((p for p in (package / "models", package.parent / "models") if p.is_dir()), package / "models")


def model_folders() -> list[Path]:
    """The folders in which models are looked up by name, in their order: those of $SINGLESTRIP_MODELS, which are
    joined as those of $PATH are, then the shipped one."""
    named = os.environ.get(MODELS_VARIABLE, "").split(os.pathsep)
    return [*(Path(folder) for folder in named if folder), shipped_folder()]


def describe_folders() -> str:
    """The folders of `model_folders` as text, joined as $SINGLESTRIP_MODELS has them."""
    return os.pathsep.join(map(str, model_folders()))


def list_models() -> dict[str, Path]:
    """The path of each model that has a name, by its name; of files of one name the first on the search path."""
    paths: dict[str, Path] = {}
    for folder in model_folders():
        for path in sorted(folder.glob(f"[!.]*{SUFFIX}")):
            if _is_file(path):
                paths.setdefault(path.name.removesuffix(SUFFIX), path)
    return paths


def find_in_folders(name: str | os.PathLike[str]) -> Path | None:
    """The first file NAME or NAME.safetensors on the search path; None if there is none."""
    candidates = (folder / end for folder in model_folders() for end in (name, f"{os.fspath(name)}{SUFFIX}"))
    return next(filter(_is_file, candidates), None)


def find_by_name(name: str | os.PathLike[str]) -> Path:
    """The model file of that path, or else of that name on the search path. Raises ModelError if there is none."""
    path = Path(name) if _is_file(Path(name)) else find_in_folders(name)
    if path is not None:
        return path
    other_kind = path_kind(name)
    if other_kind:
        raise ModelError(f"{name}: {other_kind}, not a model file")
    raise ModelError(f"{name}: no such model file, and none of that name in {describe_folders()}")


def find_model(name: str | os.PathLike[str] | None, shipped: str = SHIPPED) -> Path:
    """Path of a model: of a file, or of the model of that name on the search path; None names the default model.

    shipped: the file name of the default model. Raises ModelError if there is none.
    """
    if name is not None:
        return find_by_name(name)
    default = find_in_folders(shipped)
    if default is None:
        raise ModelError(
            f"{shipped}: the default model is not in {describe_folders()}; name its folder in {MODELS_VARIABLE}, "
            "or name a model file"
        )
    return default


def is_shipped(path: Path) -> bool:
    """Whether the file of a cascade is the shipped one, which is taken if none is named."""
    try:
        return path.samefile(find_model(None))
    except (ModelError, OSError):
        return False


def _is_file(path: Path) -> bool:
    """Whether a path leads to a regular file."""
    return os.path.isfile(path)  # noqa: PTH113 - Path.is_file raises for names that no file can have
