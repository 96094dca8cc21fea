"""One clip of the corpus from its seed and its number: what is said, in which voice, with which effects."""

from __future__ import annotations

import random
from dataclasses import dataclass

import effects
import numpy as np
from sentences import Sentences, Utterance
from synthesize import SynthesisError, Synthesizer
from voices import Voice, check_trainable, random_voice

EMPTY_SHARE = 0.04
SEVERAL_SHARE = 0.22
"""Share of the clips with two to five sentences, as many as fit into `LONGEST_SECONDS`."""
ONE_BREATH_SHARE = 0.4
"""Share of those that are spoken as one text, with the engine's own pauses."""
LONGEST_SECONDS = 14.0
CHARACTERS_PER_SECOND = 11.0
"""A low estimate, so that a text is rarely spoken in vain."""
BABBLE_CLIPS = 24
SHORTEST_SECONDS = 0.15


@dataclass(frozen=True)
class Clip:
    """A finished clip and what the manifest says about it."""

    samples: effects.Samples
    text: str
    engine: str
    voice: str
    rate: float
    kind: str
    overlaps: int


class ClipMaker:
    """Makes the clips of one seed; start a new one, in a new process, for every block.

    The synthesisers' libraries keep a state from clip to clip, so a clip's samples depend on those made before it in
    the same process: making blocks in order, each in a process of its own, keeps the corpus the same for any number
    of processes.
    """

    def __init__(self, seed: int, split: str) -> None:
        self.seed = f"{split}/{seed}"
        self.synthesizer = Synthesizer()
        self.others = self._babble_bank()

    def _random(self, name: str) -> tuple[random.Random, np.random.Generator]:
        text = random.Random(f"{self.seed}/{name}")
        return text, np.random.default_rng(text.getrandbits(64))

    def _babble_bank(self) -> list[effects.Samples]:
        bank: list[effects.Samples] = []
        for number in range(BABBLE_CLIPS):
            rng, _ = self._random(f"babble/{number}")
            utterance = Sentences(rng).draw()
            samples, rate = self._speak(utterance, random_voice(rng))
            bank.append(effects.resample(samples, rate))
        return bank

    def _speak(self, utterance: Utterance, voice: Voice) -> tuple[effects.Samples, int]:
        samples, rate = self.synthesizer.speak(utterance.spoken, check_trainable(voice))
        if samples.size < SHORTEST_SECONDS * rate:
            raise SynthesisError(f"{voice.name} was silent at {utterance.spoken!r}")
        return samples, rate

    def _several(
        self, rng: random.Random, sentences: Sentences, voice: Voice
    ) -> tuple[list[Utterance], list[tuple[effects.Samples, int]]]:
        """Two to five sentences, fewer where they would be too long, and how they are spoken."""
        said = [sentences.draw()]
        for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 4))):
            following = sentences.draw()
            characters = sum(len(utterance.text) for utterance in (*said, following))
            if characters > LONGEST_SECONDS * CHARACTERS_PER_SECOND:
                break
            said.append(following)
        if rng.random() < ONE_BREATH_SHARE:
            whole = ". ".join(utterance.spoken.rstrip(" .") for utterance in said)
            whole = whole.replace("?.", "?").replace("!.", "!")
            pieces = [self._speak(Utterance("", whole, "several"), voice)]
        else:
            pieces = [self._speak(utterance, voice) for utterance in said]
        while len(pieces) > 1 and sum(samples.size / rate for samples, rate in pieces) > LONGEST_SECONDS * voice.speed:
            pieces.pop()
            said.pop()
        return said, pieces

    def make(self, index: int) -> Clip:
        """The clip of a number."""
        rng, noise = self._random(f"clip/{index}")
        pick = rng.random()
        if pick < EMPTY_SHARE:
            return Clip(effects.nothing(noise), "", "none", "", 0.0, "empty", 0)
        sentences = Sentences(rng)
        voice = random_voice(rng)
        if pick < EMPTY_SHARE + SEVERAL_SHARE:
            said, pieces = self._several(rng, sentences, voice)
        else:
            said = [sentences.draw()]
            pieces = [self._speak(said[0], voice)]
        samples = effects.assemble(noise, pieces, self.others, voice.speed)
        kind = said[0].kind if len(said) == 1 else "several"
        text = " ".join(utterance.text for utterance in said)
        return Clip(samples, text, voice.engine, voice.name, voice.rate, kind, sentences.overlaps)
