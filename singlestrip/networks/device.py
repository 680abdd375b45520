"""Where the networks run: processor or GPU, in this process or a forked one."""

from __future__ import annotations

import os

import torch

from ..errors import SingleStripError

_PROCESS = os.getpid()  # where this module was imported; a forked worker has another number


def choose_device(name: str) -> torch.device:
    """A torch device from "auto", "cpu", "cuda" or "cuda:N"."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise SingleStripError(f"device {name}: no CUDA device is available; use --device cpu")
    try:
        device = torch.device(name)
        known = device.type == "cpu" or (device.type == "cuda" and (device.index or 0) < torch.cuda.device_count())
    except RuntimeError:
        known = False
    if not known:
        raise SingleStripError(f"device {name}: not on this machine; choose auto, cpu, cuda or cuda:N")
    limit_threads_after_fork(device)
    return device


def fast_in_bfloat16(device: torch.device) -> bool:
    """Whether the networks take less time in bfloat16: on a newer GPU, and a processor with its instructions.

    oneDNN takes the type on others too: those with AVX-512 alone imitate it, at half the speed of 32 bits, and
    those with AVX2's instructions for it cannot train.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if not (torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()):
        return False
    instructions = getattr(torch.cpu, "_is_avx512_bf16_supported", None)  # older torch cannot tell
    return instructions is not None and instructions()


def limit_threads_after_fork(device: torch.device) -> None:
    """Make the networks safe to run in a worker forked from a process that may have run them.

    OpenMP's threads do not outlive a fork, and a worker that waits for them waits for ever: it gets one thread.
    A GPU cannot be shared that way: raises SingleStripError.
    """
    if os.getpid() == _PROCESS:
        return
    if device.type == "cuda":
        raise SingleStripError(
            "a forked worker cannot use the GPU of its parent; start workers with multiprocessing's spawn, or "
            "choose the device cpu"
        )
    torch.set_num_threads(1)
