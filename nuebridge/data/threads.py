"""Many small jobs of reading files, in threads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

AHEAD = 64
"""Jobs a thread that wait or are done and not yet taken: a million at once would fill the memory."""


def in_threads(function: Callable[[Item], Result], items: Iterable[Item], workers: int) -> Iterator[Result]:
    """What ``function`` gives for each item, in order. What it raises, raises here."""
    left = iter(items)
    with ThreadPoolExecutor(workers) as pool:
        while some := list(islice(left, workers * AHEAD)):
            yield from pool.map(function, some)
