"""How many decoder positions an utterance takes, counted without running a network."""

from __future__ import annotations

from functools import lru_cache

import torch

from nuebridge.data import Utterance
from nuebridge.model import Integration
from nuebridge.prompt import render


class PositionCounter:
    """Counts for one integration; ``stretch`` is how many times as long augmentation may make a clip."""

    def __init__(self, integration: Integration, stretch: float = 1.0) -> None:
        self._integration = integration
        self._stretch = stretch
        self._audio = lru_cache(maxsize=1 << 16)(self._count_audio)
        self._prompt = lru_cache(maxsize=1 << 10)(self._count_prompt)

    def __call__(self, utterance: Utterance) -> tuple[int, int]:
        """Positions of prompt and audio (an upper bound where the bridge only knows one), and of the text.

        Raises PromptError where the prompt lacks a value.
        """
        return self.prompt(utterance) + self.audio(utterance), self.text(utterance)

    def prompt(self, utterance: Utterance) -> int:
        """Positions of prefix and suffix. Raises PromptError where the prompt lacks a value."""
        return self._prompt(tuple(sorted(prompt_values(self._integration, utterance).items())))

    def audio(self, utterance: Utterance) -> int:
        """Positions of the audio, an upper bound where the bridge only knows one."""
        return self._audio(self.samples(utterance))

    def text(self, utterance: Utterance) -> int:
        """Positions of the text: the last token, the end token, is learned but never read."""
        return len(self._integration.decoder.encode(utterance.target or ""))

    def samples(self, utterance: Utterance) -> int:
        """Samples of the audio."""
        return round((utterance.duration or 0.0) * self._stretch * self._integration.sample_rate)

    def _count_prompt(self, values: tuple[tuple[str, str | None], ...]) -> int:
        parts = render(self._integration.prompt, dict(values))
        return sum(len(self._integration.decoder.encode(part)) for part in parts)

    def _count_audio(self, samples: int) -> int:
        frames = self._integration.encoder.output_lengths(torch.tensor([samples])).clamp(min=0)
        return int(self._integration.bridge.output_lengths(frames))


def prompt_values(integration: Integration, utterance: Utterance) -> dict[str, str | None]:
    """What fills the prompt's fields for an utterance, where the prompt declares them."""
    values = {"language": integration.language, **utterance.prompt_fields}
    return {name: value for name, value in values.items() if name in integration.prompt.fields}
