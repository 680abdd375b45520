"""The device on which the networks run: processor or GPU, in this process or a forked one."""

from __future__ import annotations

import torch

from ..errors import DeviceError, SingleStripError
from ..threads import is_forked, thread_limit


def choose_device(name: str) -> torch.device:
    """The torch device that "auto", "cpu", "cuda", "cuda:N" or "mps" names. Raises DeviceError if there is none.

    "auto" is a CUDA GPU if there is one. It is never "mps", Apple's GPU: nobody has compared masks made there with
    those of a processor.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise DeviceError(f"device {name}: {_why_no_cuda()}; choose the device cpu")
    if name.startswith("mps") and not torch.backends.mps.is_available():
        raise DeviceError(f"device {name}: no GPU of Apple that torch can use; choose the device cpu")
    try:
        device = torch.device(name)
        count = {"cpu": 1, "mps": 1, "cuda": torch.cuda.device_count()}.get(device.type, 0)
        known = device.type == "cpu" or (device.index or 0) < count
    except RuntimeError:
        known = False
    if not known:
        raise DeviceError(f"device {name}: not on this machine; choose auto, cpu, cuda, cuda:N or mps")
    limit_threads(device)
    return device


def choose_training_device(name: str) -> torch.device:
    """The torch device of `choose_device`, to train on. Raises DeviceError if there is none, and for Apple's GPU.

    A run that is resumed draws the random numbers that follow, which needs their state on the device.
    """
    device = choose_device(name)
    if device.type == "mps":
        raise DeviceError(
            f"device {name}: networks are trained on a processor or a CUDA GPU; choose the device cpu"
        )
    return device


def _why_no_cuda() -> str:
    """Why torch has no CUDA device, as a clause."""
    if torch.backends.mps.is_available():
        return "no CUDA device is available, and Apple's GPU is the device mps"
    if not torch.backends.cuda.is_built():
        return "the installed torch is built for processors alone and cannot use a GPU"
    return "no CUDA device is available"


def fast_in_bfloat16(device: torch.device) -> bool:
    """Whether the networks run faster in bfloat16: on a newer GPU, or a processor with instructions for it.

    oneDNN accepts bfloat16 on other processors too. But those with AVX-512 alone emulate it, at half the speed of
    32 bits, and those with AVX2's instructions for it cannot train.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "mps":  # not known of any
        return False
    if not (torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()):
        return False
    instructions = getattr(torch.cpu, "_is_avx512_bf16_supported", None)  # missing in older versions of torch
    return instructions is not None and instructions()


def limit_threads(device: torch.device) -> None:
    """Limit torch to the threads of `threads.set_thread_limit`, if it was called, and to one in a forked worker.

    The threads of OpenMP do not survive a fork, and a worker that waits for them would wait for ever. A forked
    worker cannot use its parent's GPU: raises SingleStripError.
    """
    if is_forked():
        if device.type != "cpu":
            raise SingleStripError(
                "a forked worker cannot use the GPU of its parent; start workers with multiprocessing's spawn, or "
                "choose the device cpu"
            )
        torch.set_num_threads(1)
    elif (threads := thread_limit()) is not None and threads != torch.get_num_threads():
        torch.set_num_threads(threads)
