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
from datetime import timedelta
from typing import TypeVar

import torch
from torch import Tensor
from torch import distributed as dist

from nuebridge.checkpoint.loading import check_device
from nuebridge.errors import ConfigError, TrainingError

T = TypeVar("T")

PATIENCE = timedelta(hours=6)
"""How long a rank waits for the others. One that died is noticed at once; this is for one that validates or saves."""


@dataclass(frozen=True)
class Ranks:
    """This process among those of its run; ``Ranks()`` is a process on its own."""

    rank: int = 0
    count: int = 1
    place: int = 0
    """Number among the ranks of this machine."""

    @property
    def is_main(self) -> bool:
        """True on the one rank that writes, logs and validates."""
        return self.rank == 0

    def share(self, items: Sequence[T]) -> list[T]:
        """This rank's items of a batch; neighbours, which are of like length, go to different ranks."""
        return list(items[self.rank :: self.count])

    def sum_numbers(self, numbers: Mapping[str, float]) -> dict[str, float]:
        """The sums over all ranks; every rank must give the same names in the same order."""
        every = self.gather_numbers(numbers)
        return {name: sum(numbers[name] for numbers in every) for name in numbers}

    def gather_numbers(self, numbers: Mapping[str, float]) -> list[dict[str, float]]:
        """The numbers of all ranks, by rank; every rank must give the same names in the same order."""
        rows = self.gather(torch.tensor(list(numbers.values()), dtype=torch.float64))
        return [dict(zip(numbers, row.tolist(), strict=True)) for row in rows]

    def gather_texts(self, texts: Sequence[str]) -> list[str]:
        """The texts of all ranks, those of the first rank first."""
        if self.count == 1:
            return list(texts)
        gathered: list[list[str]] = [[] for _ in range(self.count)]
        dist.all_gather_object(gathered, list(texts))
        return [text for part in gathered for text in part]

    def gather(self, tensor: Tensor) -> list[Tensor]:
        """The tensors of all ranks (of one shape and dtype, on the CPU), by rank."""
        if self.count == 1:
            return [tensor]
        gathered = [torch.empty_like(tensor) for _ in range(self.count)]
        dist.all_gather(gathered, tensor)
        return gathered

    def wait(self) -> None:
        """Returns when every rank has come here."""
        # Not a barrier: that would go through the devices where there are any, even for a run on CPUs.
        self.gather(torch.zeros(1))

    def device(self, name: str) -> torch.device:
        """The device this rank computes on: several ranks of a machine take one each.

        Raises ConfigError where there is none such, TrainingError where there are too few or all would share one.
        """
        kind, _, number = name.partition(":")
        if self.count == 1 or kind == "cpu":
            check_device(name)
            return torch.device(name)
        if number:
            raise TrainingError(
                f"the device is {name}, and every one of {self.count} processes would compute on it; give "
                f"{kind} alone, and each takes one of its own"
            )
        own = f"{kind}:{self.place}"
        try:
            check_device(own)
        except ConfigError as error:
            raise TrainingError(f"process {self.place} of this machine has no {kind} of its own: {error}") from error
        device = torch.device(own)
        torch.get_device_module(device).set_device(device)  # for what asks for no device by number
        return device


ALONE = Ranks()
"""A process on its own."""


@contextmanager
def joined(*, as_group: bool = False) -> Iterator[Ranks]:
    """The ranks that torchrun started this process with, joined for the block; alone without torchrun.

    ``as_group``: a process on its own is a group of one as well, as dividing a model needs it. A group
    that a caller has made already is used and left as it is.
    """
    count, place = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("LOCAL_RANK", "0"))
    if dist.is_initialized():
        yield Ranks(dist.get_rank(), dist.get_world_size(), place)
        return
    if count == 1 and not as_group:
        yield Ranks()
        return
    # One backend a device type: numbers are exchanged on the CPU, gradients where they are.
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    if count == 1:
        alone = dist.HashStore()  # type: ignore[attr-defined]
        dist.init_process_group(backend, store=alone, rank=0, world_size=1, timeout=PATIENCE)
    else:
        dist.init_process_group(backend, timeout=PATIENCE)
    try:
        yield Ranks(dist.get_rank(), count, place)
    finally:
        dist.destroy_process_group()
