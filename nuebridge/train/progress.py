"""How far a run has come: what a resumed run must know to go on as if nothing had been."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from nuebridge.train.batches import Position


@dataclass
class Progress:
    """How far a run has come."""

    step: int = 0
    """Steps of the stage that are done."""
    position: Position = field(default_factory=Position)
    """Where in the data the next step begins: what was trained on counts, not what was read ahead."""
    audio_seconds: float = 0.0
    """Audio trained on, padding not counted."""
    minutes: float = 0.0
    """Time spent in training steps and validation, over all sittings."""
    stage: int = 0
    """Which of the run's stages, from 0."""
    earlier_steps: int = 0
    """Steps of the stages before it."""
    data: str = ""
    """Names the utterances of the stage and their order; empty before they are known."""

    @property
    def total_step(self) -> int:
        """Steps of the whole run that are done."""
        return self.earlier_steps + self.step

    def advance(self, position: Position, audio_seconds: float) -> None:
        """One more step is done; training goes on at ``position``."""
        self.step += 1
        self.position = position
        self.audio_seconds += audio_seconds

    def begin_stage(self, number: int) -> None:
        """The stage before it is done; the data begin anew."""
        self.stage, self.earlier_steps, self.step, self.position = number, self.total_step, 0, Position()
        self.data = ""

    def saved(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)

    @classmethod
    def from_saved(cls, data: Mapping[str, Any]) -> Progress:
        """What :meth:`saved` gave. Raises KeyError or TypeError where it is something else."""
        return cls(**{**data, "position": Position(**data["position"])})
