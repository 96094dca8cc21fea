"""What is tested: a component with its options and, where it reads a checkpoint, one of those.

A subject makes as many fresh parts as the checks ask for, all of one checkpoint, in float32 and in eval mode. For the
rules that all kinds of parts share, ``output`` gives what a part makes of one fixed input.
"""

from __future__ import annotations

import copy
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel
from torch import Tensor

from nuebridge.contracts import Bridge, Frames, Part, SpeechEncoder, TextDecoder, length_mask
from nuebridge.errors import SizeMismatchError
from nuebridge.model import Integration
from nuebridge.plugins import ComponentRef, PluginManager
from nuebridge.testing.rules import Breach, NotApplicable

Source = str | Path | Callable[[Path], None]

WIDTHS = ((16, 24), (16, 16), (24, 24), (32, 32))
"""Widths that a bridge is tried between; the first pair that it takes is used."""

CTC_SYMBOLS = 7
"""C of the CTC logits that bridges are given, the blank included."""


@dataclass
class Subject:
    """A component as it is tested."""

    ref: ComponentRef[Any]
    given: Mapping[str, Any] = field(default_factory=dict)
    """Options as a registry entry would have them."""
    example: str = ""
    """Name of the checkpoint."""
    source: Source | None = None

    def __str__(self) -> str:
        return self.example or self.ref.id

    @cached_property
    def options(self) -> BaseModel:
        """The validated options."""
        return self.ref.parse_options(self.given)

    @cached_property
    def _keeper(self) -> tempfile.TemporaryDirectory[str]:
        return tempfile.TemporaryDirectory(prefix="nuebridge-testing-")

    def new_folder(self) -> Path:
        """An empty folder that goes when the subject does."""
        return Path(tempfile.mkdtemp(dir=self._keeper.name))

    @cached_property
    def folder(self) -> Path:
        """The folder of the checkpoint that is read."""
        if callable(self.source):
            folder = self.new_folder()
            with torch.random.fork_rng(devices=[]):
                self.source(folder)
            return folder
        if self.source is None:
            raise NotApplicable(f"{self.ref.id} reads no checkpoint")
        return Path(self.source)


class PartSubject(Subject, ABC):
    """A component whose ``load`` gives a class of parts."""

    @abstractmethod
    def make(self) -> Part:
        """The part as its source has it."""

    @abstractmethod
    def reload(self, folder: Path) -> Part:
        """The part that ``save`` wrote into a folder."""

    @abstractmethod
    def output(self, part: Any) -> Tensor:
        """What the part makes of a fixed padded batch, the real positions alone: flat, differentiable."""

    def fresh(self, *, shaken: bool = False) -> Any:
        """A new part, float32, in eval mode; ``shaken``: its weights moved off those of the source."""
        part = self._copied()
        if shaken:
            generator = torch.Generator().manual_seed(11)
            with torch.no_grad():
                for parameter in part.parameters():
                    noise = torch.randn(parameter.shape, generator=generator).to(parameter)
                    parameter.add_(0.02 * noise)
        return part

    def _copied(self) -> Any:
        try:
            return copy.deepcopy(self._pristine)  # many times faster than loading
        except TypeError:  # something in it cannot be copied
            return self.make().float().eval()

    @cached_property
    def _pristine(self) -> Part:
        return self.make().float().eval()

    @cached_property
    def part(self) -> Any:
        """One part for the checks that only look; they must not change it."""
        return self.fresh()


class EncoderSubject(PartSubject):
    """A speech encoder that reads a checkpoint."""

    def make(self) -> SpeechEncoder:
        return self._read(str(self.folder))

    def reload(self, folder: Path) -> SpeechEncoder:
        return self._read(str(folder)).float().eval()

    def _read(self, source: str) -> SpeechEncoder:
        part: SpeechEncoder = self.ref.load().load(source, self.options)
        return part

    def samples(self, *seconds: float) -> list[int]:
        """Durations as numbers of samples."""
        return [round(one * self.part.sample_rate) for one in seconds]

    def clips(self, lengths: list[int], *, seed: int = 3) -> tuple[Tensor, Tensor]:
        """Noise of those lengths in one padded batch ``[B, S]``, and the lengths ``[B]``."""
        batch = torch.zeros(len(lengths), max([1, *lengths]))
        for row, length in enumerate(lengths):
            generator = torch.Generator().manual_seed(1000 * seed + row)
            batch[row, :length] = 0.1 * torch.randn(length, generator=generator) + 0.02
        return batch, torch.tensor(lengths, dtype=torch.int64)

    def output(self, part: Any) -> Tensor:
        frames: Frames = part(*self.clips(self.samples(0.62, 0.3)))
        return real(frames)

    @cached_property
    def shortest(self) -> int:
        """Samples of the shortest clip that gives a frame, by ``output_lengths``."""
        return smallest(lambda samples: self.frames_of(samples) >= 1, 3600 * int(self.part.sample_rate))

    def frames_of(self, samples: int) -> int:
        """``output_lengths`` of one clip."""
        return int(self.part.output_lengths(torch.tensor([samples])))


class DecoderSubject(PartSubject):
    """A text decoder that reads a checkpoint."""

    def make(self) -> TextDecoder:
        return self._read(str(self.folder))

    def reload(self, folder: Path) -> TextDecoder:
        return self._read(str(folder)).float().eval()

    def _read(self, source: str) -> TextDecoder:
        part: TextDecoder = self.ref.load().load(source, self.options)
        return part

    def token_ids(self, count: int, *, seed: int = 5) -> Tensor:
        """Token ids ``[count]``, no special ones."""
        special = {*self.part.eos_token_ids, self.part.bos_token_id, self.part.pad_token_id}
        ids = torch.randint(self.part.vocab_size, (8 * count + 64,), generator=torch.Generator().manual_seed(seed))
        kept = [token for token in ids.tolist() if token not in special]
        return torch.tensor((kept * count)[:count])

    def embeds(self, part: Any, count: int, *, seed: int = 5) -> Tensor:
        """Embeddings ``[1, count, D]`` of some tokens, off their places as audio's are, without a gradient."""
        return self._embeds(part, count, seed).detach()

    def _embeds(self, part: Any, count: int, seed: int) -> Tensor:
        embeds: Tensor = part.embed(self.token_ids(count, seed=seed))[None].float()
        noise = torch.randn(embeds.shape, generator=torch.Generator().manual_seed(seed))
        return embeds + 0.1 * embeds.detach().std() * noise

    def output(self, part: Any) -> Tensor:
        embeds = torch.zeros(2, 7, part.hidden_size)
        embeds[0] = self._embeds(part, 7, 5)[0]
        embeds[1, 2:6] = self._embeds(part, 4, 6)[0]
        mask = torch.tensor([[1] * 7, [0, 0, 1, 1, 1, 1, 0]])
        logits: Tensor = part(embeds.to(part.dtype), mask)
        return logits[mask.bool()].float()


class BridgeSubject(PartSubject):
    """A bridge between two widths, with random weights."""

    @cached_property
    def sizes(self) -> tuple[int, int]:
        """Widths on its two sides; equal ones for a bridge without a projection, which takes no others."""
        *others, last = WIDTHS
        for sizes in others:
            try:
                self.build(*sizes)
            except SizeMismatchError:
                continue
            return sizes
        return last

    def make(self) -> Bridge:
        return self.build(*self.sizes)

    def build(self, input_size: int, output_size: int) -> Bridge:
        """A fresh bridge, always with the same weights."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(17)
            bridge: Bridge = self.ref.load().build(input_size, output_size, self.options)
        return bridge

    def reload(self, folder: Path) -> Bridge:
        bridge: Bridge = self.ref.load().load(folder, *self.sizes, self.options)
        return bridge.float().eval()

    def frames(self, lengths: list[int], *, width: int | None = None, extra: int = 0, seed: int = 7) -> Frames:
        """Frames as an encoder and its CTC head give them: zeros past the lengths, but logits there all the same.

        ``extra`` frames of padding that all rows share. What a row holds depends on its place and length alone.
        """
        width = self.sizes[0] if width is None else width
        features = torch.zeros(len(lengths), max([1, *lengths]) + extra, width)
        generator = torch.Generator().manual_seed(seed)
        logits = torch.randn(*features.shape[:2], CTC_SYMBOLS, generator=generator)
        for row, length in enumerate(lengths):
            generator = torch.Generator().manual_seed(1000 * seed + row)
            features[row, :length] = torch.randn(length, width, generator=generator)
            logits[row, :length] = peaky_logits(length, generator)
        return Frames(features, torch.tensor(lengths, dtype=torch.int64), logits)

    def output(self, part: Any) -> Tensor:
        frames = self.frames([40, 23])
        frames = Frames(frames.features.to(part.dtype), frames.lengths, frames.ctc_logits)
        return real(part(frames))

    @cached_property
    def shortest(self) -> int:
        """Frames of the shortest clip that gives a position, by ``output_lengths``."""
        return smallest(lambda frames: int(self.part.output_lengths(torch.tensor([frames]))) >= 1, 1_000_000)


@dataclass
class IntegrationSubject(Subject):
    """A whole recogniser, made by a checkpoint format from a folder."""

    manager: PluginManager | None = None

    def make(self) -> Integration:
        """The integration of the folder, in eval mode."""
        manager = self.manager or PluginManager.discover()
        integration: Integration = self.ref.load()(self.folder, manager)
        return integration.float().eval()


def peaky_logits(length: int, generator: torch.Generator) -> Tensor:
    """CTC logits ``[length, C]`` as a trained head gives them: symbols in short runs, blanks between."""
    best = torch.zeros(length, dtype=torch.int64)
    for start in range(1, length, 4):
        best[start : start + 2] = 1 + int(torch.randint(CTC_SYMBOLS - 1, (1,), generator=generator))
    logits = torch.randn(length, CTC_SYMBOLS, generator=generator)
    return logits + 5.0 * torch.nn.functional.one_hot(best, CTC_SYMBOLS)


def real(frames: Frames) -> Tensor:
    """The features of real frames alone, ``[N, E]`` float32."""
    return frames.features[length_mask(frames.lengths, frames.features.shape[1])].float()


def smallest(holds: Callable[[int], bool], limit: int) -> int:
    """The smallest number from 1 on for which something holds, which holds for all larger ones too."""
    low, high = 0, 1
    while not holds(high):
        if high > limit:
            raise Breach(f"output_lengths gives nothing for an input of {high}")
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high
