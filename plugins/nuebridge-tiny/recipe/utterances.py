"""One clip of the corpus from its seed and its number: what is said, in which voice, with which effects."""

from __future__ import annotations

import random
from dataclasses import dataclass

import effects
import numpy as np
from sentences import Sentences, Utterance
from synthesize import SynthesisError, Synthesizer
from voices import Voice, check_trainable, random_voice

EMPTY_SHARE = 0.015
PAIR_SHARE = 0.04
PAIR_CHARACTERS = 45
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

    def make(self, index: int) -> Clip:
        """The clip of a number."""
        rng, noise = self._random(f"clip/{index}")
        pick = rng.random()
        if pick < EMPTY_SHARE:
            return Clip(effects.nothing(noise), "", "none", "", 0.0, "empty", 0)
        sentences = Sentences(rng)
        if pick < EMPTY_SHARE + PAIR_SHARE:
            said = [sentences.draw(PAIR_CHARACTERS), sentences.draw(PAIR_CHARACTERS)]
        else:
            said = [sentences.draw()]
        voice = random_voice(rng)
        pieces = [self._speak(utterance, voice) for utterance in said]
        samples = effects.assemble(noise, pieces, self.others)
        kind = said[0].kind if len(said) == 1 else "pair"
        text = " ".join(utterance.text for utterance in said)
        return Clip(samples, text, voice.engine, voice.name, voice.rate, kind, sentences.overlaps)
