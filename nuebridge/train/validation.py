"""How well an integration does on a validation manifest: error rates and a few samples to look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from nuebridge.contracts import RecognitionOptions
from nuebridge.data import Utterance
from nuebridge.metrics import basic_normalize, character_errors, word_errors
from nuebridge.model import Integration


@dataclass(frozen=True)
class ValidationResult:
    """Error rates over all utterances, from sums, texts compared in basic normalisation."""

    wer: float | None
    cer: float | None
    ctc_cer: float | None
    samples: tuple[tuple[str, str], ...]
    """Reference and hypothesis of the first utterances."""


@torch.inference_mode()
def validate(
    integration: Integration, utterances: Sequence[Utterance], *, batch_size: int, samples: int, text: bool
) -> ValidationResult:
    """Greedy error rates; ``text`` False scores the CTC head alone. Leaves the model in eval mode."""
    integration.eval()
    ordered = sorted(utterances, key=lambda u: u.duration or 0.0)
    ctc: dict[str, str] = {}
    written: dict[str, str] = {}
    for start in range(0, len(ordered), batch_size):
        batch = ordered[start : start + batch_size]
        waveforms = [torch.from_numpy(utterance.load(integration.sample_rate)) for utterance in batch]
        if integration.ctc_head is not None:
            lengths = torch.tensor([len(waveform) for waveform in waveforms], device=integration.device)
            padded = torch.nn.utils.rnn.pad_sequence(waveforms, batch_first=True).to(integration.device)
            texts = integration.ctc_head.greedy(integration.encode_audio(padded, lengths))
            ctc.update(zip((u.id for u in batch), texts, strict=True))
        if text:
            transcripts = integration.recognize(waveforms, RecognitionOptions())
            written.update((u.id, t.text) for u, t in zip(batch, transcripts, strict=True))
    references = {u.id: basic_normalize(u.text or "") for u in utterances}

    def rates(hypotheses: dict[str, str]) -> tuple[float, float]:
        pairs = [(references[name], basic_normalize(hypothesis)) for name, hypothesis in hypotheses.items()]
        sides = [reference for reference, _ in pairs], [hypothesis for _, hypothesis in pairs]
        return word_errors(*sides).rate, character_errors(*sides).rate

    wer, cer = rates(written) if written else (None, None)
    shown = written or ctc
    return ValidationResult(
        wer,
        cer,
        rates(ctc)[1] if ctc else None,
        tuple((u.text or "", shown[u.id]) for u in utterances[:samples]),
    )
