"""Several processes that train one model: `torchrun` starts them, each takes its share of every batch.

With one process all of this is a no-op. Results do not depend on how many there are, up to the order of sums: what a
process computes is a micro-batch, and a micro-batch is the same whoever computes it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from limner.errors import LimnerError

T = TypeVar("T")


@contextmanager
def joined(device: torch.device) -> Iterator[None]:
    """Inside it the processes that `torchrun` started know each other. Without `torchrun` it does nothing."""
    if "RANK" not in os.environ or dist.is_initialized():
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def local_device() -> torch.device:
    """The accelerator of this process, or the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")


def rank() -> int:
    """This process's number."""
    return dist.get_rank() if dist.is_initialized() else 0


def processes() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_first() -> bool:
    """Whether this is the process that writes: files, tracking, pictures."""
    return rank() == 0


def my_parts(parts: int) -> range:
    """Which micro-batches of a batch are this process's. Raises LimnerError where they cannot be shared out evenly."""
    if parts % processes():
        raise LimnerError(
            f"A batch of {parts} micro-batches cannot be shared out among {processes()} processes.",
            why="Every process takes as many micro-batches.",
            fix="Set train.micro_batch so that batch / micro_batch is a multiple of the number of processes.",
        )
    return range(rank(), parts, processes())


def average_(tensors: Sequence[Tensor]) -> None:
    """Replace each tensor by its mean over the processes, in one exchange per type."""
    if processes() == 1:
        return
    for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):  # in the same order everywhere
        same = [tensor for tensor in tensors if tensor.dtype is dtype]
        flat = torch.cat([tensor.reshape(-1) for tensor in same])
        dist.all_reduce(flat)
        flat /= processes()
        for tensor, mean in zip(same, torch.split(flat, [tensor.numel() for tensor in same]), strict=True):
            tensor.copy_(mean.view_as(tensor))


def gathered(tensor: Tensor) -> Tensor:
    """The processes' tensors [N, ...] of one shape, one after the other."""
    if processes() == 1:
        return tensor
    all_of_them = [torch.empty_like(tensor) for _ in range(processes())]
    dist.all_gather(all_of_them, tensor.contiguous())
    return torch.cat(all_of_them)


def divided(work: Callable[[int], Tensor], parts: int) -> Tensor:
    """The tensors [n, ...] that `work` makes of the parts 0, 1, ..., on the CPU, one after the other.

    Every process does its share and gets all of them; all have to call.
    """
    done = [work(part).cpu() for part in range(rank(), parts, processes())]
    if processes() == 1:
        return torch.cat(done)
    told: list[Any] = [None] * processes()
    dist.all_gather_object(told, done)
    return torch.cat([told[part % processes()][part // processes()] for part in range(parts)])


def first_alone(work: Callable[[], T]) -> T:
    """Call `work` in the first process, and in the others only then: they find what the first has left on the disk."""
    if is_first():
        try:
            return work()
        finally:
            _wait()
    _wait()
    return work()


def _wait() -> None:
    if processes() > 1:
        dist.all_reduce(
            torch.zeros(1)
        )  # on the CPU: NCCL's barrier gives up after ten minutes, and work may take longer


def same_everywhere(value: str) -> bool:
    """Whether all processes have the same value. All have to ask."""
    if processes() == 1:
        return True
    found = [""] * processes()
    dist.all_gather_object(found, value)
    return len(set(found)) == 1


def anywhere(*flags: bool) -> list[bool]:
    """For each flag whether it is set in any process. All have to ask."""
    if processes() == 1:
        return list(flags)
    found = torch.tensor(flags, dtype=torch.int32)
    dist.all_reduce(found, op=dist.ReduceOp.MAX)
    return [bool(flag) for flag in found]


def from_first(value: T) -> T:
    """The first process's value. All have to ask."""
    if processes() == 1:
        return value
    told = [value]
    dist.broadcast_object_list(told, src=0)
    return told[0]
