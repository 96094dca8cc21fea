"""Recordings that cannot be read: skipped up to a number, each counted once in a sitting."""

from __future__ import annotations

from nuebridge.errors import DataError
from nuebridge.train.batches import Batch
from nuebridge.train.ranks import Ranks
from nuebridge.train.step import StepResult

SHOWN = 10
"""Utterances that an error names."""


class Unreadable:
    """Keeps count over all ranks; ``most`` may be skipped."""

    def __init__(self, most: int, ranks: Ranks) -> None:
        self._most = most
        self._ranks = ranks
        self._names: dict[str, None] = {}
        self._epoch: int | None = None
        """The last in which anything was read."""

    def add(self, batch: Batch, result: StepResult) -> None:
        """Takes note of what was skipped in this rank's share of a batch, and in that of the others.

        Every rank must call it after every step. Raises DataError, on every rank, when there are too
        many, and where nothing of a whole epoch could be read.
        """
        if result.unreadable:  # the same on every rank, and nearly always 0: then there is nothing to tell each other
            self._names.update(dict.fromkeys(self._ranks.gather_texts(batch.unreadable)))
        if len(self._names) > self._most:
            more = f" and {len(self._names) - SHOWN} more" if len(self._names) > SHOWN else ""
            raise DataError(
                f"{len(self._names)} utterances cannot be read ({', '.join(list(self._names)[:SHOWN])}{more}), and "
                f"data.max_unreadable is {self._most}; mend them or take them out, or raise it"
            )
        if result.figures or self._epoch is None:
            self._epoch = batch.epoch
        elif batch.epoch > self._epoch + 1:
            raise DataError("nothing of a whole epoch can be read; look at the warnings above")
