"""What a report of a fault needs: versions, model files and the machine. Imports none of the libraries."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

from .._version import __version__
from ..io.checksum import checksum
from ..io.versions import library_version
from ..networks.model_files import describe_folders, list_models

# What the package needs (pyproject.toml), and what it uses where that is installed.
LIBRARIES = (
    *(
        "torch",
        "openvino",
        "nibabel",
        "numpy",
        "scipy",
        "scikit-learn",
        "safetensors",
        "msgspec",
        "matplotlib",
        "isal",
    ),
    *("shtab", "ancpbids", "nipype"),
)
NVIDIA = Path("/proc/driver/nvidia/gpus")  # a folder for each GPU, by the kernel's driver
GIB = 2**30
DIGITS = 12  # of a checksum


def describe() -> str:
    """Lines of text, the first of which is `singlestrip X.Y.Z` in all versions."""
    rows = {"python": platform.python_version(), "platform": _platform()}
    rows |= {name: library_version(name) or "not installed" for name in LIBRARIES}
    rows |= {"models": describe_folders()}
    rows |= {f"  {name}": f"sha256 {digest}" for name, digest in _model_checksums().items()}
    rows |= {"processor": f"{_cores()} cores, {_memory_gib()}", "GPU": ", ".join(_gpus()) or "none seen"}
    wide = max(map(len, rows)) + 2
    return "\n".join([f"singlestrip {__version__}", *(f"{name:<{wide}}{text}" for name, text in rows.items())])


def _platform() -> str:
    """The system, its version, processor and C library."""
    system = os.uname()  # `platform.platform` starts a program
    library = os.confstr("CS_GNU_LIBC_VERSION") if "CS_GNU_LIBC_VERSION" in os.confstr_names else None
    return "-".join([system.sysname, system.release, system.machine, *(library or "").split()])


def _model_checksums() -> dict[str, str]:
    """The first digits of the SHA-256 of each model file that can be named, as `sha256sum` has it."""
    return {path.name: _checksum(path) for path in list_models().values()}


def _checksum(path: Path) -> str:
    try:
        return checksum(path)[:DIGITS]
    except OSError as error:
        return f"unknown, cannot be read ({error.strerror})"


def _cores() -> int | None:
    """How many processors this process may run on; those of the machine where the system does not say."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _memory_gib() -> str:
    try:
        return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / GIB:.1f} GiB of memory"
    except (AttributeError, OSError, ValueError):  # not on this system
        return "memory unknown"


def _gpus() -> list[str]:
    """Models of the GPUs that the NVIDIA driver lists."""
    models = []
    for path in sorted(NVIDIA.glob("*/information")):
        model = re.search(r"^Model:\s*(.+?)\s*$", path.read_text(), re.MULTILINE)
        models.append(model.group(1) if model else "NVIDIA, model unknown")
    return models
