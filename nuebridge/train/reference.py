"""The model as a run found it: what ``losses.kl`` holds the trained one near.

It is the trained model itself wherever that still is what it was: frozen parts are shared, and LoRA is
switched off. Of parts whose own weights have changed or will, a frozen copy is kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from nuebridge.contracts import Frames
from nuebridge.errors import TrainingError
from nuebridge.lora import without_lora
from nuebridge.lora.layers import activate
from nuebridge.model import Integration, TextBatch
from nuebridge.train.config import TrainConfig
from nuebridge.train.engine import Engine
from nuebridge.train.trainable import ADAPTER


class Reference:
    """Next-token logits of the starting weights. Raises TrainingError where there is no text to compare on.

    ``start`` is the integration as the run began with it; what is needed of it is kept. To be made before
    the engine, and settled when that is there.
    """

    def __init__(self, trained: Integration, start: Integration, config: TrainConfig) -> None:
        if config.losses.text == 0:
            raise TrainingError("losses.kl compares next-token distributions, but losses.text is 0; set kl to 0")
        self._trained = trained
        self.copies = tuple(name for name in trained.parts if _must_be_kept(name, trained, start, config))
        """Names of the parts that a copy is kept of."""
        parts = {**trained.parts, **{name: start.parts[name] for name in self.copies}}
        for name in self.copies:
            parts[name].requires_grad_(False)
        self._model = Integration(**parts, prompt=trained.prompt)  # type: ignore[arg-type]
        self._adapted = [name for name in trained.parts if name not in self.copies and getattr(config.parts, name).lora]
        self._shares_frames = "encoder" not in (*self.copies, *self._adapted)
        if config.cache_frozen and not config.parts.encoder.is_trained and not self._shares_frames:
            raise TrainingError(
                "losses.kl needs the frames of the encoder that the run began with, but an earlier stage changed it, "
                "and cache_frozen keeps those of the changed one; set cache_frozen to false"
            )

    def settle(self, engine: Engine) -> None:
        """Moves the copies to where the trained model is, divided as that is."""
        for name in self.copies:
            engine.take_in(self._model.parts[name].eval())

    @torch.no_grad()
    def __call__(self, waveforms: Tensor, lengths: Tensor, frames: Frames, batch: TextBatch) -> Tensor:
        """Logits ``[N, V]`` float32 for the text tokens of a batch; ``frames`` are those of the trained encoder."""
        with self._as_it_was():
            if not self._shares_frames:
                frames = self._model.encoder(waveforms, lengths)
            if self._model.bridge.needs_ctc:
                frames = self._model.parts["ctc_head"](frames)
            return self._model.text_logits(frames, batch)[0]

    @contextmanager
    def _as_it_was(self) -> Iterator[None]:
        """Within the block nothing is random, and the LoRA that is trained does not work."""
        shared = [part for name, part in self._trained.parts.items() if name not in self.copies and part.training]
        adapted = [self._trained.parts[name] for name in self._adapted]
        weights = {name: adapter.weight for name, adapter in self._trained.adapters.items() if adapter.weight}
        try:
            for part in shared:
                part.eval()
            for part in adapted:
                activate(part, {name: weight for name, weight in weights.items() if name != ADAPTER})
            yield
        finally:
            for part in adapted:
                activate(part, weights)
            for part in shared:
                part.train()


def _must_be_kept(name: str, trained: Integration, start: Integration, config: TrainConfig) -> bool:
    """Whether a part is not, or will not be, what it was but for the LoRA of this run."""
    settings = getattr(config.parts, name)
    before = start.adapters.get(ADAPTER)
    if settings.train or (before is not None and name in before.lora):
        return True
    now, then = trained.parts[name], start.parts[name]
    with without_lora(now, then):
        return any(
            not torch.equal(ours.cpu(), theirs.cpu())
            for ours, theirs in zip(now.parameters(), then.parameters(), strict=True)
        )
