"""The one family of errors that a user can cause."""


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


def sentence(error: Exception) -> str:
    """What to tell the user about any error."""
    if isinstance(error, SingleStripError):
        return str(error)
    if isinstance(error, MemoryError):
        return "out of memory; use a larger machine or fewer or smaller images"
    return f"unexpected {type(error).__name__}: {error}; run again with --debug and report it"
