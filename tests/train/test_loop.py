from __future__ import annotations

import json
import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from toy.parts import ToyBridge

from nuebridge.checkpoint import load, save
from nuebridge.compose import Workshop
from nuebridge.data import read_manifest
from nuebridge.errors import CheckpointError, NuebridgeError, TrainingError
from nuebridge.model import Integration
from nuebridge.settings import PromptTemplate
from nuebridge.tensors import weight_hash
from nuebridge.train import loop
from nuebridge.train.config import TrainConfig
from nuebridge.train.step import Stepper
from nuebridge.train.stopping import TrainingStopped
from nuebridge.train.trainable import set_training_mode, trainable_groups
from tests.tones import write_corpus
from tests.train.runs import figures, metrics

Configure = Callable[..., TrainConfig]
Run = Callable[..., Path]
ALL = ("encoder", "ctc_head", "bridge", "decoder")


@pytest.fixture
def opened(toy_workshop: Workshop) -> Callable[[Path], Integration]:
    return lambda folder: load(folder, manager=toy_workshop.manager, registry=toy_workshop.registry)


def hashes(integration: Integration) -> dict[str, str]:
    return {name: weight_hash({"part": part}) for name, part in integration.parts.items()}


# --- learning --------------------------------------------------------------------------------------


def test_it_learns_what_the_tones_say(
    run: Run, configure: Configure, corpus: Path, opened: Callable[[Path], Integration], toy_workshop: Workshop
) -> None:
    output = run(
        schedule={"steps": 100, "warmup_steps": 5},
        parts={name: {"train": True, "learning_rate": 0.05} for name in ALL},
        data__batch_seconds=10.0,
        losses={"ctc": 0.5},
        checkpoints__every_steps=1000,
        data__validation=str(corpus),
        validation={"every_steps": 50, "samples": 1},
    )
    steps = metrics(output)
    assert steps[1]["loss"] > 4 and steps[100]["loss"] < 0.1
    assert steps[100]["ctc_loss"] < steps[1]["ctc_loss"] / 2
    results = metrics(output, "validation")
    assert list(results) == [50, 100]
    assert results[100]["wer"] == 0 and results[100]["cer"] == 0
    # It heard the tones: recordings it was not trained on are right as well.
    fresh = write_corpus(output / "fresh", 6, seed=9)
    heard = opened(output / "final").transcribe([fresh.parent / f"{i}.wav" for i in range(6)])
    assert [t.text for t in heard] == ["low", "mid", "high"] * 2
    assert all(not t.warnings for t in heard)
    config = json.loads((output / "final/config.json").read_text())
    assert config["training"][0]["steps"] == 100 and config["training"][0]["configuration"]["seed"] == 0


def test_a_step_in_half_precision(run: Run) -> None:
    steps = metrics(run(precision="bfloat16", schedule={"steps": 3}))
    assert all(4 < line["loss"] < 8 for line in steps.values())


# --- stopping and going on -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def unbroken() -> dict[str, Any]:
    """Filled by the first test that needs the figures of a run nobody stopped."""
    return {}


@pytest.fixture
def expected(
    unbroken: dict[str, Any], run: Run, opened: Callable[[Path], Integration], tmp_path: Path
) -> dict[str, Any]:
    if not unbroken:
        output = run(output=str(tmp_path / "unbroken"))
        unbroken["figures"] = figures(output)
        unbroken["weights"] = hashes(opened(output / "final"))
    return unbroken


class Killed(BaseException):
    """Stands for the end of the process: nothing in the code catches it."""


def dies(after: int, original: Callable[..., Any] | None) -> Callable[..., Any]:
    """A function that works so many times and then ends the process, first or last thing it does."""
    calls = iter(range(after))

    def function(*args: Any, **kwargs: Any) -> Any:
        if next(calls, None) is None:
            raise Killed
        return None if original is None else original(*args, **kwargs)

    return function


@pytest.mark.parametrize("count", range(7))
def test_a_killed_run_goes_on_as_if_nothing_had_been(
    expected: dict[str, Any],
    run: Run,
    opened: Callable[[Path], Integration],
    monkeypatch: pytest.MonkeyPatch,
    count: int,
) -> None:
    """Killed within a step; test_crashes.py has every moment of a checkpoint."""
    with monkeypatch.context() as patch:
        patch.setattr(Stepper, "_step", dies(count, Stepper._step))
        with pytest.raises(Killed):
            run()
    output = run(resume="auto")
    found = figures(output)
    assert list(found) == list(expected["figures"]) == [1, 2, 3, 4, 5, 6, 7]
    for step, numbers in expected["figures"].items():
        assert found[step] == pytest.approx(numbers, abs=1e-6), f"step {step}"
    assert hashes(opened(output / "final")) == expected["weights"]


def test_randomness_is_at_work(expected: dict[str, Any], run: Run) -> None:
    """What the test above compares depends on dropout, token replacement and order."""
    other = figures(run(seed=1))
    assert all(other[step][0] != expected["figures"][step][0] for step in range(1, 8))


def test_resuming_twice(expected: dict[str, Any], run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for count in (3, 2):
        with monkeypatch.context() as patch:
            patch.setattr(Stepper, "_step", dies(count, Stepper._step))
            with pytest.raises(Killed):
                run(resume="auto")
    found = figures(run(resume="auto"))
    assert {step: pytest.approx(numbers, abs=1e-6) for step, numbers in expected["figures"].items()} == found


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_after_the_step(
    expected: dict[str, Any], run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, number: signal.Signals
) -> None:
    before = signal.getsignal(number)
    step = Stepper._step

    def signalled(self: Any, *args: Any) -> Any:
        if args[1] == 2:
            os.kill(os.getpid(), number)
        return step(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Stepper, "_step", signalled)
        with pytest.raises(
            TrainingStopped, match="stopped at step 3 of 7; the same command with --resume auto goes on"
        ) as caught:
            run()
    assert caught.value.exit_status == 75 and signal.getsignal(number) is before
    assert [path.name for path in sorted((tmp_path / "run/checkpoints").iterdir())] == [
        "step-00000002",
        "step-00000003",
    ]
    found = figures(run(resume="auto"))
    assert {step: pytest.approx(numbers, abs=1e-6) for step, numbers in expected["figures"].items()} == found


def test_a_second_signal_ends_at_once(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGINT)

    def interrupted(self: Any, *args: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        while signal.getsignal(signal.SIGINT) is not before:  # another thread may take a signal first
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)
        pytest.fail("went on")

    monkeypatch.setattr(Stepper, "_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run()


def test_a_signal_in_the_last_step_lets_it_finish(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    step = Stepper._step

    def signalled(self: Any, *args: Any) -> Any:
        if args[1] == 6:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, *args)

    monkeypatch.setattr(Stepper, "_step", signalled)
    assert (run() / "final/config.json").exists()


def test_training_in_another_thread(run: Run) -> None:
    failed: list[BaseException] = []

    def target() -> None:
        try:
            run(schedule={"steps": 1})
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=target)
    thread.start()
    thread.join()
    assert failed == []


def test_stopping_by_the_clock(run: Run, tmp_path: Path) -> None:
    with pytest.raises(TrainingStopped, match="stopped at step 1 of 7"):
        run(stop_after_minutes=1e-9)
    with pytest.raises(TrainingStopped, match="stopped at step 2 of 7"):
        run(stop_after_minutes=1e-9, resume="auto")
    run(resume="auto")
    minutes = [line["minutes"] for line in metrics(tmp_path / "run").values()]
    assert minutes == sorted(minutes)


def test_a_run_is_not_begun_twice(run: Run, tmp_path: Path) -> None:
    with pytest.raises(TrainingStopped):
        run(stop_after_minutes=1e-9)
    with pytest.raises(
        TrainingError, match="holds a run already; pass --resume auto to go on with it or choose another output"
    ):
        run()
    output = run(resume="auto")
    before = (output / "metrics.jsonl").read_text()
    with pytest.raises(TrainingError, match="holds a run already"):
        run()
    assert run(resume="auto") == output and (output / "metrics.jsonl").read_text() == before


def test_a_damaged_newest_checkpoint_is_named_and_can_be_left_out(
    expected: dict[str, Any],
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Stepper, "_step", dies(5, Stepper._step))
        with pytest.raises(Killed):
            run()
    folder = tmp_path / "run/checkpoints"
    (folder / "step-00000006").mkdir()
    (folder / "step-00000006/run.json").write_text((folder / "step-00000004/run.json").read_text())
    with pytest.raises(CheckpointError, match=r"step-00000006 is damaged: it lacks .*step-00000004 is whole: move it"):
        run(resume="auto")
    (folder / "step-00000006").rename(folder / "damaged-step-00000006")  # what the message says
    with caplog.at_level(logging.INFO):
        found = figures(run(resume="auto"))
    assert "resuming from step 4" in caplog.text
    assert {step: pytest.approx(numbers, abs=1e-6) for step, numbers in expected["figures"].items()} == found


def test_resume_must_and_never(run: Run, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="holds no run to go on with; pass --resume auto to begin one"):
        run(resume="must")
    assert not (tmp_path / "run").exists()
    with pytest.raises(TrainingStopped):
        run(stop_after_minutes=1e-9, resume="auto")
    with pytest.raises(TrainingError, match="holds a run already; pass --resume auto"):
        run(resume="never")
    run(resume="must")
    with pytest.raises(TrainingError, match="holds a run already"):
        run(resume="never")
    with pytest.raises(TrainingError, match="resume is 'yes'; allowed: auto, must, never"):
        run(resume="yes")


@pytest.mark.parametrize(
    "changes", [{"model": "nowhere"}, {"data": {"train": ["nowhere.jsonl"]}}, {"losses": {"text": 0, "ctc": 1}}]
)
def test_a_run_that_cannot_begin_leaves_no_folder(run: Run, tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(NuebridgeError):
        run(output=str(tmp_path / "runs/first"), **changes)
    assert not (tmp_path / "runs").exists()
    (tmp_path / "runs/first").mkdir(parents=True)
    with pytest.raises(NuebridgeError):
        run(output=str(tmp_path / "runs/first"), **changes)
    assert list((tmp_path / "runs/first").iterdir()) == []


def test_what_may_change_is_named(run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(TrainingStopped):
        run(stop_after_minutes=1e-9)
    with caplog.at_level(logging.INFO):
        run(resume="auto", schedule={"steps": 9}, parts__bridge__learning_rate=0.5)
    assert "going on with a changed configuration: parts.bridge.learning_rate (was 0.01, is 0.5), " in caplog.text
    assert "schedule.steps (was 7, is 9)" in caplog.text and "stop_after_minutes" in caplog.text
    assert "changed configuration: model" not in caplog.text


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seed": 1}, "seed was 0 and is 1; set it back, or begin a new run"),
        ({"data__batch_seconds": 5.0}, "data.batch_seconds was 3.0 and is 5.0"),
        ({"parts__encoder__train": False}, "parts.encoder.train was True and is False"),
        ({"parts__encoder__train": ["layers.1"]}, r"parts.encoder.train was True and is \['layers.1'\]"),
        ({"parts__bridge__from_step": 2}, "parts.bridge.from_step was 0 and is 2"),
        ({"model": "elsewhere/other"}, "model was 'toys' and is 'other'"),
        ({"schedule": {"steps": 1}}, "stands at step 2, but there are to be 1; set schedule.steps to"),
        (
            {"schedule": None, "stages": [{"name": "first", "schedule": {"steps": 9}}]},
            "has gone through the stages train, but the configuration has first",
        ),
    ],
)
def test_what_may_not_change_is_an_error(
    run: Run, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], said: str
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Stepper, "_step", dies(3, Stepper._step))
        with pytest.raises(Killed):
            run()
    with pytest.raises(TrainingError, match=said):
        run(resume="auto", **changes)
    run(resume="auto")


def test_other_data_under_the_same_name_are_an_error(run: Run, tmp_path: Path) -> None:
    manifest = write_corpus(tmp_path / "grows", 5)
    with pytest.raises(TrainingStopped):
        run(stop_after_minutes=1e-9, data__train=[str(manifest)])
    write_corpus(tmp_path / "grows", 6)
    with pytest.raises(TrainingError, match=r"other data than .* now holds \(5 utterances, .*; now 6 utterances"):
        run(resume="auto", data__train=[str(manifest)])
    write_corpus(tmp_path / "grows", 5)
    (tmp_path / "grows").rename(tmp_path / "moved")
    run(resume="auto", data__train=[str(tmp_path / "moved/manifest.jsonl")])


# --- the best of a run -----------------------------------------------------------------------------


def test_the_best_integration_is_kept(
    run: Run, corpus: Path, opened: Callable[[Path], Integration], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """By the score that was asked for; a resumed run does not forget it."""
    scores = {2: 0.5, 4: 0.25, 6: 0.75, 7: 0.25}
    kept: dict[int, str] = {}

    def scored(self: Any, integration: Integration, config: Any) -> dict[str, float | None]:
        step = self.progress.total_step
        kept[step] = integration.weight_hash()
        return {"wer": 1.0 - scores[step], "cer": scores[step], "ctc_cer": None}

    monkeypatch.setattr(loop._Run, "_validate", scored)
    settings = {"data__validation": str(corpus), "validation__every_steps": 2, "checkpoints__best": "cer"}
    with monkeypatch.context() as patch:
        patch.setattr(Stepper, "_step", dies(5, Stepper._step))
        with pytest.raises(Killed):
            run(**settings)
    output = run(resume="auto", **settings)
    said = json.loads((output / "best/best.json").read_text())
    assert said == {"name": "cer", "score": 0.25, "step": 4, "validation": "manifest.jsonl, 200 utterances"}
    assert opened(output / "best").weight_hash() == kept[4]
    assert not [path.name for path in output.iterdir() if path.name.startswith(".best")]


def test_none_is_kept_where_none_is_asked_for(run: Run, corpus: Path) -> None:
    output = run(data__validation=str(corpus), checkpoints={"best": None}, schedule={"steps": 1})
    assert not (output / "best").exists()


def test_a_score_that_there_is_not_is_warned_about(run: Run, corpus: Path, caplog: pytest.LogCaptureFixture) -> None:
    parts = {name: {"train": name in ("encoder", "ctc_head")} for name in ALL}
    run(data__validation=str(corpus), parts=parts, losses={"text": 0, "ctc": 1}, validation__every_steps=2)
    assert caplog.text.count("validation gives no wer: nothing is kept in best; see checkpoints.best") == 1


def test_only_trained_weights_are_written_where_asked(
    run: Run, corpus: Path, toy_registry_file: Path, opened: Callable[[Path], Integration]
) -> None:
    parts = {name: {"train": name == "bridge", "learning_rate": 0.01} for name in ALL}
    output = run(
        model="toys",
        parts=parts,
        data__validation=str(corpus),
        checkpoints={"weights": "trained", "every_steps": 2, "keep": 1},
    )
    for folder in (output / "final", output / "best", output / "checkpoints/step-00000006/integration"):
        assert not (folder / "encoder").exists() and (folder / "bridge").is_dir()
        assert json.loads((folder / "config.json").read_text())["parts"]["encoder"]["weights"] == "source"
        assert opened(folder)


def test_a_changed_learning_rate_holds_after_resuming(run: Run) -> None:
    with pytest.raises(TrainingStopped):
        run(stop_after_minutes=1e-9, schedule={"steps": 4, "shape": "constant"})
    output = run(resume="auto", schedule={"steps": 4, "shape": "constant"}, parts__bridge__learning_rate=0.0001)
    rates = [line["learning_rate"]["bridge"] for line in metrics(output).values()]
    assert rates == [0.01, 0.0001, 0.0001, 0.0001]


# --- what is trained -------------------------------------------------------------------------------


@pytest.mark.parametrize("trained", [("bridge",), ("encoder", "ctc_head"), ("bridge", "decoder")])
def test_frozen_parts_stay_bit_for_bit(
    run: Run, start: Path, opened: Callable[[Path], Integration], trained: tuple[str, ...]
) -> None:
    before = hashes(opened(start))
    output = run(parts={name: {"train": name in trained, "learning_rate": 0.01} for name in ALL})
    after = hashes(opened(output / "final"))
    assert {name for name in ALL if after[name] != before[name]} == set(trained)
    found = (output / "final/encoder/model.safetensors").read_bytes() == (
        start / "encoder/model.safetensors"
    ).read_bytes()
    assert found is ("encoder" not in trained)


def test_frozen_parts_are_in_eval_mode(toy_integration: Integration, configure: Configure) -> None:
    trainable_groups(toy_integration, configure(parts__encoder__train=False))
    set_training_mode(toy_integration)
    assert not toy_integration.encoder.dropout.training and toy_integration.bridge.training
    trainable_groups(toy_integration, configure(parts__encoder__train=["layers.0"], parts__bridge__train=False))
    set_training_mode(toy_integration)
    assert toy_integration.encoder.dropout.training and not toy_integration.bridge.training


def test_groups_by_pattern(toy_integration: Integration, configure: Configure) -> None:
    config = configure(
        parts={
            "encoder": {"train": ["layers.1*"], "learning_rate": 0.5},
            "ctc_head": {"train": True, "learning_rate": 0.25},
            "bridge": {"train": []},
            "decoder": {"train": False},
        },
        optimizer={"weight_decay": 0.125},
    )
    groups = trainable_groups(toy_integration, config)
    encoder, head = toy_integration.encoder, toy_integration.ctc_head
    named = [(g["part"], g["lr"], g["weight_decay"], [id(p) for p in g["params"]]) for g in groups]
    assert named == [
        ("encoder", 0.5, 0.0, [id(encoder.proj.bias)]),
        ("ctc_head", 0.25, 0.125, [id(head.proj.weight)]),
        ("ctc_head", 0.25, 0.0, [id(head.proj.bias)]),
    ]
    trained = [name for name, parameter in toy_integration.named_parameters() if parameter.requires_grad]
    assert trained == ["encoder.proj.bias", "ctc_head.proj.weight", "ctc_head.proj.bias"]


def test_a_pattern_that_matches_nothing(toy_integration: Integration, configure: Configure) -> None:
    with pytest.raises(
        TrainingError,
        match=r"parts\.encoder\.train: no parameter group matches 'layer\.\*'; there are: layers\.0, layers\.1",
    ):
        trainable_groups(toy_integration, configure(parts__encoder__train=["layers.0", "layer.*"]))


def test_nothing_left_to_train(toy_integration: Integration, configure: Configure) -> None:
    with pytest.raises(TrainingError, match="every part is frozen"):
        trainable_groups(toy_integration, configure(parts={name: {"train": False} for name in ALL}))
    with pytest.raises(TrainingError, match="every part is frozen"):  # the head without its loss
        only_head = {name: {"train": name == "ctc_head"} for name in ALL}
        trainable_groups(toy_integration, configure(parts=only_head, losses={"text": 1}))


def test_the_ctc_head_without_its_loss_is_left_alone(
    toy_integration: Integration, configure: Configure, caplog: pytest.LogCaptureFixture
) -> None:
    groups = trainable_groups(toy_integration, configure(losses={"text": 1}))
    assert {group["part"] for group in groups} == {"encoder", "bridge", "decoder"}
    assert "losses.ctc is 0: the CTC head is left as it is" in caplog.text
    toy_integration.bridge.needs_ctc = True
    assert "ctc_head" in {group["part"] for group in trainable_groups(toy_integration, configure(losses={"text": 1}))}


@pytest.mark.parametrize("part", ["bridge", "decoder"])
def test_without_text_loss_bridge_and_decoder_must_be_frozen(
    toy_integration: Integration, configure: Configure, part: str
) -> None:
    parts = {name: {"train": name in ("encoder", "ctc_head", part)} for name in ALL}
    with pytest.raises(
        TrainingError, match=rf"parts\.{part} is to be trained, but losses\.text is 0: set parts\.{part}\.train"
    ):
        trainable_groups(toy_integration, configure(parts=parts, losses={"text": 0, "ctc": 1}))


def test_ctc_loss_alone(run: Run, start: Path, opened: Callable[[Path], Integration], corpus: Path) -> None:
    output = run(
        parts={name: {"train": name in ("encoder", "ctc_head"), "learning_rate": 0.02} for name in ALL},
        losses={"text": 0, "ctc": 1.0},
        schedule={"steps": 30},
        data__validation=str(corpus),
    )
    steps = metrics(output)
    assert "loss" not in steps[1] and steps[30]["ctc_loss"] < steps[1]["ctc_loss"]
    (result,) = metrics(output, "validation").values()
    assert result["wer"] is None and result["ctc_cer"] is not None


def test_ctc_loss_without_a_head(run: Run, start: Path, opened: Callable[[Path], Integration], tmp_path: Path) -> None:
    model = opened(start)
    model.ctc_head = None
    save(model, tmp_path / "headless")
    with pytest.raises(TrainingError, match=r"losses\.ctc is above 0, but the integration has no CTC head"):
        run(model=str(tmp_path / "headless"))
    run(model=str(tmp_path / "headless"), losses={"text": 1}, schedule={"steps": 1})


def test_losses_are_means_over_tokens(
    run: Run, opened: Callable[[Path], Integration], start: Path, corpus: Path
) -> None:
    """The first step's figures and gradient are the model's own (without dropout: the encoder is frozen)."""
    parts = {name: {"train": name in ("bridge", "ctc_head")} for name in ALL}
    output = run(parts=parts, losses={"text": 2.0, "ctc": 0.5}, schedule={"steps": 1}, data__batch_seconds=100.0)
    model = opened(start)
    waveforms = [torch.from_numpy(read_manifest(corpus)[i].load(1000)) for i in range(12)]
    padded = torch.nn.utils.rnn.pad_sequence(waveforms, batch_first=True)
    found = model(padded, torch.tensor([len(w) for w in waveforms]), ["low", "mid", "high"] * 4)
    line = metrics(output)[1]
    assert line["loss"] == pytest.approx(found.text.item() / (4 * (4 + 4 + 5)), rel=1e-4)
    assert line["ctc_loss"] == pytest.approx(found.ctc.item() / found.ctc_symbols, rel=1e-4)
    (2.0 * found.text / found.text_tokens + 0.5 * found.ctc / found.ctc_symbols).backward()
    trained = [*model.bridge.parameters(), *model.ctc_head.parameters()]
    norm = sum(parameter.grad.square().sum().item() for parameter in trained) ** 0.5
    assert line["gradient_norm"] == pytest.approx(norm, rel=1e-4)


def test_what_is_drawn_for_an_utterance(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It depends on seed, epoch and utterance, and on nothing else."""
    drawn: dict[tuple[int, int, str], int] = {}
    losses = Stepper._losses

    def noting(self: Any, batch: Any) -> Any:
        for utterance in batch.utterances:
            key = self.stage.config.seed, batch.epoch, utterance.id
            seed = self._generator(utterance, batch.epoch).initial_seed()
            assert drawn.setdefault(key, seed) == seed
        return losses(self, batch)

    monkeypatch.setattr(Stepper, "_losses", noting)
    for name, batch_seconds, seed in (("a", 3.0, 0), ("b", 100.0, 0), ("c", 3.0, 1)):
        run(output=str(tmp_path / name), data__batch_seconds=batch_seconds, seed=seed, schedule={"steps": 3})
    assert {key[:2] for key in drawn} >= {(0, 0), (0, 1), (0, 2), (1, 0)}
    assert len(set(drawn.values())) == len(drawn)


# --- what goes wrong -------------------------------------------------------------------------------


def corpus_with(folder: Path, count: int = 3, **line: Any) -> str:
    """A manifest of tones whose last line is changed."""
    manifest = write_corpus(folder / "odd", count)
    lines = [json.loads(text) for text in manifest.read_text().splitlines()]
    lines[-1].update(line)
    manifest.write_text("\n".join(map(json.dumps, lines)))
    return str(manifest)


def test_what_is_left_out_is_logged(run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    manifest = corpus_with(tmp_path, duration=0.19)
    with caplog.at_level(logging.WARNING):
        run(data={"train": [manifest]}, schedule={"steps": 2})
    assert "left out 1 of 3 utterances shorter than 0.2 s" in caplog.text


def test_an_overlong_text_is_named_before_the_first_step(run: Run, tmp_path: Path) -> None:
    manifest = corpus_with(tmp_path, id="endless", text="x" * 300)
    with pytest.raises(TrainingError, match=r"1 of 3 utterances cannot be trained on: endless: 2 positions of prompt"):
        run(data={"train": [manifest]}, losses={"text": 1})
    assert not (tmp_path / "run").exists()


def test_characters_the_head_cannot_learn_are_named(run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        run(data={"train": [corpus_with(tmp_path, text="naïve 5 ï")]}, schedule={"steps": 1})
    assert (
        "1 of 3 texts have characters that the CTC head has no symbol for; it does not learn them: 5 ï" in caplog.text
    )


def test_a_batch_without_any_loss_is_named(run: Run, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"every text of the batch odd is too long for its audio"):
        run(
            data={"train": [corpus_with(tmp_path, count=1, id="odd", text="abcdefghijklmnop")]},
            parts={name: {"train": name in ("encoder", "ctc_head")} for name in ALL},
            losses={"text": 0, "ctc": 1},
        )


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_numbers_that_are_none_stop_the_run(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, what: str
) -> None:
    class Spoil(torch.autograd.Function):
        """Whole forwards, broken backwards."""

        @staticmethod
        def forward(ctx: Any, value: torch.Tensor) -> torch.Tensor:
            return value.clone()

        @staticmethod
        def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
            return gradient * float("nan")

    original = Stepper._losses

    steps = iter(range(100))

    def spoiled(self: Any, batch: Any) -> Any:
        found = original(self, batch)
        if next(steps) == 3:
            found = replace(found, text=found.text * float("inf") if what == "loss" else Spoil.apply(found.text))
        return found

    monkeypatch.setattr(Stepper, "_losses", spoiled)
    with pytest.raises(
        TrainingError, match=rf"the {what} is (inf|nan) at step 4 on the batch .*\.wav:\d.*lower the learning rate"
    ):
        run()
    assert [path.name for path in (tmp_path / "run/checkpoints").iterdir()] == ["step-00000002"]


def test_prompt_fields_come_from_the_manifest(
    run: Run, tmp_path: Path, start: Path, opened: Callable[[Path], Integration], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = opened(start)
    model.prompt, model.language = PromptTemplate(prefix="{language}{context}", defaults={"context": "-"}), "en"
    save(model, tmp_path / "asks")
    read: list[str] = []
    encode = type(model.decoder).encode
    monkeypatch.setattr(type(model.decoder), "encode", lambda self, text: read.append(text) or encode(self, text))
    manifest = corpus_with(tmp_path, language="ja", context="tea", task="unused")
    run(model=str(tmp_path / "asks"), data={"train": [manifest], "batch_seconds": 100}, schedule={"steps": 1})
    asked = sorted(text for text in read if text[:2] in ("en", "ja"))
    # Each once beforehand, when it is seen to that all fits the decoder.
    assert asked == sorted(["en-", "jatea", "en-", "en-", "jatea"])


def test_auxiliary_losses_count_per_clip(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    forward = ToyBridge.forward

    def with_loss(self: ToyBridge, frames: Any, target_lengths: Any = None) -> Any:
        audio = forward(self, frames)
        return replace(audio, losses={"size": len(audio.lengths) * (3.0 + self.conv.bias.sum() * 0)})

    monkeypatch.setattr(ToyBridge, "forward", with_loss)
    steps = metrics(run(schedule={"steps": 3}))
    assert [line["auxiliary_loss"] for line in steps.values()] == [3.0] * 3


def test_the_output_folder_cannot_be_made(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TrainingError, match="cannot write to"):
        run(output=str(tmp_path / "file/run"))


def test_logging_at_intervals(run: Run, corpus: Path) -> None:
    output = run(log_every_steps=3)
    assert list(metrics(output)) == [3, 6, 7]
    line = metrics(output)[3]
    assert set(line) >= {"loss", "ctc_loss", "gradient_norm", "learning_rate", "audio_seconds_per_second", "minutes"}


def test_validation_takes_the_first_so_many(run: Run, corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    validate = loop.validate

    def counting(integration: Any, utterances: Any, **settings: Any) -> Any:
        seen.append(len(utterances))
        return validate(integration, utterances, **settings)

    monkeypatch.setattr(loop, "validate", counting)
    run(data__validation=str(corpus), validation={"every_steps": 2, "max_utterances": 5}, schedule={"steps": 3})
    assert seen == [5, 5]


def test_nothing_is_written_that_was_not_asked_for(run: Run) -> None:
    output = run(schedule={"steps": 2})
    names = [".lock", "checkpoints", "final", "metrics.jsonl", "summary.html"]
    assert sorted(path.name for path in output.iterdir()) == names
