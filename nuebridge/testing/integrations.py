"""What a whole integration is asked: it learns through the trainer's own step, comes back from disk, and transcribes
a clip in a batch as it does alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nuebridge.checkpoint import load, save
from nuebridge.contracts import RecognitionOptions, Transcript
from nuebridge.data import Utterance
from nuebridge.model import Integration
from nuebridge.plugins import PluginManager
from nuebridge.prompt import build_prompt
from nuebridge.registry import Registry
from nuebridge.testing.rules import Breach, Checks, need
from nuebridge.testing.subject import IntegrationSubject
from nuebridge.testing.tools import different, digests
from nuebridge.train.batches import Batch, Position
from nuebridge.train.config import TrainConfig
from nuebridge.train.engine import Engine
from nuebridge.train.ranks import Ranks
from nuebridge.train.step import Stepper

TEXTS = ("a day", "so", "hello")
NEW_TOKENS = 5
TIE = 1e-4

integrations: Checks[IntegrationSubject] = Checks()


@integrations.rule
def it_transcribes(subject: IntegrationSubject) -> None:
    """A recogniser gives one transcript a clip, in their order, each with its duration in seconds."""
    integration = subject.make()
    given = clips(integration)
    transcripts = integration.recognize(given, RecognitionOptions(max_new_tokens=NEW_TOKENS))
    need(len(transcripts) == len(given), f"{len(given)} clips give {len(transcripts)} transcripts")
    for clip, transcript in zip(given, transcripts, strict=True):
        seconds = len(clip) / integration.sample_rate
        need(
            abs(transcript.duration - seconds) < 1e-6, f"a clip of {seconds} s is said to last {transcript.duration} s"
        )
        need(isinstance(transcript.text, str), f"its text is {transcript.text!r}")


@integrations.rule
def a_batch_gives_what_single_clips_give(subject: IntegrationSubject) -> None:
    """A clip is transcribed in a batch as it is alone: the same tokens."""
    need_batch_invariance(subject.make())


@integrations.rule
def it_learns(subject: IntegrationSubject) -> None:
    """It learns: two steps of the trainer on one batch lower that batch's loss."""
    need_learning(subject.make())


@integrations.rule
def it_comes_back_from_disk(subject: IntegrationSubject) -> None:
    """save, load, save writes the same bytes, and what is loaded gives the same tokens and weight hash."""
    integration = subject.make()
    manager = subject.manager or PluginManager.discover()
    need_round_trip(integration, subject.new_folder(), manager, Registry([]))


def clips(integration: Integration) -> list[Tensor]:
    """Three clips ``[S]`` of different lengths, the shortest one long enough for the integration."""
    rate = integration.sample_rate
    least = max(0.35, 1.1 * integration.min_audio_seconds)
    lengths = [round(least * factor * rate) + odd for factor, odd in ((1.35, 0), (1.0, 1), (1.7, 1))]
    found = []
    for row, length in enumerate(lengths):
        noise = torch.randn(length, generator=torch.Generator().manual_seed(row))
        tone = torch.sin(torch.arange(length) * (0.05 * (row + 1)))
        found.append(0.1 * tone + 0.03 * noise)
    return found


def batch(integration: Integration, texts: Sequence[str] = TEXTS) -> Batch:
    """The clips of :func:`clips` with something to learn, as the trainer is given them."""
    waveforms = clips(integration)
    return Batch(
        nn.utils.rnn.pad_sequence(waveforms, batch_first=True),
        torch.tensor([len(waveform) for waveform in waveforms]),
        tuple(
            Utterance(f"clip-{row}", Path("nowhere"), text, fields=dict.fromkeys(integration.prompt.fields, ""))
            for row, text in enumerate(texts)
        ),
        0,
        Position(),
    )


def need_learning(
    integration: Integration, *, trained: Mapping[str, bool] | None = None, rate: float = 1e-3
) -> tuple[float, float]:
    """Steps of the trainer on one batch; returns what it minimizes (nats) before and after two of them.

    ``trained`` says which parts learn (default: the bridge and the CTC head). Raises Breach unless the loss falls, and
    where a part that is frozen moves or one that is trained does not.
    """
    trained = {"encoder": False, "ctc_head": True, "bridge": True, "decoder": False} | dict(trained or {})
    data, ctc = batch(integration), 0.3 if integration.ctc_head is not None else 0.0
    config = TrainConfig.model_validate(
        {
            "model": "unused",
            "output": "unused",
            "data": {"train": ["unused"]},
            "schedule": {"steps": 3, "shape": "constant"},
            "parts": {name: {"train": learns, "learning_rate": rate} for name, learns in trained.items()},
            "losses": {"ctc": ctc},
        }
    )
    (stage,) = config.unrolled()
    before = _weights(integration)
    stepper = Stepper(Engine(integration, stage, Ranks()), stage)
    losses = []
    with torch.random.fork_rng(devices=[]):
        for step in range(3):
            torch.manual_seed(0)  # dropout is the same in each
            figures = stepper.step(data, step, lambda: False).figures
            losses.append(figures["loss"] + ctc * figures.get("ctc_loss", 0.0) + figures.get("auxiliary_loss", 0.0))
    integration.requires_grad_(True).eval()
    started, _, ended = losses
    need(ended < started, f"the loss of the batch was {started:.4f} nats a token and is {ended:.4f} after two steps")
    for name, held in _weights(integration).items():
        moved = any(not torch.equal(tensor, before[name][key]) for key, tensor in held.items())
        need(moved or not trained[name] or not held, f"the {name} is trained and did not move")
        need(not moved or trained[name], f"the {name} is frozen and moved")
    return started, ended


def evaluated(integration: Integration, data: Batch) -> float:
    """The text loss of a batch in eval mode, nats a token."""
    integration.eval()
    fields = [dict.fromkeys(integration.prompt.fields, "")] * len(data.texts)
    with torch.no_grad():
        losses = integration(data.waveforms, data.lengths, data.texts, fields=fields)
    return float(losses.text) / int(losses.text_tokens)


def recognized(integration: Integration, waveforms: Sequence[Tensor]) -> list[Transcript]:
    """Transcripts of a few tokens, of clips as one batch."""
    values: dict[str, Any] = {
        name: "x" for name in integration.prompt.fields if name not in integration.prompt.defaults
    }
    return integration.recognize(waveforms, RecognitionOptions(max_new_tokens=NEW_TOKENS, **values))


def need_batch_invariance(integration: Integration) -> list[Transcript]:
    """Raises Breach where a clip gives other tokens in a batch than alone, ties apart; returns the transcripts."""
    given = clips(integration)
    together = recognized(integration, given)
    for clip, batched in zip(given, together, strict=True):
        (alone,) = recognized(integration, [clip])
        ours, theirs = list(alone.token_ids), list(batched.token_ids)
        if ours != theirs and not is_tie(integration, clip, ours, theirs):
            raise Breach(f"a clip of {len(clip)} samples gives tokens {ours} alone and {theirs} in a batch")
    return together


def need_round_trip(integration: Integration, folder: Path, manager: PluginManager, registry: Registry) -> Integration:
    """Raises Breach where the integration changes by being saved and loaded; returns the loaded one."""
    save(integration, folder / "first")
    loaded = load(folder / "first", manager=manager, registry=registry)
    save(loaded, folder / "second")
    first, second = digests(folder / "first"), digests(folder / "second")
    need(first == second, f"save, load, save differs in {different(first, second)}")
    need(loaded.weight_hash() == integration.weight_hash(), "the weight hash is another one after loading")
    ours, theirs = ([list(t.token_ids) for t in recognized(one, clips(one))] for one in (integration, loaded))
    need(ours == theirs, f"tokens were {ours} and are {theirs} after loading")
    return loaded


def is_tie(integration: Integration, clip: Tensor, first: list[int], second: list[int]) -> bool:
    """Whether two texts part where the two best logits lie within 1e-4 of the largest magnitude."""
    place = next((i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), None)
    if place is None:
        return False
    with torch.no_grad():
        audio = integration.embed_audio(clip[None], torch.tensor([len(clip)]))
        prompt = build_prompt(integration.decoder, audio, integration.prompt, [{}], [first[: place + 1]])
        logits = integration.decoder(prompt.inputs_embeds, prompt.attention_mask, 1)[0, -1].float()
    return abs(float(logits[first[place]] - logits[second[place]])) <= TIE * float(logits.abs().max())


def _weights(integration: Integration) -> dict[str, dict[str, Any]]:
    return {
        name: {key: parameter.detach().clone() for key, parameter in part.named_parameters()}
        for name, part in integration.parts.items()
    }
