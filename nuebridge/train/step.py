"""One optimiser step: a batch goes through the integration, its losses come back, the weights move.

What the losses are divided by is counted from texts and lengths beforehand, over all ranks. So a
rank may cut its share of a batch into pieces that its device can compute at once, and their
gradients add up to those of the whole.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from nuebridge.contracts import Frames
from nuebridge.data import Utterance
from nuebridge.errors import AudioError, PromptError, TrainingError
from nuebridge.model import Losses, Targets
from nuebridge.train.batches import Batch
from nuebridge.train.config import Stage
from nuebridge.train.engine import Engine
from nuebridge.train.masking import mask_frames
from nuebridge.train.positions import prompt_values
from nuebridge.train.recompute import layers, recomputing
from nuebridge.train.reference import Reference
from nuebridge.train.trainable import set_training_mode

FILLER_SECONDS = 1.0
"""Length of the noise that a rank computes in vain where the others still compute."""


@dataclass(frozen=True)
class StepResult:
    """What a step gave, the same on every rank."""

    figures: dict[str, float]
    """Losses of the whole batch, each a mean over what it counts (nats), and the norm of the gradient."""
    samples: int
    """Audio samples of the whole batch, padding not counted."""
    asked_to_stop: bool
    """True where any rank was asked to: all leave after the same step."""
    unreadable: int = 0
    """How many utterances of the whole batch could not be read; where that is all, no step was made."""


@dataclass(frozen=True)
class Piece:
    """What a device computes at once: ``waveforms [B, S]``, ``lengths [B]`` in samples, and what is learned."""

    waveforms: Tensor
    lengths: Tensor
    utterances: tuple[Utterance, ...]
    targets: Targets
    epoch: int
    frames: Frames | None = None
    """What the encoder gives, where it was kept."""
    weight: float = 1.0
    """0 for a piece that only keeps this rank in step with the others."""


class Stepper:
    """Makes the steps of one stage."""

    def __init__(self, engine: Engine, stage: Stage, reference: Reference | None = None) -> None:
        self.engine = engine
        self.integration = engine.integration
        self.stage = stage
        self.ranks = engine.ranks
        self.reference = reference
        self._layers: list[nn.Module] = []

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
        return {group["part"]: group["lr"] for group in self.engine.optimizer.param_groups}

    def _step(self, batch: Batch, number: int, asked_to_stop: Callable[[], bool]) -> StepResult:
        self._begin(number)
        pieces = list(self._pieces(batch)) if batch.utterances else []
        every = self.ranks.gather_numbers({**self._counts(batch, pieces), "stop": float(asked_to_stop())})
        counts = {name: sum(numbers[name] for numbers in every) for name in every[0]}
        stop, unreadable = counts["stop"] > 0, int(counts["unreadable"])
        if not counts["utterances"]:
            return StepResult({}, 0, stop, unreadable)
        if not counts["text_tokens"] and not counts["ctc_symbols"]:
            raise TrainingError(
                f"every text of the batch {self._all_names(batch)} is too long for its audio, so that there is no CTC "
                "loss; leave these utterances out"
            )
        # Where the model is divided, no rank can compute without the others; else gradients are exchanged once.
        most = max(int(numbers["pieces"]) for numbers in every) if self.engine.same_count else 1
        if len(pieces) < most:
            pieces += [self._filler(batch.epoch)] * (most - len(pieces))
        progress = number / max(1, self.stage.schedule.steps - 1)
        computed = [
            self.engine.backward(partial(self._loss, piece, counts, progress), last=place + 1 == len(pieces))
            for place, piece in enumerate(pieces)
        ]
        norm = self.engine.clip(self.stage.config.optimizer.max_gradient_norm)
        # All that is to be known, at once: to ask a device is to wait for it.
        *sums, norm_now = torch.cat([torch.stack(computed).sum(0), norm.detach().float()[None]]).tolist()
        summed = self.ranks.sum_numbers(dict(zip(("text", "ctc", "kl", "auxiliary"), sums, strict=True)))
        figures = self._means(summed, counts)
        self._check_finite("loss", sum(figures.values()), number, batch)
        self._check_finite("gradient", norm_now, number, batch)
        self.engine.update()
        return StepResult({**figures, "gradient_norm": norm_now}, int(counts["samples"]), stop, unreadable)

    def _begin(self, number: int) -> None:
        """What is trained in this step, and how fast."""
        config = self.stage.config
        self.engine.begin_step(number)
        set_training_mode(self.integration)
        for group in self.engine.optimizer.param_groups:
            factor = self.stage.schedule.factor(number, getattr(config.parts, group["part"]))
            group["lr"] = group["peak_learning_rate"] * factor
        if config.gradient_checkpointing:
            # Nothing is kept of an encoder that is not trained, and nothing need be computed again.
            self._layers = [
                layer
                for name, part in self.integration.parts.items()
                if name != "encoder" or part.training
                for layer in layers(part)
            ]

    # --- what is counted -----------------------------------------------------------------------

    def _pieces(self, batch: Batch) -> Iterator[Piece]:
        """The batch, cut into what a device may compute at once."""
        losses, limit = self.stage.config.losses, self.stage.config.data.device_batch_seconds
        targets = self.integration.targets(batch.texts, text=losses.text > 0, ctc=losses.ctc > 0)
        lengths = batch.lengths.tolist()
        for rows in cut(lengths, math.inf if limit is None else limit * self.integration.sample_rate):
            yield Piece(
                batch.waveforms[rows, : max(lengths[rows])],
                batch.lengths[rows],
                batch.utterances[rows],
                targets[rows],
                batch.epoch,
                None if batch.frames is None else batch.frames.rows(rows),
            )

    def _filler(self, epoch: int) -> Piece:
        """A piece that is computed like any other and counts for nothing."""
        seconds = max(FILLER_SECONDS, self.integration.min_audio_seconds)
        noise = torch.rand(1, round(seconds * self.integration.sample_rate), generator=torch.Generator().manual_seed(0))
        utterance = Utterance("filler", Path("filler"), "", fields=dict.fromkeys(self.integration.prompt.fields, ""))
        config, lengths = self.stage.config, torch.tensor([noise.shape[1]])
        targets = self.integration.targets([""], text=config.losses.text > 0, ctc=config.losses.ctc > 0)
        frames = None
        if config.cache_frozen and not config.parts.encoder.is_trained:  # the others do not run the encoder either
            counts = self.integration.encoder.output_lengths(lengths)
            frames = Frames(torch.zeros(1, int(counts), self.integration.encoder.hidden_size), counts)
        return Piece(noise - 0.5, lengths, (utterance,), targets, epoch, frames, weight=0.0)

    def _counts(self, batch: Batch, pieces: Sequence[Piece]) -> dict[str, float]:
        """What this rank adds to the counts of the whole batch."""
        frames_of = self.integration.encoder.output_lengths
        counted = [
            piece.targets.count(frames_of(piece.lengths) if piece.frames is None else piece.frames.lengths)
            for piece in pieces
        ]
        return {
            "text_tokens": sum(tokens for tokens, _ in counted),
            "ctc_symbols": sum(symbols for _, symbols in counted),
            "utterances": len(batch.utterances),
            "unreadable": len(batch.unreadable),
            "samples": float(batch.lengths.sum()),
            "pieces": len(pieces),
        }

    # --- what is computed ----------------------------------------------------------------------

    def _loss(self, piece: Piece, counts: Mapping[str, float], progress: float) -> tuple[Tensor, Tensor]:
        """What a piece adds to what is minimised, and its losses: text, CTC, divergence and auxiliary ones, summed."""
        losses = self._losses(piece)
        nothing = losses.text.detach().new_zeros(())
        auxiliary = sum((value.detach() for value in losses.auxiliary.values()), nothing)
        of_interest = [losses.text, losses.ctc, losses.kl, auxiliary]
        figures = torch.stack([(nothing if one is None else one.detach()).float() for one in of_interest])
        # Selected, not multiplied: a filler's numbers must not matter, whatever they are.
        figures = figures if piece.weight else torch.zeros_like(figures)
        return self._total(losses, counts, progress) * piece.weight, figures

    def _losses(self, piece: Piece) -> Losses:
        config, device = self.stage.config, self.engine.device
        generators = [self._generator(utterance, piece.epoch) for utterance in piece.utterances]
        autocast = torch.autocast(device.type, torch.bfloat16) if config.precision == "bfloat16" else nullcontext()
        with autocast, recomputing(self._layers):
            losses: Losses = self.integration(
                piece.waveforms.to(device, non_blocking=True),
                piece.lengths.to(device, non_blocking=True),
                [utterance.target or "" for utterance in piece.utterances],
                fields=[dict(prompt_values(self.integration, utterance)) for utterance in piece.utterances],
                text_loss=config.losses.text > 0,
                label_smoothing=config.losses.label_smoothing,
                token_replacement=config.losses.token_replacement,
                generators=generators,
                targets=piece.targets,
                frames=None if piece.frames is None else piece.frames.to(device),
                mask=partial(mask_frames, settings=config.spec_augment, generators=generators),
                reference=self.reference,
            )
        self._check_names(losses)
        return losses

    def _check_names(self, losses: Losses) -> None:
        """Raises TrainingError for the weight of a loss that no part adds: it would have no effect."""
        for name in self.stage.config.losses.auxiliary:
            if name not in losses.auxiliary:
                known = ", ".join(sorted(losses.auxiliary)) or "none"
                raise TrainingError(
                    f"losses.auxiliary weighs {name!r}, but no part adds a loss of that name (those that are added: "
                    f"{known}); leave it out"
                )

    def _generator(self, utterance: Utterance, epoch: int) -> torch.Generator:
        """What is drawn for an utterance depends on seed, epoch and utterance, not on batch or rank."""
        name = f"{self.stage.config.seed}:{epoch}:{utterance.id}"
        return torch.Generator().manual_seed(zlib.crc32(name.encode()))

    def _total(self, losses: Losses, counts: Mapping[str, float], progress: float) -> Tensor:
        """A part of what is minimised: sums over the counts of the whole batch, each times its weight."""
        weights = self.stage.config.losses
        # Every term is there on every rank and in every step, so that all compute the same gradients.
        total = weights.text * losses.text / max(1.0, counts["text_tokens"])
        if losses.ctc is not None:
            total = total + weights.ctc_weight(progress) * losses.ctc / max(1.0, counts["ctc_symbols"])
        if losses.kl is not None:
            total = total + weights.kl * losses.kl / max(1.0, counts["text_tokens"])
        for name, value in losses.auxiliary.items():
            total = total + weights.auxiliary.get(name, 1.0) * value / counts["utterances"]
        return total

    def _means(self, sums: Mapping[str, float], counts: Mapping[str, float]) -> dict[str, float]:
        """What is logged of a step: the losses of the whole batch, each over what it counts."""
        means = {}
        if counts["text_tokens"]:
            means["loss"] = sums["text"] / counts["text_tokens"]
        if counts["ctc_symbols"]:
            means["ctc_loss"] = sums["ctc"] / counts["ctc_symbols"]
        if self.reference is not None:
            means["kl"] = sums["kl"] / counts["text_tokens"]
        if sums["auxiliary"]:
            means["auxiliary_loss"] = sums["auxiliary"] / counts["utterances"]
        return means

    def _check_finite(self, what: str, value: float, number: int, batch: Batch) -> None:
        """All ranks have the same value, and so all raise."""
        if not math.isfinite(value):
            raise TrainingError(
                f"the {what} is {value} at step {number + 1} on the batch {self._all_names(batch)}; look at "
                "these recordings, or lower the learning rate and pass --resume auto"
            )

    def _all_names(self, batch: Batch) -> str:
        """The utterances of the whole batch; every rank must ask."""
        return ", ".join(self.ranks.gather_texts([utterance.id for utterance in batch.utterances]))


def cut(lengths: Sequence[int], limit: float) -> Iterator[slice]:
    """Neighbours that together, padded to the longest, are not longer than ``limit``; one that is, is alone."""
    begin, longest = 0, 0
    for row, length in enumerate(lengths):
        longest = max(longest, length)
        if row > begin and (row + 1 - begin) * longest > limit:
            yield slice(begin, row)
            begin, longest = row, length
    yield slice(begin, len(lengths))


def _names(batch: Batch) -> str:
    return ", ".join(utterance.id for utterance in batch.utterances)
