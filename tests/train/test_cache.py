"""Frames of a frozen encoder on disk: the same numbers, found again, and never half of them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from nuebridge.data import Utterance, read_manifest
from nuebridge.errors import AudioError, ConfigError, DataError, TrainingError
from nuebridge.model import Integration
from nuebridge.train.cache import FrameCache, fill
from tests.train.conftest import Configure, Run
from tests.train.runs import figures


@pytest.fixture
def utterances(corpus: Path) -> list[Utterance]:
    return read_manifest(corpus)


@pytest.fixture
def filled(toy_integration: Integration, utterances: list[Utterance], tmp_path: Path) -> Path:
    with FrameCache(tmp_path / "cache", toy_integration.encoder) as cache:
        assert list(fill(cache, toy_integration.encoder, utterances, 2.0, "float32"))[-1] == len(utterances)
    return tmp_path / "cache"


def test_what_is_read_is_what_the_encoder_gives(
    toy_integration: Integration, utterances: list[Utterance], filled: Path
) -> None:
    cache = FrameCache(filled, toy_integration.encoder)
    assert cache.missing(utterances) == []
    for utterance in utterances:
        waveform = torch.from_numpy(utterance.load(1000))
        alone = toy_integration.encoder(waveform[None], torch.tensor([len(waveform)]))
        found = cache.read(utterance)
        assert found.shape == alone.features[0].shape
        torch.testing.assert_close(found, alone.features[0].detach(), atol=1e-6, rtol=0)


def test_the_size_is_known_beforehand(toy_integration: Integration, utterances: list[Utterance], filled: Path) -> None:
    cache = FrameCache(filled, toy_integration.encoder)
    assert cache.bytes_needed(utterances) == sum(path.stat().st_size for path in filled.rglob("*.bin"))
    assert "0 GB still to compute" in cache.check_room(utterances, 1.0)


def test_a_cap_and_a_full_disk_are_said_before_anything_is_computed(
    toy_integration: Integration, utterances: list[Utterance], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = FrameCache(tmp_path, toy_integration.encoder)
    with pytest.raises(TrainingError, match=r"12 utterances would take .* GB, and cache.max_gigabytes is 1e-09"):
        cache.check_room(utterances, 1e-9)
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=10))
    with pytest.raises(TrainingError, match=r"has 1e-08 GB left; make room"):
        cache.check_room(utterances, 1.0)


def test_another_encoder_has_frames_of_its_own(
    toy_integration: Integration, utterances: list[Utterance], filled: Path
) -> None:
    with torch.no_grad():
        next(iter(toy_integration.encoder.parameters())).add_(1.0)
    assert len(FrameCache(filled, toy_integration.encoder).missing(utterances)) == len(utterances)


def test_a_recording_that_changed_is_computed_again(toy_integration: Integration, tmp_path: Path, corpus: Path) -> None:
    one = read_manifest(corpus)[0]
    copy = tmp_path / "copy.wav"
    copy.write_bytes(one.audio_filepath.read_bytes())
    utterance = Utterance("a", copy, "low", one.duration)
    with FrameCache(tmp_path / "cache", toy_integration.encoder) as cache:
        list(fill(cache, toy_integration.encoder, [utterance], 10.0, "float32"))
        assert utterance in cache
        assert Utterance("a", copy, "low", 0.2, offset=0.05) not in cache
        os.utime(copy, ns=(1, 1))
        assert utterance not in cache


@pytest.mark.parametrize("cut", [1, 5, 30])
def test_a_line_or_frames_that_were_cut_short_are_not_used(
    toy_integration: Integration, utterances: list[Utterance], filled: Path, cut: int
) -> None:
    """As a killed process leaves them: the index cut in its last line, or frames that never reached the disk."""
    (index,) = filled.rglob("*.jsonl")
    data = index.with_suffix(".bin")
    whole = index.read_bytes()
    index.write_bytes(whole[:-cut])
    with FrameCache(filled, toy_integration.encoder) as cache:
        assert len(cache.missing(utterances)) == 1
        list(fill(cache, toy_integration.encoder, utterances, 2.0, "float32"))
    index.write_bytes(whole)
    data.write_bytes(data.read_bytes()[: len(data.read_bytes()) // 2 + cut])
    cache = FrameCache(filled, toy_integration.encoder)
    lost = cache.missing(utterances)
    assert 1 < len(lost) < len(utterances)
    with cache:
        list(fill(cache, toy_integration.encoder, lost[1:], 2.0, "float32"))
    again = FrameCache(filled, toy_integration.encoder)
    assert again.missing(utterances) == lost[:1], "frames that were lost are not taken for those written after them"
    with again:
        list(fill(again, toy_integration.encoder, utterances, 2.0, "float32"))
    for utterance in utterances:
        waveform = torch.from_numpy(utterance.load(1000))
        alone = toy_integration.encoder(waveform[None], torch.tensor([len(waveform)])).features[0].detach()
        torch.testing.assert_close(again.read(utterance), alone, atol=1e-6, rtol=0)


def test_two_writers_keep_to_files_of_their_own(
    toy_integration: Integration, utterances: list[Utterance], tmp_path: Path
) -> None:
    encoder = toy_integration.encoder
    with FrameCache(tmp_path, encoder) as first, FrameCache(tmp_path, encoder) as second:
        halves = (first, utterances[:6]), (second, utterances[6:])
        for _ in zip(*(fill(cache, encoder, half, 0.5, "float32") for cache, half in halves), strict=False):
            pass
        for cache, half in halves:
            list(fill(cache, encoder, half, 1.0, "float32"))
            cache.close()
        assert len(list(tmp_path.rglob("*.bin"))) == 2
        first.reload()
        assert first.missing(utterances) == []


def test_what_cannot_be_read_is_named_and_left_out(
    toy_integration: Integration, utterances: list[Utterance], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lost = Utterance("gone", tmp_path / "no.wav", "low", 0.5)
    with FrameCache(tmp_path / "cache", toy_integration.encoder) as cache:
        assert list(fill(cache, toy_integration.encoder, [lost, utterances[0]], 0.6, "float32"))[-1] == 2
        assert "utterance gone cannot be read and is left out" in caplog.text
        assert cache.missing([lost, utterances[0]]) == [lost]
        with pytest.raises(AudioError, match=r"no\.wav could not be read"):
            cache.read(lost)


def test_unreadable_recordings_count_against_the_limit(run: Run, corpus: Path, tmp_path: Path) -> None:
    lines = corpus.read_text().splitlines(keepends=True)
    lost = json.dumps({"audio_filepath": "lost.wav", "text": "low", "duration": 0.5, "id": "lost"}) + "\n"
    data = corpus.with_name("with-lost.jsonl")
    data.write_text("".join([*lines, lost]))
    asked = {"data__train": str(data), "parts__encoder": {"train": False}, "cache_frozen": True}
    run(output=str(tmp_path / "one"), **asked, data__max_unreadable=1)
    with pytest.raises(DataError, match=r"1 utterances cannot be read \(lost\)"):
        run(output=str(tmp_path / "none"), **asked, data__max_unreadable=0)


def test_a_folder_that_cannot_be_made(toy_integration: Integration, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TrainingError, match="cannot make the cache .* set cache.folder"):
        FrameCache(tmp_path / "file", toy_integration.encoder)


@pytest.mark.parametrize("spec_augment", [{}, {"time_masks": 2, "max_time_frames": 2}])
def test_a_run_with_kept_frames_has_the_same_losses(run: Run, tmp_path: Path, spec_augment: dict[str, int]) -> None:
    frozen = {"parts__encoder": {"train": False}, "spec_augment": spec_augment}
    plain = run(output=str(tmp_path / "plain"), **frozen)
    kept = run(output=str(tmp_path / "kept"), cache_frozen=True, **frozen)
    assert set(figures(plain)) == set(figures(kept))
    for step, values in figures(plain).items():
        assert figures(kept)[step] == pytest.approx(values, rel=1e-5)
    assert list((kept / "cache").rglob("*.bin"))


def test_kept_frames_are_used_and_shared(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"parts__encoder": {"train": False}, "cache_frozen": True, "cache__folder": str(tmp_path / "shared")}
    first = run(output=str(tmp_path / "first"), **settings)
    monkeypatch.setattr(Utterance, "load", None)  # no audio is read again
    second = run(output=str(tmp_path / "second"), **settings)
    assert figures(first) == figures(second)


def test_a_trained_encoder_and_augmentation_have_nothing_to_keep(configure: Configure) -> None:
    with pytest.raises(ConfigError, match="needs a frozen encoder"):
        configure(cache_frozen=True)
    with pytest.raises(ConfigError, match=r"data\.augmentation changes it"):
        configure(cache_frozen=True, parts__encoder={"train": False}, data__augmentation={"gain": {}})
