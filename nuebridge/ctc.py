"""The CTC head: a linear layer over encoder frames with a small vocabulary of its own.

One head can serve as an auxiliary training loss, for CTC compression, for word times, for drafts
and as a check on the decoder. Connectionist temporal classification: Graves et al., ICML 2006.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nuebridge.contracts import CtcWeights, Frames, ParameterGroup, Part
from nuebridge.settings import CtcVocabulary
from nuebridge.tensors import load_weights, save_weights

BLANK = 0
"""Index of the blank in every CTC vocabulary of nuebridge."""


class CtcHead(Part):
    """Frames ``[B, F, E]`` to ``ctc_logits [B, F, C]``, where C counts the symbols and the blank."""

    def __init__(self, input_size: int, vocabulary: CtcVocabulary) -> None:
        super().__init__()
        self.options = vocabulary
        self.vocabulary = vocabulary
        spelling = [(symbol, i + 1) for i, symbol in enumerate(vocabulary.symbols) if symbol not in vocabulary.silent]
        self.index = dict(spelling)
        longest_first = sorted(self.index, key=len, reverse=True)
        self.pattern = re.compile("|".join(map(re.escape, longest_first)))
        self.proj = nn.Linear(input_size, len(vocabulary.symbols) + 1)

    @classmethod
    def load(cls, folder: Path, input_size: int, vocabulary: CtcVocabulary) -> Self:
        """The head that ``save`` wrote. Raises CheckpointError."""
        head = cls(input_size, vocabulary)
        load_weights(head, folder)
        return head

    @classmethod
    def of_checkpoint(cls, own: CtcWeights) -> Self:
        """The head that an encoder's checkpoint brought along (:meth:`SpeechEncoder.own_ctc_head`)."""
        head = cls(own.weight.shape[1], own.vocabulary)
        with torch.no_grad():
            head.proj.weight.copy_(own.weight)
            head.proj.bias.copy_(own.bias)
        return head

    def save(self, folder: Path) -> None:
        save_weights(self, folder)

    def forward(self, frames: Frames) -> Frames:
        """The same frames with ``ctc_logits`` filled in."""
        return replace(frames, ctc_logits=self.proj(frames.features))

    def encode(self, text: str) -> list[int]:
        """Symbol indices of a text, the longest symbols first; what the vocabulary lacks is left out."""
        spelled = "".join(self.pattern.findall(self._folded(text)))
        # Where something was left out between two spaces, they run together.
        return [self.index[symbol] for symbol in self.pattern.findall(" ".join(spelled.split()))]

    def unknown(self, text: str) -> str:
        """The characters of a text that no symbol spells, spaces aside, in order."""
        return "".join(self.pattern.sub("", self._folded(text)).split())

    def _folded(self, text: str) -> str:
        if self.vocabulary.lowercase:
            text = text.lower()
        if self.vocabulary.uppercase:
            text = text.upper()
        return " ".join(text.split())

    def decode(self, indices: Sequence[int]) -> str:
        """Text of the best symbol at every frame: repeats joined, blanks and silent symbols dropped."""
        symbols, last = [], BLANK
        for index in indices:
            symbol = self.vocabulary.symbols[index - 1]
            if index not in (last, BLANK) and symbol not in self.vocabulary.silent:
                symbols.append(symbol)
            last = index
        return " ".join("".join(symbols).split())

    def greedy(self, frames: Frames) -> list[str]:
        """The text of each clip by its best path. ``frames.ctc_logits`` must be filled in."""
        assert frames.ctc_logits is not None
        best = frames.ctc_logits.argmax(-1).cpu()
        return [self.decode(row[:length].tolist()) for row, length in zip(best, frames.lengths.tolist(), strict=True)]

    def parameter_groups(self) -> list[ParameterGroup]:
        return [ParameterGroup("head", tuple(self.parameters()))]


def ctc_loss(frames: Frames, targets: Sequence[Sequence[int]]) -> tuple[Tensor, int]:
    """The summed CTC loss (nats) and the number of target symbols it counts.

    A target that no path of its frames can spell (it needs one frame a symbol and one between
    equal neighbours) adds nothing to either. An empty one counts as one symbol, the blank, so
    that silence is learned too.
    """
    assert frames.ctc_logits is not None
    lengths = frames.lengths.tolist()
    fits = [_fits(target, length) for target, length in zip(targets, lengths, strict=True)]
    kept = [target if fit else [] for target, fit in zip(targets, fits, strict=True)]
    logits = frames.ctc_logits.float()
    losses = F.ctc_loss(
        logits.log_softmax(-1).transpose(0, 1),
        torch.tensor([index for target in kept for index in target], dtype=torch.int64, device=logits.device),
        frames.lengths,
        torch.tensor([len(target) for target in kept], dtype=torch.int64, device=logits.device),
        blank=BLANK,
        reduction="none",
    )
    weights = torch.tensor(fits, dtype=losses.dtype, device=losses.device)
    return (losses * weights).sum(), count_symbols(targets, lengths)


def count_symbols(targets: Sequence[Sequence[int]], lengths: Sequence[int]) -> int:
    """What :func:`ctc_loss` counts for targets on clips of so many frames, without the network."""
    return sum(max(1, len(target)) for target, length in zip(targets, lengths, strict=True) if _fits(target, length))


def _fits(target: Sequence[int], length: int) -> bool:
    """Whether any path of so many frames can spell a target."""
    return len(target) + sum(a == b for a, b in itertools.pairwise(target)) <= length
