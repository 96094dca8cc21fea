"""Ranks: the processes that train one integration together, started by torchrun.

Every rank plans the same batches and takes its share of the utterances of each; losses are divided
by the counts of the whole batch and gradients are summed, so the number of ranks does not change
what is learned (beyond rounding, and beyond dropout, which every rank draws for itself).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch import distributed as dist

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """This process among those of its run; ``Ranks()`` is a process on its own."""

    rank: int = 0
    count: int = 1

    @property
    def is_main(self) -> bool:
        """True on the one rank that writes, logs and validates."""
        return self.rank == 0

    def share(self, items: Sequence[T]) -> list[T]:
        """This rank's items of a batch; neighbours, which are of like length, go to different ranks."""
        return list(items[self.rank :: self.count])

    def sum_numbers(self, numbers: Mapping[str, float]) -> dict[str, float]:
        """The sums over all ranks; every rank must give the same names in the same order."""
        if self.count == 1:
            return dict(numbers)
        total = torch.tensor(list(numbers.values()), dtype=torch.float64)
        dist.all_reduce(total)
        return dict(zip(numbers, total.tolist(), strict=True))

    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Replaces every gradient by its sum over all ranks, in one exchange; absent ones count as zero."""
        if self.count == 1:
            return
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        for gradient, summed in zip(gradients, torch.split(flat, [g.numel() for g in gradients]), strict=True):
            gradient.copy_(summed.view_as(gradient))

    def gather(self, tensor: Tensor) -> list[Tensor]:
        """The tensors of all ranks (of one shape and dtype, on the CPU), by rank."""
        if self.count == 1:
            return [tensor]
        gathered = [torch.empty_like(tensor) for _ in range(self.count)]
        dist.all_gather(gathered, tensor)
        return gathered

    def wait(self) -> None:
        """Returns when every rank has come here."""
        if self.count > 1:
            dist.barrier()


@contextmanager
def joined() -> Iterator[Ranks]:
    """The ranks that torchrun started this process with, joined for the block; alone without torchrun."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield Ranks()
        return
    # One backend a device type: numbers are summed on the CPU, gradients where they are.
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield Ranks(dist.get_rank(), count)
    finally:
        dist.destroy_process_group()
