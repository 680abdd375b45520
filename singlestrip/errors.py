"""Errors that a user can put right, and what to tell about any error.

The program imports this module before it handles signals: it imports as little as it can.
"""

from __future__ import annotations

import errno
from contextlib import contextmanager

TYPE_CHECKING = False  # as in `typing`, which takes time to import
if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class SingleStripError(Exception):
    """An error that the user can put right. Its text names the file, what is wrong and what to do."""


class InputError(SingleStripError):
    """An image, mask, label map or list cannot be used."""


class BrainLabelsError(InputError):
    """It is not said which labels of a map are brain, or what is said does not fit the map."""


class LabelNamesError(InputError):
    """A label of a map is named, and no table has this name."""


class GridError(InputError):
    """A mask has as many voxels as its image, but its header puts them elsewhere."""


class NoBrainError(InputError):
    """No brain is found in an image. It may be found if a person says where its middle is."""


class ModelError(SingleStripError):
    """A model file is missing, damaged, or made for another version."""


class OutputError(SingleStripError):
    """An output cannot be written."""


class DeviceError(SingleStripError):
    """The device on which networks should run is not there."""


class EarlierRunError(OutputError):
    """A run would write where an earlier one is that can be resumed."""


class Interrupted(SingleStripError):
    """A signal asked for the work to stop. What was done is saved, and the run can be resumed."""


class DivergedError(SingleStripError):
    """The loss of a training run is not finite."""


@contextmanager
def errors_named(*paths: Path) -> Iterator[None]:
    """Put the paths of the files at fault before the text of an InputError from within; its type stays."""
    try:
        yield
    except InputError as error:
        raise type(error)(f"{', '.join(map(str, paths))}: {error}") from error


# Texts that say that memory ran out, of errors other than MemoryError: of torch and of what it calls, on processor
# and GPU, and of the system if it cannot map a library or start a thread.
OUT_OF_MEMORY = (
    "can't allocate memory",
    "cannot allocate memory",
    "not enough memory",
    "out of memory",
    "bad_alloc",
    "bad allocation",
    "alloc_failed",
    "failed to map segment",
    "can't start new thread",
)


# Libraries that an installation for stripping alone may lack: their modules, and their names on the package index.
LIBRARIES = {"torch": "torch", "sklearn": "scikit-learn", "matplotlib": "matplotlib"}


def find_memory_error(error: BaseException | None) -> BaseException | None:
    """The error that says that memory ran out: this one, or one of its causes; None if there is none."""
    while error is not None:
        if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
            return error
        if isinstance(error, RuntimeError | ImportError) and any(s in str(error).lower() for s in OUT_OF_MEMORY):
            return error
        error = error.__cause__
    return None


def describe_error(error: Exception) -> str:
    """One sentence for the user about any error."""
    memory_error = find_memory_error(error)
    if memory_error is not None:
        advice = _memory_advice(memory_error)
        return f"{error}; {advice}" if isinstance(error, SingleStripError) else advice  # the error names the file
    if isinstance(error, SingleStripError):
        return str(error)
    if isinstance(error, ModuleNotFoundError) and error.name in LIBRARIES:
        return f"this needs {LIBRARIES[error.name]}, which is not installed: pip install {LIBRARIES[error.name]}"
    text = " ".join(str(error).split())
    return f"unexpected {type(error).__name__}: {text}; run again with --debug and report it"


def describe_file_error(path: Path, error: Exception) -> str:
    """One sentence for the user about any error in the work on a file. It names the file, or the file at fault."""
    text = describe_error(error)
    return text if isinstance(error, SingleStripError) else f"{path}: {text}"


def _memory_advice(error: BaseException) -> str:
    """What to do after memory ran out, on the device that the error names."""
    if any(name in str(error) for name in ("CUDA", "CUBLAS", "CUDNN", "MPS")):
        return "out of memory on the GPU: use the device cpu, another GPU or a smaller image"
    return "out of memory: use a larger machine, raise the limit (ulimit -v), or use a smaller image"
