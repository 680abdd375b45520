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


class Interrupted(SingleStripError):
    """A signal asked for the work to stop; what was done is saved."""


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


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether memory ran out, as the error or one that caused it says."""
    while error is not None:
        if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
            return True
        if isinstance(error, RuntimeError | ImportError) and any(s in str(error).lower() for s in OUT_OF_MEMORY):
            return True
        error = error.__cause__
    return False


def sentence(error: Exception) -> str:
    """What to tell the user about any error."""
    if is_out_of_memory(error):
        gpu = "cuda" in str(error).lower()
        return (
            "out of memory on the GPU; use the device cpu, another GPU or a smaller image"
            if gpu
            else "out of memory; use a larger machine, raise the limit (ulimit -v), or use a smaller image"
        )
    if isinstance(error, SingleStripError):
        return str(error)
    text = " ".join(str(error).split())
    return f"unexpected {type(error).__name__}: {text}; run again with --debug and report it"
