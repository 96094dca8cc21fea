"""One optimiser step: a batch goes through the integration, its losses come back, the weights move."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nuebridge.data import Utterance
from nuebridge.errors import AudioError, PromptError, TrainingError
from nuebridge.model import Integration, Losses
from nuebridge.train.batches import Batch
from nuebridge.train.config import Stage
from nuebridge.train.ranks import Ranks
from nuebridge.train.trainable import set_training_mode


@dataclass(frozen=True)
class StepResult:
    """What a step gave, the same on every rank."""

    figures: dict[str, float]
    """Losses of the whole batch, each a mean over what it counts (nats), and the norm of the gradient."""
    samples: int
    """Audio samples of the whole batch, padding not counted."""
    asked_to_stop: bool
    """True where any rank was asked to: all leave after the same step."""


class Stepper:
    """Makes the steps of one stage."""

    def __init__(self, integration: Integration, optimizer: torch.optim.Optimizer, stage: Stage, ranks: Ranks) -> None:
        self.integration = integration
        self.optimizer = optimizer
        self.stage = stage
        self.ranks = ranks

    def step(self, batch: Batch, number: int, asked_to_stop: Callable[[], bool]) -> StepResult:
        """Step ``number`` of the stage (from 0), on this rank's share of a batch.

        Raises TrainingError naming the batch whose loss is not finite or that cannot be trained on.
        """
        try:
            return self._step(batch, number, asked_to_stop)
        except (AudioError, PromptError) as error:
            raise TrainingError(f"the batch {_names(batch)} cannot be trained on: {error}") from error

    @property
    def learning_rates(self) -> dict[str, float]:
        """The rate of each trained part."""
        return {group["part"]: group["lr"] for group in self.optimizer.param_groups}

    def _step(self, batch: Batch, number: int, asked_to_stop: Callable[[], bool]) -> StepResult:
        config = self.stage.config
        set_training_mode(self.integration)
        for group in self.optimizer.param_groups:
            factor = self.stage.schedule.factor(number, getattr(config.parts, group["part"]))
            group["lr"] = group["peak_learning_rate"] * factor
        losses = self._losses(batch) if batch.utterances else None
        sums = self.ranks.sum_numbers({**_sums(losses, batch), "stop": float(asked_to_stop())})
        figures = self._means(sums, batch)
        self._check_finite("loss", sum(figures.values()), number, batch)
        if losses is not None:
            progress = number / max(1, self.stage.schedule.steps - 1)
            self._total(losses, sums, progress).backward()  # type: ignore[no-untyped-call]
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.ranks.sum_gradients(parameters)
        norm = nn.utils.clip_grad_norm_(parameters, config.optimizer.max_gradient_norm)
        self._check_finite("gradient", float(norm), number, batch)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return StepResult({**figures, "gradient_norm": float(norm)}, int(sums["samples"]), sums["stop"] > 0)

    def _losses(self, batch: Batch) -> Losses:
        config, device = self.stage.config, self.integration.device
        autocast = torch.autocast(device.type, torch.bfloat16) if config.precision == "bfloat16" else nullcontext()
        with autocast:
            losses: Losses = self.integration(
                batch.waveforms.to(device),
                batch.lengths.to(device),
                batch.texts,
                fields=self._fields(batch.utterances),
                text_loss=config.losses.text > 0,
                label_smoothing=config.losses.label_smoothing,
                token_replacement=config.losses.token_replacement,
                generators=[self._generator(utterance, batch.epoch) for utterance in batch.utterances],
            )
        return losses

    def _generator(self, utterance: Utterance, epoch: int) -> torch.Generator:
        """What is drawn for an utterance depends on seed, epoch and utterance, not on batch or rank."""
        name = f"{self.stage.config.seed}:{epoch}:{utterance.id}"
        return torch.Generator().manual_seed(zlib.crc32(name.encode()))

    def _check_finite(self, what: str, value: float, number: int, batch: Batch) -> None:
        if not math.isfinite(value):
            raise TrainingError(
                f"the {what} is {value} at step {number + 1} on the batch {_names(batch)}; look at "
                "these recordings, or lower the learning rate and pass --resume"
            )

    def _fields(self, utterances: Sequence[Utterance]) -> list[dict[str, str]]:
        declared = self.integration.prompt.fields
        default = {"language": self.integration.language} if self.integration.language else {}
        return [
            {name: value for name, value in {**default, **u.prompt_fields}.items() if name in declared}
            for u in utterances
        ]

    def _means(self, sums: Mapping[str, float], batch: Batch) -> dict[str, float]:
        """What is logged of a step: the losses of the whole batch, each over what it counts."""
        means = {}
        if sums["text_tokens"]:
            means["loss"] = sums["text"] / sums["text_tokens"]
        if sums["ctc_symbols"] and self.stage.config.losses.ctc > 0:
            means["ctc_loss"] = sums["ctc"] / sums["ctc_symbols"]
        if not means:
            raise TrainingError(
                f"every text of the batch {_names(batch)} is too long for its audio, so that there is no CTC loss; "
                "leave these utterances out"
            )
        if sums["auxiliary"]:
            means["auxiliary_loss"] = sums["auxiliary"] / sums["utterances"]
        return means

    def _total(self, losses: Losses, sums: Mapping[str, float], progress: float) -> Tensor:
        """This rank's part of what is minimised: its sums over the counts of the whole batch."""
        weights, total = self.stage.config.losses, losses.text.new_zeros(())
        if sums["text_tokens"]:
            total = total + weights.text * losses.text / sums["text_tokens"]
        if losses.ctc is not None and sums["ctc_symbols"]:
            total = total + weights.ctc_weight(progress) * losses.ctc / sums["ctc_symbols"]
        for name, value in losses.auxiliary.items():
            total = total + weights.auxiliary.get(name, 1.0) * value / sums["utterances"]
        return total


def _sums(losses: Losses | None, batch: Batch) -> dict[str, float]:
    """What a rank adds to the sums of a step."""
    return {
        "text": 0.0 if losses is None else float(losses.text.detach()),
        "text_tokens": 0 if losses is None else losses.text_tokens,
        "ctc": 0.0 if losses is None or losses.ctc is None else float(losses.ctc.detach()),
        "ctc_symbols": 0 if losses is None else losses.ctc_symbols,
        "auxiliary": 0.0 if losses is None else sum(float(value.detach()) for value in losses.auxiliary.values()),
        "utterances": len(batch.utterances),
        "samples": float(batch.lengths.sum()),
    }


def _names(batch: Batch) -> str:
    return ", ".join(utterance.id for utterance in batch.utterances)
