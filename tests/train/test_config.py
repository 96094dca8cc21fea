from __future__ import annotations

from pathlib import Path

import pytest

from nuebridge.config import load_yaml, parse_set_values
from nuebridge.errors import ConfigError
from nuebridge.train.config import ScheduleConfig, TrainConfig

TEXT = """\
model: start
output: out
data:
  train: [a.jsonl]
schedule:
  steps: 100
"""


def read(folder: Path, text: str, *assignments: str) -> TrainConfig:
    (folder / "train.yaml").write_text(text)
    return load_yaml(folder / "train.yaml", TrainConfig, set_values=parse_set_values(assignments))


def test_defaults(tmp_path: Path) -> None:
    config = read(tmp_path, TEXT)
    trained = {name: part.train for name, part in config.parts}
    assert trained == {"encoder": False, "ctc_head": True, "bridge": True, "decoder": False}
    assert config.data.train[0].path == "a.jsonl" and config.losses.text == 1 and config.precision == "float32"


def test_unknown_keys_are_reported_with_their_lines(tmp_path: Path) -> None:
    text = TEXT + "parts:\n  bridge: {learning_rat: 1.0e-3}\nsede: 3\nlosses: {text: 1}\n"
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text)
    message = str(caught.value)
    assert f"{tmp_path}/train.yaml:8: parts.bridge.learning_rat: unknown key" in message
    assert "did you mean 'learning_rate'?" in message
    assert f"{tmp_path}/train.yaml:9: sede: unknown key" in message and "did you mean 'seed'?" in message


@pytest.mark.parametrize(
    ("assignments", "said"),
    [
        (["schedule.steps=0"], "schedule.steps: should be greater than or equal to 1, not 0"),
        (["data.train=[]"], "data.train"),
        (["parts.bridge.learning_rate=0"], "parts.bridge.learning_rate: should be greater than 0"),
        (["losses.text=0"], "both loss weights are 0: nothing would be learned"),
        (["losses.auxiliary.size=-1"], "losses.auxiliary.size: should be greater than or equal to 0, not -1"),
        (["losses.token_replacement=1"], "losses.token_replacement: should be less than 1"),
        (["precision=float16"], "'float16' is not known"),
        (["schedule.shape=cosin"], "did you mean 'cosine'"),
        (["stop_after_minutes=0"], "stop_after_minutes"),
        (["parts.encoder.freeze=true"], "parts.encoder.freeze: unknown key"),
    ],
)
def test_values_that_cannot_be(tmp_path: Path, assignments: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        read(tmp_path, TEXT, *assignments)


def test_parts_are_trained_whole_not_or_by_group(tmp_path: Path) -> None:
    config = read(tmp_path, TEXT, "parts.encoder.train=[layers.*, head]", "parts.decoder.train=true")
    assert config.parts.encoder.train == ("layers.*", "head") and config.parts.decoder.train is True


@pytest.mark.parametrize("shape", ["cosine", "linear", "constant"])
def test_the_rate_rises_then_falls(shape: str) -> None:
    schedule = ScheduleConfig.model_validate({"steps": 100, "warmup_steps": 10, "shape": shape, "final_factor": 0.1})
    factors = [schedule.factor(step) for step in range(100)]
    assert factors[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert factors[10] == 1.0 and factors[10:] == sorted(factors[10:], reverse=True)
    assert factors[99] == pytest.approx(1.0 if shape == "constant" else 0.1, abs=0.015)
    assert schedule.factor(100) == schedule.factor(500) == pytest.approx(1.0 if shape == "constant" else 0.1)
    assert ScheduleConfig(steps=1).factor(0) == 1.0


def test_halfway_down() -> None:
    assert ScheduleConfig(steps=10, final_factor=0.0, shape="cosine").factor(5) == pytest.approx(0.5)
    assert ScheduleConfig(steps=10, final_factor=0.2, shape="linear").factor(5) == pytest.approx(0.6)
