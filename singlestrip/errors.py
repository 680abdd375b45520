"""The one family of errors that a user can cause."""

import errno


class SingleStripError(Exception):
    """Something the user can put right: names the file, what is wrong and what to do."""


class InputError(SingleStripError):
    """An image, mask, label map or list cannot be used."""


class ModelError(SingleStripError):
    """A model file is missing, damaged, or made for another version."""


class OutputError(SingleStripError):
    """An output cannot be written."""


class EarlierRunError(OutputError):
    """A run would write where an earlier one is that can be resumed."""


class Interrupted(SingleStripError):
    """A signal asked for the work to stop; what was done is saved, and the run can be resumed."""


class DivergedError(SingleStripError):
    """The loss of a training run is not finite."""


# How libraries say that memory ran out, where they raise no MemoryError: torch and what it calls, on processor and
# GPU; the system, which could not map a library or start a thread.
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


def find_memory_error(error: BaseException | None) -> BaseException | None:
    """The error, or the one among those that caused it, that says that memory ran out; None if none does."""
    while error is not None:
        if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
            return error
        if isinstance(error, RuntimeError | ImportError) and any(s in str(error).lower() for s in OUT_OF_MEMORY):
            return error
        error = error.__cause__
    return None


def describe_error(error: Exception) -> str:
    """What to tell the user about any error."""
    memory_error = find_memory_error(error)
    if memory_error is not None:
        advice = _memory_advice(memory_error)
        return f"{error}; {advice}" if isinstance(error, SingleStripError) else advice  # which names the file
    if isinstance(error, SingleStripError):
        return str(error)
    text = " ".join(str(error).split())
    return f"unexpected {type(error).__name__}: {text}; run again with --debug and report it"


def _memory_advice(error: BaseException) -> str:
    if any(name in str(error) for name in ("CUDA", "CUBLAS", "CUDNN")):
        return "out of memory on the GPU: use the device cpu, another GPU or a smaller image"
    return "out of memory: use a larger machine, raise the limit (ulimit -v), or use a smaller image"
