from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from nuebridge.bench import TrainingWork
from nuebridge.bench.ours import keep_all_frames, planned_batches, train_ours
from nuebridge.bench.work import as_measured, spread, utterances_of
from nuebridge.compose import Workshop
from nuebridge.data import Utterance
from nuebridge.errors import ConfigError, DataError
from nuebridge.train.config import TrainConfig
from nuebridge.train.step import Stepper, StepResult

Configure = Callable[..., TrainConfig]
Work = Callable[..., TrainingWork]


def test_what_is_not_compared_is_left_out_and_said(config: Configure) -> None:
    measured, said = as_measured(
        config(
            data={
                "train": "a.jsonl",
                "batch_seconds": 40,
                "device_batch_seconds": 10,
                "augmentation": {"gain": {"probability": 1.0}},
            },
            losses={"token_replacement": 0.1, "ctc": 0.3, "ctc_final": 0.1},
            parts={"decoder": {"train": True, "from_step": 5}},
            spec_augment={"time_masks": 1},
            gradient_checkpointing=True,
        )
    )
    assert measured.data.batch_seconds == 10
    assert not measured.data.augmentation.is_on
    assert (measured.losses.token_replacement, measured.losses.ctc, measured.losses.ctc_final) == (0, 0.3, None)
    assert measured.parts.decoder.from_step == 0
    assert measured.spec_augment.time_masks == 0
    assert not measured.gradient_checkpointing
    text = "; ".join(said)
    for what in ("augmentation", "token_replacement", "ctc_final", "decoder.from_step", "spec_augment", "accumulation"):
        assert what in text
    assert as_measured(config())[1] == []


def test_of_stages_the_last_is_measured(config: Configure) -> None:
    stages = [
        {"name": "a", "schedule": {"steps": 1}},
        {"name": "b", "schedule": {"steps": 2}, "parts": {"decoder": {"train": True}}, "batch_seconds": 7},
    ]
    measured, said = as_measured(config(schedule=None, stages=stages))
    assert measured.parts.decoder.train is True
    assert measured.data.batch_seconds == 7
    assert said == ["all stages but b"]
    assert [stage.name for stage in measured.unrolled()] == ["train"]


def test_without_text_loss_there_is_nothing_to_compare(config: Configure) -> None:
    only_ctc = {name: {"train": False} for name in ("bridge", "decoder")}
    with pytest.raises(ConfigError, match=r"losses\.text"):
        as_measured(config(losses={"text": 0, "ctc": 1}, parts=only_ctc))


def test_a_few_utterances_are_of_all_lengths() -> None:
    every = [Utterance(str(i), Path("x"), "", duration=float((i * 7) % 50)) for i in range(50)]
    few = spread(every, 10)
    assert len(few) == 10
    assert sum(u.duration or 0 for u in few) / 10 == pytest.approx(24.5, abs=1.0)
    assert spread(every, None) == tuple(every) == spread(every, 60)


def test_ours_takes_every_utterance_once_a_pass(config: Configure, work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[bool, list[str]]] = []
    real = Stepper.step

    def step(self: Stepper, batch: object, *more: object) -> StepResult:
        seen.append((one.meter._measures, [utterance.id for utterance in batch.utterances]))  # type: ignore[attr-defined]
        return real(self, batch, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(Stepper, "step", step)
    one = work(config(), passes=2)
    train_ours(one)
    assert [measured for measured, _ in seen[:3]] == [False, False, True]
    counts = Counter(name for measured, names in seen if measured for name in names)
    assert counts == {utterance.id: 2 for utterance in one.utterances}
    steps = planned_batches(one.stage.config, one.integration, one.utterances)
    figures = one.meter.figures
    assert int(figures["steps"]) == pytest.approx(2 * steps, abs=1)
    seconds = sum(utterance.duration or 0 for utterance in one.utterances)
    assert int(figures["samples"]) == pytest.approx(2 * 1000 * seconds, abs=50)
    assert int(figures["samples"]) <= int(figures["computed"]) < 1.2 * int(figures["samples"])


def test_with_a_warm_cache_the_encoder_is_not_run(
    config: Configure, work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_all_frames(work(config(), cache=tmp_path))
    one = work(config(), cache=tmp_path)

    def never(*arguments: object) -> None:
        raise AssertionError("the encoder is run")

    monkeypatch.setattr(type(one.integration.encoder), "forward", never)
    before = one.integration.bridge.conv.weight.clone()
    train_ours(one)
    plain = work(config())
    monkeypatch.undo()
    train_ours(plain)
    assert one.meter.figures["samples"] == plain.meter.figures["samples"]
    assert not torch.equal(before, one.integration.bridge.conv.weight)
    torch.testing.assert_close(one.integration.bridge.conv.weight, plain.integration.bridge.conv.weight)


def test_audio_that_cannot_be_read_ends_it(config: Configure, work: Work, tmp_path: Path) -> None:
    (tmp_path / "bad.wav").write_bytes(b"nothing")
    bad = Utterance("bad", tmp_path / "bad.wav", "low", duration=0.5)
    one = work(config())
    with pytest.raises(DataError, match="bad"):
        train_ours(work(config(), utterances=(*one.utterances, bad)))


def test_streams_are_refused(config: Configure, toy_workshop: Workshop, work: Work) -> None:
    one = work(config())
    source = {"path": "some/set", "streaming": True, "kind": "dataset"}
    settings = config(data={"train": [source]})
    with pytest.raises(ConfigError, match="streaming"):
        utterances_of(settings, one.integration)
