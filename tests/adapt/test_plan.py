from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from nuebridge.adapt.data import AdaptData, prepare
from nuebridge.adapt.fillers import new_words
from nuebridge.adapt.output import adapter_name
from nuebridge.adapt.plan import Plan, plan
from nuebridge.adapt.settings import AdaptSettings
from nuebridge.compose import Workshop, compose_entry
from nuebridge.data import Utterance, read_manifest
from nuebridge.errors import ConfigError
from nuebridge.model import Integration
from nuebridge.train.config import TrainConfig
from tests.adapt.conftest import NEW_WORDS, Settle, write_tones


@pytest.fixture
def toys(toy_workshop: Workshop) -> Integration:
    return compose_entry(toy_workshop.registry.integration("toys"), toy_workshop)


def planned(toys: Integration, seconds: float, replay_seconds: float = 0.0, **changes: Any) -> Plan:
    """The plan for so much data of a setting that says nothing else."""
    values = {"model": "toys", "data": "new.jsonl", "output": "out", "replay": "old.jsonl" if replay_seconds else None}
    settings = AdaptSettings.model_validate(values | changes)
    data = AdaptData(
        *(Path("train.jsonl"), Path("dev.jsonl"), Path("test.jsonl"), None),
        "old.jsonl" if replay_seconds else None,
        [Utterance("a", Path("a.wav"), "a", seconds)],
        [Utterance("b", Path("b.wav"), "b", replay_seconds)] if replay_seconds else [],
    )
    return plan(settings, data, toys)


def test_what_is_planned_by_default(toys: Integration) -> None:
    config = planned(toys, 600).config
    assert isinstance(config, TrainConfig) and config.output == Path("out/run")
    assert config.parts.decoder.lora is not None and config.parts.decoder.lora.r == 16
    assert config.parts.bridge.train is True and config.parts.bridge.lora is None
    assert not config.parts.encoder.is_trained and not config.parts.ctc_head.is_trained
    assert config.parts.bridge.learning_rate == pytest.approx(config.parts.decoder.learning_rate / 3)
    assert config.schedule is not None and config.schedule.steps == 400, "little data is gone through often"
    assert config.losses.kl == 0.2 and config.losses.ctc == 0
    assert config.checkpoints.best == "wer" and config.data.validation is not None


@pytest.mark.parametrize(
    ("seconds", "replay", "changes", "steps"),
    [
        (36_000, 0, {}, 2700),
        (600, 0, {"steps": 7}, 7),
        (600, 0, {"epochs": 2}, 30),
        (700, 5000, {"epochs": 1}, 25),  # 0.3 of 1000 s are replay
        (600, 0, {"epochs": 2, "set_values": {"data.batch_seconds": 20}}, 60),
        (600, 0, {"set_values": {"schedule.steps": 9}}, 9),
    ],
)
def test_steps(toys: Integration, seconds: float, replay: float, changes: dict[str, Any], steps: int) -> None:
    config = planned(toys, seconds, replay, **changes).config
    assert config.schedule is not None and config.schedule.steps == steps


def test_replay_is_mixed_by_weight_and_kl_is_off(toys: Integration) -> None:
    found = planned(toys, 700, 5000)
    assert found.replay_weight == pytest.approx(0.06) and found.config.losses.kl == 0
    assert [source.weight for source in found.config.data.train] == [1.0, pytest.approx(0.06)]
    assert planned(toys, 700, 5000, replay_share=0.5, kl=0.1).config.losses.kl == 0.1
    assert planned(toys, 700, 700, replay_share=0.5).replay_weight == pytest.approx(1)


def test_the_ctc_head_is_trained_where_it_is_named(toys: Integration) -> None:
    config = planned(toys, 600, parts=["ctc_head", "encoder"]).config
    assert config.losses.ctc > 0 and config.parts.ctc_head.train is True and config.parts.encoder.lora is not None
    assert not config.parts.bridge.is_trained and not config.parts.decoder.is_trained
    toys.ctc_head = None
    with pytest.raises(ConfigError, match="toys has no CTC head; leave ctc_head out of --parts"):
        planned(toys, 600, parts=["ctc_head"])


def test_texts_are_normalized_as_the_base_learned_them(toys: Integration) -> None:
    assert planned(toys, 600).config.data.text_normalizer == "none"
    toys.training_history = [{"configuration": {"data": {"text_normalizer": "lower"}}}, {"adapter": "x"}]
    toys.max_audio_seconds = 12.0
    config = planned(toys, 600).config
    assert config.data.text_normalizer == "lower" and config.data.max_audio_seconds == 12


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"parts": ["decoder", "ears"]}, "there is no part 'ears'"),
        ({"parts": ["brigde"]}, "did you mean 'bridge'"),
        ({"steps": 5, "epochs": 2}, "give one of them"),
        ({"replay_share": 1.0}, "less than 1"),
        ({"only_warn": ["overlap-speaker"]}, "there is no overlap 'overlap-speaker'"),
        ({"name": "a b"}, "should match pattern"),
        ({"kl": -1}, "greater than or equal to 0"),
    ],
)
def test_settings_that_are_wrong(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError) as raised:
        AdaptSettings.model_validate({"model": "m", "data": "d", "output": "o"} | changes)
    assert said in str(raised.value)


def test_names(tmp_path: Path) -> None:
    def named(output: str, name: str | None = None) -> str:
        return adapter_name(AdaptSettings(model="m", data=Path("d"), output=Path(output), name=name))

    assert named("runs/numbers") == "numbers" and named("runs/my numbers.v2") == "my-numbers-v2"
    assert named("x", "dates") == "dates" and named("a" * 80) == "a" * 64
    with pytest.raises(ConfigError, match="give it a name with --name"):
        named("...---")


def test_held_out_parts_share_no_speaker(settle: Settle, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings = settle(tmp_path / "out", test=None, only_warn=None, replay=None, original_test=None)
    with caplog.at_level(logging.WARNING):
        data = prepare(settings, is_main=True)
    speakers = [{u.fields["speaker"] for u in read_manifest(path)} for path in (data.train, data.validation, data.test)]
    # Each speaker is in one part alone.
    assert sum(map(len, speakers)) == len(set().union(*speakers)) == 12 and len(speakers[0]) >= 8
    assert speakers[1] and speakers[2]
    assert all(u.audio_filepath.is_file() for path in (data.train, data.test) for u in read_manifest(path))
    # Tones can say few words: those that are held out by chance say what others say.
    assert "utterances of the training data have texts of the test data (" in caplog.text
    other = prepare(settings, is_main=False)
    assert other.train == data.train and [u.id for u in other.train_utterances] == [u.id for u in data.train_utterances]
    assert prepare(settings, is_main=True) == data


def test_the_best_checkpoint_is_the_best_for_both_domains(
    settle: Settle, domains: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = prepare(settle(tmp_path / "out"), is_main=True)
    validated = read_manifest(data.validation)
    old = [one for one in validated if one.id.startswith("replay/")]
    assert data.replay == str(tmp_path / "out/data/replay.jsonl") and len(data.replay_utterances) + len(old) == 24
    assert 1 <= len(old) <= len(validated) - len(old)
    assert not {u.audio_filepath.name for u in old} & {u.audio_filepath.name for u in data.replay_utterances}
    # A replay that must stay whole: by the new domain alone, and that is said.
    lines = [json.loads(line) for line in (domains / "old/manifest.jsonl").read_text().splitlines()]
    path = domains / "old/one-speaker.jsonl"
    path.write_text("".join(json.dumps({**line, "speaker": "a"}) + "\n" for line in lines))
    data = prepare(settle(tmp_path / "other", replay=str(path)), is_main=True)
    assert data.replay == str(path) and "the best checkpoint is chosen by the new domain alone" in caplog.text
    assert not any(one.id.startswith("replay/") for one in read_manifest(data.validation))


def test_of_few_speakers_more_is_held_out(settle: Settle, tmp_path: Path) -> None:
    manifest = write_tones(tmp_path / "new", NEW_WORDS, 15, seed=12, speakers=5)
    data = prepare(
        settle(tmp_path / "out", data=str(manifest), test=None, replay=None, original_test=None), is_main=True
    )
    speakers = [{u.fields["speaker"] for u in read_manifest(path)} for path in (data.train, data.validation, data.test)]
    assert [len(those) for those in speakers] == [3, 1, 1] and len(set().union(*speakers)) == 5


def test_nothing_is_held_out_where_all_is_given(settle: Settle, domains: Path, tmp_path: Path) -> None:
    dev = write_tones(tmp_path / "dev", NEW_WORDS, 3, seed=11)
    data = prepare(settle(tmp_path / "out", validation=str(dev)), is_main=True)
    assert data.replay == str(domains / "old/manifest.jsonl") and len(data.replay_utterances) == 24
    assert data.train == domains / "new/manifest.jsonl" and not (tmp_path / "out").exists()


def test_words_of_a_new_domain() -> None:
    original = ["the cat sat on the mat", "where is the hat"] * 20
    new = ["um the cat", "Um, um the invoice"] * 10
    assert new_words(new, original) == ["um", "invoice"]
    assert new_words(new, []) == [] and new_words([], original) == []
    assert new_words(["um the cat"] * 4, original) == [], "too seldom to say"
    assert new_words(new, ["um"]) == [], "of so little text nothing can be said"
