"""The states of random generators: torch's, and those that a part of somebody else's may draw from."""

from __future__ import annotations

import random
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from nuebridge.train.ranks import ALONE, Ranks

MAX_RANKS = 65_536
"""Keeps the seeds of ranks apart from those of other runs."""


def seed_all(seed: int, rank: int) -> None:
    """Begins every generator of this rank anew."""
    number = seed * MAX_RANKS + rank
    torch.manual_seed(number)
    random.seed(number)
    np.random.seed(number % 2**32)


def random_states(ranks: Ranks = ALONE) -> list[dict[str, Tensor]]:
    """The states of the generators, by rank."""
    own = {"cpu": torch.get_rng_state(), "python": _python_state(), "numpy": _numpy_state()}
    if torch.cuda.is_available():
        own["cuda"] = torch.cuda.get_rng_state()
    by_name = {name: ranks.gather(state) for name, state in own.items()}
    return [{name: states[rank] for name, states in by_name.items()} for rank in range(ranks.count)]


def set_random_state(state: Mapping[str, Tensor]) -> None:
    """Puts back what :func:`random_states` gave for a rank."""
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
    version, gauss, *words = state["python"].tolist()
    random.setstate((int(version), tuple(map(int, words)), None if np.isnan(gauss) else gauss))
    position, has_gauss, gauss, *words = state["numpy"].tolist()
    np.random.set_state(("MT19937", np.array(words, dtype=np.uint32), int(position), int(has_gauss), gauss))


# Both as float64, which holds 32-bit words exactly: tensors of one shape are what ranks exchange.


def _python_state() -> Tensor:
    version, words, gauss = random.getstate()
    return torch.tensor([version, float("nan") if gauss is None else gauss, *words], dtype=torch.float64)


def _numpy_state() -> Tensor:
    _, words, position, has_gauss, gauss = np.random.get_state(legacy=True)
    return torch.tensor([position, has_gauss, gauss, *np.asarray(words).tolist()], dtype=torch.float64)
