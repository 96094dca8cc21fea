"""The integration of the best validation so far, kept whole in the run's folder beside its score.

best/             what nuebridge.load opens
     best.json    score, its name, step, and what was validated on
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from nuebridge.checkpoint import save
from nuebridge.errors import CheckpointError
from nuebridge.model import Integration
from nuebridge.tensors import read_json, write_json
from nuebridge.train.config import TrainConfig
from nuebridge.train.folder import BEST
from nuebridge.train.placing import aside, give_up, put_in_place
from nuebridge.train.ranks import Ranks
from nuebridge.train.state import reason_of, written_by_main

log = logging.getLogger(__name__)

BEST_FILE = "best.json"


@dataclass(frozen=True)
class Score:
    """What the best integration reached."""

    name: str
    """Which score: wer, cer or ctc_cer; less is better."""
    score: float
    step: int
    """Steps of the whole run."""
    validation: str
    """What it was measured on; scores on something else are not compared with it."""


class Best:
    """Keeps the best integration of a run."""

    def __init__(self, config: TrainConfig, ranks: Ranks) -> None:
        """Raises CheckpointError where what an earlier sitting kept cannot be read."""
        self.ranks = ranks
        self.folder = config.output / BEST
        self._name = config.checkpoints.best
        self._warned = False
        self._weights: Literal["all", "trained"] = config.checkpoints.weights
        source, limit = config.data.validation, config.validation.max_utterances
        self._validation = "" if source is None else f"{Path(source.path).name}, {limit or 'all'} utterances"
        self.score = self._read() if self._name and ranks.is_main else None

    def offer(self, integration: Integration, figures: Mapping[str, float | None] | None, step: int) -> bool:
        """Keeps the integration where its score is less than any before; returns whether it does.

        Every rank must call it; ``figures`` is what the main one measured. Raises CheckpointError
        where it cannot be written, and on the other ranks TrainingError; what was kept before is whole.
        """
        score = self._better(figures or {}, step) if self.ranks.is_main else None
        if not self.ranks.sum_numbers({"better": float(score is not None)})["better"]:
            return False
        with written_by_main(self.ranks, self.folder):
            if score is not None:
                self._write(integration, score)
        return True

    def _better(self, figures: Mapping[str, float | None], step: int) -> Score | None:
        if self._name is None:
            return None
        value = figures.get(self._name)
        if value is None:
            if not self._warned:
                log.warning("validation gives no %s: nothing is kept in %s; see checkpoints.best", self._name, BEST)
            self._warned = True
            return None
        if self.score is not None and value >= self.score.score:
            return None
        return Score(self._name, value, step, self._validation)

    def _write(self, integration: Integration, score: Score) -> None:
        written: Path | None = None
        try:
            written = aside(self.folder)
            save(integration, written, weights=self._weights)
            write_json(written / BEST_FILE, asdict(score))
            put_in_place(written, self.folder)
        except (OSError, RuntimeError, CheckpointError) as error:
            if written is not None:
                give_up(written)
            raise CheckpointError(
                f"cannot save {self.folder}: {reason_of(error)}; what was there before is whole"
            ) from error
        self.score = score
        log.info("best %s so far: %.4g; kept in %s", score.name, score.score, self.folder)

    def _read(self) -> Score | None:
        file = self.folder / BEST_FILE
        if not self.folder.is_dir():
            return None
        data = read_json(file)
        try:
            score = Score(**data)
            float(score.score)
        except (TypeError, ValueError) as error:
            raise CheckpointError(
                f"{file} is damaged ({type(error).__name__}: {error}); move {self.folder} away"
            ) from error
        if (score.name, score.validation) != (self._name, self._validation):
            log.warning(
                "%s has the best %s on %s, not %s on %s; the next validation takes its place",
                *(self.folder, score.name, score.validation, self._name, self._validation),
            )
            return None
        return score
