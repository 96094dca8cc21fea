from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from toy.parts import ToyBridge, ToyDecoder, ToyEncoder

from nuebridge.contracts import RecognitionOptions, Transcript
from nuebridge.ctc import CtcHead
from nuebridge.data import Utterance
from nuebridge.errors import (
    AudioError,
    AudioTooShortError,
    ConfigError,
    NumericalError,
    PromptError,
    SizeMismatchError,
)
from nuebridge.model import Integration, Losses
from nuebridge.settings import CtcVocabulary, GenerationSettings, PromptTemplate, TokenBudget
from tests.tones import RATE, write_corpus

EOS = 257
LETTERS = CtcVocabulary(symbols=tuple(" abcdefghijklmnopqrstuvwxyz"))
TEXTS = ["one", "a longer text", "", "zzz"]


def build(ctc: bool = True, **settings: Any) -> Integration:
    torch.manual_seed(0)
    head = CtcHead(12, LETTERS) if ctc else None
    settings.setdefault("prompt", PromptTemplate(prefix="<s>", suffix=":"))
    settings.setdefault("generation", GenerationSettings(max_new_tokens=TokenBudget(per_second=4, plus=6)))
    return Integration(ToyEncoder(12), ToyBridge(12, 16), ToyDecoder(16), ctc_head=head, **settings).eval()


def clips(*samples: int, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(count, generator=generator) * 0.3 for count in samples]


def losses(model: Integration, waveforms: list[Tensor], texts: list[str], **options: Any) -> Losses:
    padded = torch.nn.utils.rnn.pad_sequence(waveforms, batch_first=True)
    result: Losses = model(padded, torch.tensor([len(w) for w in waveforms]), texts, **options)
    return result


# --- parts that fit ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        (
            (ToyEncoder(12), ToyBridge(10, 16), ToyDecoder(16), None),
            "bridge ToyBridge reads frames of width 10, but the encoder ToyEncoder gives width 12",
        ),
        (
            (ToyEncoder(12), ToyBridge(12, 8), ToyDecoder(16), None),
            "bridge ToyBridge gives positions of width 8, but the decoder ToyDecoder reads width 16",
        ),
        (
            (ToyEncoder(12), ToyBridge(12, 16), ToyDecoder(16), CtcHead(11, LETTERS)),
            "CTC head reads frames of width 11, but the encoder ToyEncoder gives width 12",
        ),
    ],
)
def test_a_mismatch_names_both_sides(parts: tuple[Any, Any, Any, Any], said: str) -> None:
    encoder, bridge, decoder, head = parts
    with pytest.raises(SizeMismatchError, match=said):
        Integration(encoder, bridge, decoder, ctc_head=head)


def test_a_bridge_that_needs_a_ctc_head() -> None:
    bridge = ToyBridge(12, 16)
    bridge.needs_ctc = True
    with pytest.raises(SizeMismatchError, match="ToyBridge compresses by CTC and needs a CTC head"):
        Integration(ToyEncoder(12), bridge, ToyDecoder(16))
    Integration(ToyEncoder(12), bridge, ToyDecoder(16), ctc_head=CtcHead(12, LETTERS))


def test_parts_in_the_order_of_the_flow() -> None:
    assert list(build().parts) == ["encoder", "ctc_head", "bridge", "decoder"]
    assert list(build(ctc=False).parts) == ["encoder", "bridge", "decoder"]


# --- the shortest clip -----------------------------------------------------------------------------


class Windows(ToyEncoder):
    """Frames of 37 samples every 13, as a convolution without padding has."""

    def output_lengths(self, lengths: Tensor) -> Tensor:
        return (lengths - 37).div(13, rounding_mode="floor") + 1


class Triples(ToyBridge):
    def output_lengths(self, lengths: Tensor) -> Tensor:
        return ((lengths - 3).div(2, rounding_mode="floor") + 1).clamp(min=0)


@pytest.mark.parametrize("encoder", [ToyEncoder, Windows])
@pytest.mark.parametrize("bridge", [ToyBridge, Triples])
def test_min_audio_seconds_is_exact(encoder: type[ToyEncoder], bridge: type[ToyBridge]) -> None:
    model = Integration(encoder(12), bridge(12, 16), ToyDecoder(16))
    counts = torch.arange(1, 1000)
    positions = model.bridge.output_lengths(model.encoder.output_lengths(counts).clamp(min=0))
    shortest = int(counts[positions >= 1][0])
    assert model.min_audio_seconds == shortest / model.sample_rate


def test_min_audio_seconds_is_what_the_network_takes() -> None:
    model = build()
    shortest = round(model.min_audio_seconds * RATE)
    assert model.embed_audio(torch.zeros(1, shortest), torch.tensor([shortest])).lengths.tolist() == [1]
    with pytest.raises(
        AudioTooShortError, match="clip 1 of the batch has 1 frames, and the toy bridge needs at least 2"
    ):
        model.embed_audio(torch.zeros(2, shortest), torch.tensor([shortest, shortest - 1]))


def test_a_bridge_that_never_gives_anything() -> None:
    bridge = ToyBridge(12, 16)
    bridge.output_lengths = lambda lengths: lengths * 0  # type: ignore[method-assign]
    with pytest.raises(SizeMismatchError, match="an hour of audio gives the decoder nothing to read"):
        _ = Integration(ToyEncoder(12), bridge, ToyDecoder(16)).min_audio_seconds


# --- training --------------------------------------------------------------------------------------


def test_losses_are_sums_over_clips() -> None:
    model = build()
    waveforms = clips(900, 450, 700, 333)
    batch = losses(model, waveforms, TEXTS)
    single = [losses(model, [w], [t]) for w, t in zip(waveforms, TEXTS, strict=True)]
    assert batch.text.item() == pytest.approx(sum(one.text.item() for one in single), rel=1e-5)
    assert batch.text_tokens == sum(one.text_tokens for one in single) == sum(len(t) + 1 for t in TEXTS)
    assert batch.ctc.item() == pytest.approx(sum(one.ctc.item() for one in single), rel=1e-5)
    assert batch.ctc_symbols == sum(one.ctc_symbols for one in single)


def test_the_text_loss_is_the_decoders_own() -> None:
    """Token by token: minus the log-probability of each, given the prompt and those before it."""
    model = build(ctc=False)
    waveform = clips(600)[0]
    audio = model.embed_audio(waveform[None], torch.tensor([600]))
    prefix, suffix = (model.decoder.embed(torch.tensor(model.decoder.encode(t))) for t in ("<s>", ":"))
    so_far = torch.cat([prefix, audio.features[0], suffix])
    expected = 0.0
    for token in [*b"hi", EOS]:
        logits = model.decoder(so_far[None], torch.ones(1, len(so_far), dtype=torch.int64))[0, -1]
        expected -= logits.log_softmax(-1)[token].item()
        so_far = torch.cat([so_far, model.decoder.embed(torch.tensor([token]))])
    found = losses(model, [waveform], ["hi"])
    assert found.text.item() == pytest.approx(expected, rel=1e-5)
    assert found.text_tokens == 3 and found.ctc is None and found.ctc_symbols == 0


def test_without_text_loss_neither_bridge_nor_decoder_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build()
    for part in (model.bridge, model.decoder):
        monkeypatch.setattr(part, "forward", lambda *_: pytest.fail("ran"))
    found = losses(model, clips(900, 600), ["one", "two"], text_loss=False)
    assert found.text.item() == 0 and found.text_tokens == 0
    assert found.ctc.item() > 0 and found.ctc_symbols == 6


def test_a_frozen_encoder_gets_no_gradient() -> None:
    model = build().train()
    model.encoder.requires_grad_(False)
    frames = model.encode_audio(torch.randn(1, 400), torch.tensor([400]))
    assert not frames.features.requires_grad and frames.ctc_logits.requires_grad
    found = losses(model, clips(900, 600), ["one", "two"])
    (found.text + found.ctc).backward()
    assert all(p.grad is None for p in model.encoder.parameters())
    for part in (model.ctc_head, model.bridge, model.decoder):
        assert all(p.grad is not None for p in part.parameters())
    model.encoder.requires_grad_(True)
    losses(model, clips(900), ["one"]).text.backward()
    assert all(p.grad.any() for p in model.encoder.parameters())


def test_freezing_by_name() -> None:
    model = build()
    model.freeze("encoder", "decoder")
    frozen = {name: not any(p.requires_grad for p in part.parameters()) for name, part in model.parts.items()}
    assert frozen == {"encoder": True, "ctc_head": False, "bridge": False, "decoder": True}
    with pytest.raises(ConfigError, match="no part 'head'; this integration has encoder, ctc_head, bridge, decoder"):
        model.freeze("head")


def read_by(model: Integration, **options: Any) -> tuple[Tensor, Losses]:
    """What the decoder is given to read of one long text, and the losses."""
    seen: list[Tensor] = []
    hook = model.decoder.register_forward_pre_hook(lambda module, args: seen.append(args[0].detach()))
    found = losses(model, clips(400), ["abcdefgh" * 12], **options)
    hook.remove()
    return seen[0], found


def test_token_replacement_is_the_generators() -> None:
    model = build(ctc=False)

    def replaced(seed: int) -> tuple[Tensor, Losses]:
        return read_by(model, token_replacement=0.3, generators=[torch.Generator().manual_seed(seed)])

    plain, whole = read_by(model)
    first, found = replaced(1)
    torch.manual_seed(5)  # the global generator makes no difference
    again, same = replaced(1)
    other, _ = replaced(2)
    assert torch.equal(first, again) and found.text.item() == same.text.item()
    assert not torch.equal(first, other)
    changed = (first != plain).any(-1)[0]
    assert not changed[: -len("abcdefgh" * 12)].any()  # the prompt stays
    assert 0.15 < changed.float().sum().item() / 96 < 0.45
    assert found.text_tokens == whole.text_tokens == 97


def test_token_replacement_leaves_what_is_learned() -> None:
    model = build(ctc=False)
    seen: list[Tensor] = []
    original = torch.nn.functional.cross_entropy

    def spy(logits: Tensor, labels: Tensor, **options: Any) -> Tensor:
        seen.append(labels)
        return original(logits, labels, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.functional, "cross_entropy", spy)
        losses(model, clips(400), ["abc"], token_replacement=0.9, generators=[torch.Generator().manual_seed(0)])
    assert seen[0].tolist() == [*b"abc", EOS]


def test_token_replacement_does_not_depend_on_the_batch() -> None:
    model = build(ctc=False)
    waveforms, texts = clips(500, 900), ["abcdef" * 4, "ghijkl" * 4]

    def found(rows: list[int]) -> float:
        generators = [torch.Generator().manual_seed(row) for row in rows]
        chosen = [waveforms[row] for row in rows], [texts[row] for row in rows]
        return losses(model, *chosen, token_replacement=0.5, generators=generators).text.item()

    assert found([0, 1]) == pytest.approx(found([0]) + found([1]), rel=1e-5)


def test_label_smoothing_counts_no_padding() -> None:
    model = build(ctc=False)
    waveforms, texts = clips(500, 900), ["a", "a longer text"]
    both = losses(model, waveforms, texts, label_smoothing=0.2).text.item()
    single = [losses(model, [w], [t], label_smoothing=0.2).text.item() for w, t in zip(waveforms, texts, strict=True)]
    assert both == pytest.approx(sum(single), rel=1e-5)
    assert both != pytest.approx(losses(model, waveforms, texts).text.item(), rel=1e-4)


def test_auxiliary_losses_travel_along(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build()
    forward = model.bridge.forward

    def with_loss(frames: Any, target_lengths: Tensor | None = None) -> Any:
        from dataclasses import replace

        assert target_lengths.tolist() == [4]
        return replace(forward(frames), losses={"quantity": torch.tensor(2.5)})

    monkeypatch.setattr(model.bridge, "forward", with_loss)
    assert dict(losses(model, clips(500), ["one"]).auxiliary) == {"quantity": torch.tensor(2.5)}


# --- recognition -----------------------------------------------------------------------------------


def shown(transcripts: list[Transcript]) -> list[tuple[str, tuple[int, ...]]]:
    return [(t.text, t.token_ids) for t in transcripts]


def test_a_batch_gives_what_single_clips_give() -> None:
    model = build()
    waveforms = clips(900, 201, 450, 1333, 200)
    batch = model.recognize(waveforms, RecognitionOptions())
    single = [model.recognize([w], RecognitionOptions())[0] for w in waveforms]
    assert shown(batch) == shown(single)
    assert [t.avg_logprob for t in batch] == pytest.approx([t.avg_logprob for t in single], abs=1e-5)
    assert len({t.token_ids for t in batch}) > 1


def test_embeddings_do_not_depend_on_the_batch() -> None:
    model = build()
    waveforms = clips(900, 250, 611)
    padded = torch.nn.utils.rnn.pad_sequence(waveforms, batch_first=True)
    batch = model.embed_audio(padded, torch.tensor([len(w) for w in waveforms]))
    for row, waveform in enumerate(waveforms):
        alone = model.embed_audio(waveform[None], torch.tensor([len(waveform)]))
        length = int(batch.lengths[row])
        assert int(alone.lengths) == length
        assert torch.allclose(batch.features[row, :length], alone.features[0], rtol=0, atol=1e-5)


def test_a_transcript_says_what_there_is_to_say() -> None:
    model = build(language="en")
    model.decoder.head.bias.data[[ord("o"), EOS]] = torch.tensor([1e4, 2e4])
    model.generation = GenerationSettings(min_new_tokens=3)
    (transcript,) = model.recognize(clips(500), RecognitionOptions())
    assert transcript.text == "ooo" and transcript.token_ids == (*b"ooo", EOS)
    assert transcript.duration == 0.5 and transcript.language == "en" and transcript.warnings == ()
    (segment,) = transcript.segments
    assert (segment.start, segment.end, segment.text, segment.truncated) == (0.0, 0.5, "ooo", False)
    assert transcript.avg_logprob == segment.avg_logprob == pytest.approx(-7500, rel=1e-3)  # three at -10,000, then 0


def test_a_text_that_was_cut_says_so() -> None:
    model = build()
    model.decoder.head.bias.data[EOS] = -1e4
    first, second = model.recognize(clips(500, 1000), RecognitionOptions())
    assert [len(first.token_ids), len(second.token_ids)] == [8, 10]  # int(4 * seconds + 6)
    assert first.warnings == ("the text was cut at 8 tokens; allow more with max_new_tokens",)
    assert first.segments[0].truncated
    (asked,) = model.recognize(clips(500), RecognitionOptions(max_new_tokens=3))
    assert len(asked.token_ids) == 3 and "cut at 3 tokens" in asked.warnings[0]


def test_scores_that_are_no_numbers_are_an_error() -> None:
    model = build()
    model.decoder.head.bias.data[:] = float("nan")
    with pytest.raises(NumericalError, match=r"a clip of 0\.50 s the score nan"):
        model.recognize(clips(500), RecognitionOptions())


@pytest.mark.parametrize(
    ("prefix", "own", "asked", "expected"),
    [
        ("{language}", "en", None, {"language": "en"}),
        ("{language}", "en", "ja", {"language": "ja"}),
        ("{language}", None, "ja", {"language": "ja"}),
        ("{language}", None, None, "needs a value for 'language'"),
        ("", "en", None, {}),
        ("", "en", "en", {}),
        ("", "en", "ja", r"takes no 'language' \(fields it declares: none\)"),
        ("", None, "ja", "takes no 'language'"),
    ],
)
def test_language(
    monkeypatch: pytest.MonkeyPatch, prefix: str, own: str | None, asked: str | None, expected: dict[str, str] | str
) -> None:
    model = build(prompt=PromptTemplate(prefix=prefix), language=own)
    read: list[str] = []
    encode = model.decoder.encode
    monkeypatch.setattr(model.decoder, "encode", lambda text: read.append(text) or encode(text))
    if isinstance(expected, str):
        with pytest.raises(PromptError, match=expected):
            model.recognize(clips(400), RecognitionOptions(language=asked))
    else:
        (transcript,) = model.recognize(clips(400), RecognitionOptions(language=asked))
        assert read == [expected.get("language", ""), ""] * 2  # how long the prompt is, then the prompt
        assert transcript.language == (asked or own)


def test_context_and_task_reach_the_prompt() -> None:
    model = build(prompt=PromptTemplate(prefix="{task}{context}", defaults={"task": "write", "context": ""}))
    plain, other = (
        model.recognize(clips(600), RecognitionOptions(context=context))[0].avg_logprob for context in (None, "names")
    )
    assert plain != other


# --- transcribe ------------------------------------------------------------------------------------


def test_transcribe_takes_one_recording_or_many(tmp_path: Path) -> None:
    model = build()
    folder = write_corpus(tmp_path, 3).parent
    array = clips(500)[0].numpy()
    one: Mapping[str, Any] = {
        "path": folder / "0.wav",
        "string": str(folder / "0.wav"),
        "line": Utterance("0", folder / "0.wav"),
    }
    texts = {name: shown(model.transcribe(source)) for name, source in one.items()}
    assert texts["path"] == texts["string"] == texts["line"] and len(texts["path"]) == 1
    assert shown(model.transcribe(array)) == shown(model.transcribe([array]))
    assert shown(model.transcribe(torch.from_numpy(array))) == shown(model.transcribe([array]))
    many = model.transcribe([folder / f"{i}.wav" for i in range(3)], batch_size=2, max_new_tokens=2)
    assert [t.audio_filepath for t in many] == [str(folder / f"{i}.wav") for i in range(3)]
    assert all(len(t.token_ids) <= 2 for t in many)


def test_transcribe_raises_at_what_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match="no such file"):
        build().transcribe([np.zeros(500, np.float32), tmp_path / "missing.wav"])
    with pytest.raises(TypeError, match="beams"):
        build().transcribe(np.zeros(500, np.float32), beams=3)


def test_whole_seconds_are_kept_as_they_will_be_loaded() -> None:
    assert repr(build(max_audio_seconds=30).max_audio_seconds) == "30.0"
