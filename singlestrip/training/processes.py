"""The processes of one run, each with a device of its own. One process needs no torch.distributed."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import nn


def is_distributed() -> bool:
    """Whether several processes were joined to train together."""
    return dist.is_available() and dist.is_initialized()


def process_count() -> int:
    """Number of processes of the run."""
    return dist.get_world_size() if is_distributed() else 1


def process_number() -> int:
    """Number of this process, from 0; the first writes all files."""
    return dist.get_rank() if is_distributed() else 0


def average_gradients(model: nn.Module) -> None:
    """Replace each gradient by its mean over the processes."""
    if is_distributed():
        for parameter in model.parameters():
            gradient = parameter.grad
            assert gradient is not None, "every weight takes part in a loss of the step"
            dist.all_reduce(gradient)
            gradient /= process_count()


def average_losses(losses: Mapping[str, float], device: torch.device) -> dict[str, float]:
    """The mean of each loss over the processes."""
    if not is_distributed():
        return dict(losses)
    values = torch.tensor(list(losses.values()), device=device)
    dist.all_reduce(values)
    return dict(zip(losses, (values / process_count()).tolist(), strict=True))


def any_stopped(received: int, device: torch.device) -> bool:
    """Whether any process received a signal, so that all stop at the same step. received: its number, or 0."""
    if not is_distributed():
        return received != 0
    flag = torch.tensor([received], device=device)
    dist.all_reduce(flag, op=dist.ReduceOp.MAX)
    return bool(flag.item())


def wait_for_all() -> None:
    """Wait until all processes are here.

    torchrun ends all processes when one ends: none may end while the first still writes.
    """
    if is_distributed():
        dist.barrier()
