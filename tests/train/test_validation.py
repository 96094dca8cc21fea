from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import jiwer
import pytest
import torch

from nuebridge.data import Utterance, read_manifest
from nuebridge.errors import DataError
from nuebridge.metrics import basic_normalize
from nuebridge.model import Integration
from nuebridge.train.gain import measure
from nuebridge.train.validation import validate

BATCH = {"batch_size": 5, "samples": 2}


@pytest.fixture
def chatty(toy_integration: Integration) -> Integration:
    """It writes one of few letters and spaces, so that there is something to compare."""
    torch.manual_seed(4)
    with torch.no_grad():
        toy_integration.decoder.head.bias[list(b"lowmid ")] += 3
        toy_integration.decoder.head.weight[list(b"lowmid ")] = torch.randn(7, 16) * 3
        toy_integration.bridge.conv.weight *= 10  # what is heard makes a difference
    return toy_integration


def test_rates_are_jiwers(chatty: Integration, corpus: Path) -> None:
    utterances = read_manifest(corpus)
    result = validate(chatty, utterances, text=True, **BATCH)
    references = [basic_normalize(u.text) for u in utterances]
    written = [basic_normalize(t.text) for t in chatty.transcribe([u.audio_filepath for u in utterances])]
    assert len(set(written)) > 1
    assert result.wer == pytest.approx(jiwer.wer(references, written))
    assert result.cer == pytest.approx(jiwer.cer(references, written))
    spelled = []
    for utterance in utterances:
        waveform = torch.from_numpy(utterance.load(1000))[None]
        spelled += chatty.ctc_head.greedy(chatty.encode_audio(waveform, torch.tensor([waveform.shape[1]])))
    assert result.ctc_cer == pytest.approx(jiwer.cer(references, [basic_normalize(text) for text in spelled]))
    assert [reference for reference, _ in result.samples] == ["low", "mid"]
    assert [basic_normalize(text) for _, text in result.samples] == written[:2]


def test_the_ctc_head_alone(chatty: Integration, corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chatty.decoder, "generate", lambda *_: pytest.fail("ran"))
    result = validate(chatty, read_manifest(corpus), text=False, **BATCH)
    assert result.wer is None and result.cer is None and result.ctc_cer is not None and len(result.samples) == 2
    assert result.loss is None and result.audio_gain is None


def test_without_a_ctc_head(chatty: Integration, corpus: Path) -> None:
    chatty.ctc_head = None
    result = validate(chatty, read_manifest(corpus), text=True, **BATCH)
    assert result.ctc_cer is None and result.wer is not None


def test_it_leaves_dropout_off(chatty: Integration, corpus: Path) -> None:
    chatty.train()
    first = validate(chatty, read_manifest(corpus), text=True, **BATCH)
    assert not chatty.encoder.dropout.training
    assert validate(chatty, read_manifest(corpus), text=True, **BATCH) == first


def test_batches_make_no_difference(chatty: Integration, corpus: Path) -> None:
    utterances = read_manifest(corpus)
    one, other = (validate(chatty, utterances, batch_size=size, samples=12, text=True) for size in (1, 7))
    assert one.samples == other.samples and one.figures == pytest.approx(other.figures, rel=1e-5)


def test_losses_stand_beside_the_rates(chatty: Integration, corpus: Path) -> None:
    utterances = read_manifest(corpus)
    result = validate(chatty, utterances, text=True, seed=3, **BATCH)
    forced = measure(chatty, utterances, batch_size=5, seed=3)
    assert (result.loss, result.audio_gain, result.left_out) == (forced.loss, forced.audio_gain, 0)
    assert list(result.figures) == ["wer", "cer", "ctc_cer", "loss", "audio_gain"]
    without = validate(chatty, utterances, text=True, audio_gain=False, **BATCH)
    assert without.audio_gain is None and without.loss == result.loss


def test_what_is_learned_is_the_reference(chatty: Integration, corpus: Path) -> None:
    """A target that is not the text, as in translation."""
    utterances = [replace(utterance, fields={"target": "tief"}) for utterance in read_manifest(corpus)]
    result = validate(chatty, utterances, text=True, **BATCH)
    assert [reference for reference, _ in result.samples] == ["tief", "tief"]
    assert result.audio_gain is None  # one text for all


def test_ids_of_two_manifests_may_be_the_same(chatty: Integration, corpus: Path) -> None:
    lines = [Utterance("same", u.audio_filepath, u.text, u.duration) for u in read_manifest(corpus)]
    assert validate(chatty, lines, text=True, **BATCH) == validate(chatty, read_manifest(corpus), text=True, **BATCH)


def test_a_clip_too_short_to_hear_counts_as_nothing_heard(chatty: Integration, corpus: Path) -> None:
    first = read_manifest(corpus)[0]
    short = Utterance("short", first.audio_filepath, "low mid", 0.15)
    result = validate(chatty, [short], text=True, **BATCH)
    assert (result.wer, result.cer, result.ctc_cer) == (1.0, 1.0, 1.0) and result.samples == (("low mid", ""),)
    assert (result.loss, result.audio_gain, result.left_out) == (None, None, 1)


def test_long_recordings_are_cut_as_in_transcribing(chatty: Integration, corpus: Path) -> None:
    chatty.max_audio_seconds = 0.3
    utterances = read_manifest(corpus)[:3]
    result = validate(chatty, utterances, text=True, **BATCH)
    written = [t.text for t in chatty.transcribe([u.audio_filepath for u in utterances])]
    assert [text for _, text in result.samples] == written[:2]
    seen = []
    chatty.encoder.register_forward_pre_hook(lambda _, inputs: seen.append(int(inputs[1].max())))
    alone = validate(chatty, utterances, text=False, **BATCH)
    assert max(seen) <= 0.3 * chatty.sample_rate and alone.ctc_cer == result.ctc_cer is not None


def test_nothing_but_empty_references(chatty: Integration, corpus: Path) -> None:
    first = read_manifest(corpus)[0]
    result = validate(chatty, [Utterance("u", first.audio_filepath, "", None)], text=True, **BATCH)
    assert (result.wer, result.cer, result.ctc_cer) == (None, None, None)


@pytest.mark.parametrize("text", [True, False])
def test_audio_that_cannot_be_read_names_its_utterance(chatty: Integration, tmp_path: Path, text: bool) -> None:
    with pytest.raises(DataError, match=r"utterance lost: .*no such file"):
        validate(chatty, [Utterance("lost", tmp_path / "none.wav", "x", 1.0)], text=text, **BATCH)
