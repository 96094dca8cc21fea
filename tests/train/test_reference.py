from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from nuebridge.errors import TrainingError
from nuebridge.lora import lora_parameters
from nuebridge.model import Integration
from nuebridge.settings import LoraSettings
from nuebridge.train.config import LossConfig
from nuebridge.train.engine import Engine
from nuebridge.train.ranks import Ranks, joined
from nuebridge.train.reference import Reference
from nuebridge.train.step import Stepper
from nuebridge.train.stopping import TrainingStopped
from tests.train.conftest import Run
from tests.train.layered import batch, config, layered, steps, weights
from tests.train.runs import metrics

FROZEN = {"train": False}
LORA = {"train": False, "lora": LoraSettings(r=2, target_modules=("proj",), lora_dropout=0.5), "learning_rate": 0.05}
BRIDGE = {"encoder": FROZEN, "ctc_head": FROZEN, "decoder": FROZEN, "bridge": {"learning_rate": 0.05}}


@pytest.fixture(scope="module")
def group() -> Iterator[Ranks]:
    with joined(as_group=True) as ranks:
        yield ranks


def held(
    integration: Integration, start: Integration, ranks: Ranks | None = None, **changes: Any
) -> tuple[Stepper, Reference]:
    """A stepper that holds the integration near what it started from."""
    (stage,) = config(losses={"kl": 2.0}, **changes).unrolled()
    reference = Reference(integration, start, stage.config)
    engine = Engine(integration, stage, ranks or Ranks())
    reference.settle(engine)
    return Stepper(engine, stage, reference), reference


@torch.no_grad()
def divergence(start: Integration, now: Integration) -> float:
    """KL(start || now) in nats a token over the texts of a batch, without batching or padding."""
    total, count = 0.0, 0
    given = batch()
    for row, utterance in enumerate(given.utterances):
        clip = given.waveforms[row : row + 1, : given.lengths[row]]
        logs = []
        for model in (start.eval(), now.eval()):
            audio = model.embed_audio(clip, given.lengths[row : row + 1]).features[0]
            before, after = (model.decoder.embed(torch.tensor(model.decoder.encode(text))) for text in ("<s>", ":"))
            read = model.decoder.embed(torch.tensor(model.decoder.encode(utterance.text or ""), dtype=torch.int64))
            embeds = torch.cat([before, audio, after, read])[None]
            logits = model.decoder(embeds, torch.ones(1, embeds.shape[1], dtype=torch.int64), len(read) + 1)
            logs.append(logits[0].log_softmax(-1))
        p, q = logs
        total += float((p.exp() * (p - q)).sum())
        count += len(p)
    return total / count


@pytest.mark.parametrize(
    ("parts", "copies"),
    [
        (BRIDGE, ("bridge",)),
        ({**BRIDGE, "decoder": LORA}, ("bridge",)),
        ({**BRIDGE, "bridge": FROZEN, "decoder": LORA}, ()),
        ({**BRIDGE, "bridge": FROZEN, "encoder": LORA}, ()),
        ({**BRIDGE, "decoder": {"train": ("all",), "learning_rate": 0.05}}, ("bridge", "decoder")),
        ({name: {"learning_rate": 0.05} for name in BRIDGE}, ("encoder", "ctc_head", "bridge", "decoder")),
    ],
    ids=["bridge", "bridge and LoRA", "LoRA", "encoder LoRA", "decoder", "all"],
)
@pytest.mark.parametrize("divided", [False, True])
def test_the_divergence_is_that_from_the_starting_weights(
    group: Ranks, parts: dict[str, Any], copies: tuple[str, ...], divided: bool
) -> None:
    integration, start = layered(), layered()
    changes: dict[str, Any] = {"parts": parts, **({"parallel": {"strategy": "shard"}} if divided else {})}
    made, reference = held(integration, layered(), group if divided else None, **changes)
    assert reference.copies == copies
    assert made.step(batch(), 0, lambda: False).figures["kl"] == pytest.approx(0.0, abs=1e-4)
    steps(made, 2, first=1)
    with made.engine.whole() as now:
        now = copy.deepcopy(now).eval()
    expected = divergence(start, now)
    assert expected > 1e-3
    # Dropout, which LoRA has, would make another model of it.
    for module in integration.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    assert made.step(batch(), 3, lambda: False).figures["kl"] == pytest.approx(expected, rel=1e-4)


def test_it_is_a_term_of_what_is_minimised_and_holds_the_model() -> None:
    far, near = layered(), layered()
    parts = {**BRIDGE, "decoder": {"train": True, "learning_rate": 0.02}}
    made, _ = held(near, layered(), parts=parts)
    (piece,) = made._pieces(batch())
    losses, counts = made._losses(piece), made._counts(batch(), [piece])
    expected = losses.text / losses.text_tokens + 2.0 * losses.kl / losses.text_tokens
    assert made._total(losses, counts, 0.0).item() == pytest.approx(expected.item(), rel=1e-6)
    (free,) = config(parts=parts).unrolled()
    steps(Stepper(Engine(far, free, Ranks()), free), 10)
    steps(made, 10)
    assert divergence(layered(), near) < 0.5 * divergence(layered(), far)


def test_lora_that_the_start_had_belongs_to_the_start() -> None:
    """What an earlier run trained stays on in the reference, whose LoRA then is a copy of its own."""
    parts = {**BRIDGE, "bridge": FROZEN, "decoder": LORA}
    first = layered()
    (stage,) = config(parts=parts).unrolled()
    steps(Stepper(Engine(first, stage, Ranks()), stage), 2)
    start = copy.deepcopy(first)
    made, reference = held(first, copy.deepcopy(first), parts=parts)
    assert reference.copies == ("decoder",)
    steps(made, 2)
    expected = divergence(start, copy.deepcopy(first))
    for module in first.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    assert made.step(batch(), 2, lambda: False).figures["kl"] == pytest.approx(expected, rel=1e-4)


def test_a_part_that_an_earlier_stage_trained_is_kept() -> None:
    integration = layered()
    with torch.no_grad():
        integration.decoder.head.bias += 0.1
    _, reference = held(integration, layered(), parts=BRIDGE)
    assert reference.copies == ("bridge", "decoder")


def test_gradients_and_modes_of_the_trained_model_stay_as_they_are() -> None:
    integration = layered(dropout=0.3)
    made, _ = held(integration, layered(dropout=0.3), parts={**BRIDGE, "decoder": LORA})
    steps(made, 1)
    assert integration.decoder.training and integration.bridge.training and not integration.encoder.training
    adapted = lora_parameters(integration.decoder)
    assert adapted and all(parameter.requires_grad for parameter in adapted)
    trained = {name for name, parameter in integration.named_parameters() if parameter.requires_grad}
    assert all("lora" in name or name.startswith("bridge") for name in trained)


def test_lora_is_trained_and_nothing_else_of_its_part() -> None:
    integration = layered()
    before = weights(integration)
    (stage,) = config(parts={**BRIDGE, "bridge": FROZEN, "decoder": LORA}).unrolled()
    made = Stepper(Engine(integration, stage, Ranks()), stage)
    steps(made, 2)
    assert integration.adapters["lora"].lora["decoder"].r == 2
    after = weights(integration)
    changed = {name for name, now in after.items() if "lora" in name}
    assert len(changed) == 4 and made.learning_rates == {"decoder": 0.05}
    for name, tensor in before.items():
        kept = after[name] if name in after else after[name.replace(".proj.", ".proj.base_layer.")]
        assert torch.equal(kept, tensor), name
    assert any(parameter.abs().sum() > 0 for name, parameter in after.items() if "lora_B" in name)
    # A second stage goes on with what is there.
    Engine(integration, stage, Ranks())
    assert len(lora_parameters(integration.decoder)) == 4
    (other,) = config(parts={**BRIDGE, "decoder": {**LORA, "lora": LoraSettings(r=4)}}).unrolled()
    with pytest.raises(TrainingError, match=r"parts\.decoder\.lora\.r is 4, but the decoder has LoRA already, with 2"):
        Engine(integration, other, Ranks())


def test_without_text_there_is_nothing_to_compare() -> None:
    parts = {**BRIDGE, "bridge": FROZEN, "ctc_head": {"train": True}}
    changed = config(parts=parts, losses={"text": 0.0, "ctc": 1.0})
    changed = changed.model_copy(update={"losses": LossConfig(text=0, ctc=1, kl=1)})
    with pytest.raises(TrainingError, match=r"losses\.text is 0; set kl to 0"):
        Reference(layered(), layered(), changed)


def test_kept_frames_of_another_encoder_are_not_those_of_the_start() -> None:
    integration = layered()
    with torch.no_grad():
        integration.encoder.proj.bias += 0.1
    with pytest.raises(TrainingError, match="an earlier stage changed it, and cache_frozen keeps those"):
        Reference(integration, layered(), config(parts=BRIDGE, losses={"kl": 1.0}, cache_frozen=True))
    Reference(layered(), layered(), config(parts=BRIDGE, losses={"kl": 1.0}, cache_frozen=True))


def test_the_formula() -> None:
    """KL(p || q), not the other way round."""
    p, q = torch.tensor([[0.7, 0.3]]), torch.tensor([[0.4, 0.6]])
    found = F.kl_div(q.log(), p.log(), reduction="sum", log_target=True)
    assert found.item() == pytest.approx((p * (p / q).log()).sum().item())


def test_a_run_with_lora_resumes_as_if_nothing_had_been(run: Run, tmp_path: Path) -> None:
    """The reference is what the run began with, not what it goes on from; stages change what is trained."""
    lora = {"train": False, "lora": {"r": 2, "target_modules": ["head"], "lora_dropout": 0.3}, "learning_rate": 0.05}
    parts = {"encoder": FROZEN, "ctc_head": FROZEN, "decoder": lora, "bridge": {"learning_rate": 0.05}}
    stages = [
        {"name": "bridge", "schedule": {"steps": 3}, "parts": {**parts, "decoder": FROZEN}},
        {"name": "lora", "schedule": {"steps": 4}, "parts": {**parts, "bridge": FROZEN}},
    ]
    changes: dict[str, Any] = {"schedule": None, "stages": stages, "losses": {"kl": 0.5}}
    expected = metrics(run(output=str(tmp_path / "unbroken"), **changes))
    assert expected[1]["kl"] == pytest.approx(0, abs=1e-5) and expected[7]["kl"] > 1e-3
    for count in range(1, 6):
        with pytest.raises(TrainingStopped, match=f"stopped at step {count} of 7"):
            run(resume="auto", stop_after_minutes=1e-9, **changes)
    found = metrics(run(resume="auto", **changes))
    for step, line in expected.items():
        for name in ("loss", "kl", "gradient_norm"):
            assert found[step][name] == pytest.approx(line[name], abs=1e-6), (step, name)
