"""The rules that encoders, bridges and decoders share: options, weights on disk, gradients, precision, LoRA."""

from __future__ import annotations

import random
from typing import Any

import torch
from pydantic import BaseModel

from nuebridge.contracts import SourcedPart, SpeechEncoder
from nuebridge.errors import CheckpointError, ConfigError
from nuebridge.lora.layers import inject, lora_parameters, remove, require_peft
from nuebridge.settings import LoraSettings
from nuebridge.testing.rules import Breach, Checks, NotApplicable, need, refused
from nuebridge.testing.subject import PartSubject
from nuebridge.testing.tools import (
    damage,
    different,
    digests,
    gap,
    named,
    need_same_state,
    numpy_seed,
    state,
    weighed,
)

PICKLES = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt"}

shared: Checks[PartSubject] = Checks()
sourced: Checks[PartSubject] = Checks()
"""Of parts that read a checkpoint."""


@shared.rule
def options_refuse_unknown_keys(subject: PartSubject) -> None:
    """The options model refuses keys that it does not know (derive it from nuebridge.settings.Settings)."""
    with refused("the unknown option no_such_option", ConfigError):
        subject.ref.parse_options({**subject.given, "no_such_option": 1})


@shared.rule
def options_survive_saving(subject: PartSubject) -> None:
    """A part keeps the validated options it was built with; they are saved as JSON and read back the same."""
    held = subject.part.options
    need(isinstance(held, BaseModel), f"part.options is {held!r}, not the options it was given")
    need(held == subject.options, f"part.options is {held!r}, but it was given {subject.options!r}")
    again = subject.ref.parse_options(held.model_dump(mode="json"))
    need(again == held, f"{held!r} is read back as {again!r}")


@shared.rule
def parameter_groups_hold_each_parameter_once(subject: PartSubject) -> None:
    """parameter_groups() holds each parameter once, under names that are unique within the part."""
    part = subject.part
    groups = part.parameter_groups()
    names = [group.name for group in groups]
    need(len(set(names)) == len(names), f"group names repeat: {names}")
    empty = [group.name for group in groups if not group.parameters]
    need(not empty, f"groups without parameters: {empty}")
    listed = [id(parameter) for group in groups for parameter in group.parameters]
    for name, parameter in part.named_parameters():
        count = listed.count(id(parameter))
        need(count == 1, f"{name} is listed {count} times in the groups {names}")
    need(len(listed) == len(list(part.parameters())), "a group holds a parameter that is not the part's own")


@shared.rule
def running_is_deterministic_and_changes_nothing(subject: PartSubject) -> None:
    """In eval mode the same input gives the same output, and nothing of the part changes by being run."""
    part = subject.fresh()
    before = state(part)
    with torch.no_grad():
        first = subject.output(part)
        torch.rand(1)
        second = subject.output(part)
    need(torch.equal(first, second), f"the second run differs from the first by {gap(first, second):.3g}")
    need_same_state(before, state(part), "running it")


@shared.rule
def training_follows_the_seed(subject: PartSubject) -> None:
    """What is drawn at random in training is drawn from torch's random state alone, or a run cannot be resumed."""
    subject.output(subject.part)  # what is made on first use draws numbers too
    part = subject.fresh().train()
    outputs = []
    for attempt in range(2):
        random.seed(attempt)
        with torch.random.fork_rng(devices=[]), numpy_seed(attempt), torch.no_grad():
            torch.manual_seed(0)
            outputs.append(subject.output(part))
    first, second = outputs
    same = first.shape == second.shape and torch.equal(first, second)
    need(same, "two training passes from one torch seed differ while the seeds of random and numpy do")
    need(bool(torch.isfinite(first).all()), "the output in train mode is not finite")


@shared.rule
def gradients_reach_what_is_trained(subject: PartSubject) -> None:
    """Every trained group gets gradients that are finite, and what is frozen stays frozen and gets none."""
    part = _with_weights(subject)
    groups = [group for group in part.parameter_groups() if any(p.requires_grad for p in group.parameters)]
    _backward(subject, part)
    for group in groups:
        gradients = [p.grad for p in group.parameters if p.grad is not None]
        need(all(bool(torch.isfinite(g).all()) for g in gradients), f"gradients of {group.name!r} are not finite")
        need(any(bool(g.any()) for g in gradients), f"no gradient reaches the parameter group {group.name!r}")


@shared.rule
def frozen_parameters_get_no_gradients(subject: PartSubject) -> None:
    """What is frozen stays frozen: a part neither unfreezes parameters nor gives them gradients."""
    part = _with_weights(subject)
    first, *others = part.parameter_groups()
    for parameter in first.parameters:
        parameter.requires_grad_(False)
    names = {id(parameter): name for name, parameter in part.named_parameters()}
    before = {name: parameter.requires_grad for name, parameter in part.named_parameters()}
    part.train()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if others:
            _backward(subject, part)
        else:
            subject.output(part)
    part.eval()
    for parameter in first.parameters:
        need(parameter.grad is None, f"{names[id(parameter)]} is frozen and got a gradient")
    for name, parameter in part.named_parameters():
        now = parameter.requires_grad
        need(now == before[name], f"requires_grad of {name} was {before[name]} and became {now} by training")


@shared.rule
def state_goes_round(subject: PartSubject) -> None:
    """state_dict() holds all that training moves: loaded into another part of the same source, it gives its output."""
    _with_weights(subject)
    changed, other = subject.fresh(shaken=True), subject.fresh()
    with torch.no_grad():
        expected, before = subject.output(changed), subject.output(other)
        other.load_state_dict(changed.state_dict())
        found = subject.output(other)
    need(not torch.equal(expected, before), "moving every weight does not change the output")
    need(torch.equal(expected, found), f"the output differs by {gap(expected, found):.3g} after load_state_dict")


@shared.rule
def saving_and_loading_keeps_the_output(subject: PartSubject) -> None:
    """A part is made again from what save wrote, weights and all: its output is the same to the bit."""
    changed = subject.fresh(shaken=True)
    folder = subject.new_folder()
    changed.save(folder)
    loaded = subject.reload(folder)
    ours, theirs = named(changed), named(loaded)
    need(list(ours) == list(theirs), f"other parameters after loading: {sorted(set(ours) ^ set(theirs))[:8]}")
    for name, parameter in ours.items():
        need(torch.equal(parameter, theirs[name]), f"{name} has other values after loading")
    with torch.no_grad():
        expected, found = subject.output(changed), subject.output(loaded)
    need(torch.equal(expected, found), f"the output differs by {gap(expected, found):.3g} after loading")


@shared.rule
def saving_twice_gives_the_same_bytes(subject: PartSubject) -> None:
    """save, load, save writes the same bytes, so that a checkpoint can be told by its hash."""
    folders = [subject.new_folder() for _ in range(3)]
    part = subject.fresh()
    before = state(part)
    part.save(folders[0])
    part.save(folders[1])
    need_same_state(before, state(part), "saving it")
    subject.reload(folders[0]).save(folders[2])
    first, second, again = map(digests, folders)
    need(first == second, f"two saves of one part differ in {different(first, second)}")
    need(first == again, f"save, load, save differs in {different(first, again)}")


@shared.rule
def weights_are_safetensors(subject: PartSubject) -> None:
    """Weights are safetensors; nothing that is saved is a pickle."""
    folder = subject.new_folder()
    _with_weights(subject).save(folder)
    files = [file for file in folder.rglob("*") if file.is_file()]
    pickles = [file.name for file in files if file.suffix in PICKLES]
    need(not pickles, f"save wrote {pickles}")
    need(any(file.suffix == ".safetensors" for file in files), f"save wrote {[file.name for file in files]}")


@shared.rule
def damaged_checkpoints_are_refused(subject: PartSubject) -> None:
    """Weights that are missing, of another shape or damaged are a CheckpointError, never filled in silently."""
    _with_weights(subject)
    with refused("loading from an empty folder", CheckpointError):
        subject.reload(subject.new_folder())
    for what in ("a cut-off weight file", "a missing weight", "a weight of another shape"):
        folder = subject.new_folder()
        subject.fresh().save(folder)
        damage(folder, what)
        with refused(f"a checkpoint with {what}", CheckpointError):
            subject.reload(folder)


@shared.rule
def bfloat16_is_finite(subject: PartSubject) -> None:
    """A part runs in bfloat16 and gives finite numbers."""
    part = subject.fresh().to(torch.bfloat16)
    with torch.no_grad():
        output = subject.output(part)
    need(output.numel() > 0 and bool(torch.isfinite(output).all()), "the output in bfloat16 is not finite")


@sourced.rule
def outline_agrees_with_load(subject: PartSubject) -> None:
    """outline() gives what load() gives but for the values of weights: the same names, shapes and sizes."""
    kind: type[SourcedPart] = subject.ref.load()
    outline = kind.outline(str(subject.folder), subject.options)
    if outline is None:
        raise NotApplicable("it makes no outlines, which is allowed: a check before training loads it instead")
    loaded = subject.part
    need(any(parameter.is_meta for parameter in outline.parameters()), "outline() has the values of all its weights")
    for name in ("sample_rate", "hidden_size", "frame_rate", "vocab_size", "max_positions", "eos_token_ids"):
        ours, theirs = getattr(loaded, name, None), getattr(outline, name, None)
        need(ours == theirs, f"{name} is {theirs!r} in outline() and {ours!r} in load()")
    first, second = (
        {group.name: [tuple(p.shape) for p in group.parameters] for group in part.parameter_groups()}
        for part in (loaded, outline)
    )
    need(first == second, f"the parameter groups of outline() differ: {different(first, second)}")
    if isinstance(loaded, SpeechEncoder) and isinstance(outline, SpeechEncoder):
        lengths = torch.arange(0, 3 * int(loaded.sample_rate), 137)
        same = torch.equal(loaded.output_lengths(lengths), outline.output_lengths(lengths))
        need(same, "output_lengths of outline() differ from those of load()")


@sourced.rule
def a_source_that_is_not_there_is_refused(subject: PartSubject) -> None:
    """A source that is not there is a CheckpointError that says so."""
    missing = str(subject.new_folder() / "nowhere")
    with refused(f"the source {missing}", CheckpointError):
        subject.ref.load().load(missing, subject.options)


@sourced.rule
def lora_finds_layers(subject: PartSubject) -> None:
    """target_modules names layers of adapted_module that take LoRA; fresh LoRA changes nothing and learns."""
    try:
        require_peft()
    except ConfigError as error:
        raise NotApplicable(str(error)) from None
    part = subject.fresh()
    with torch.no_grad():
        before = subject.output(part)
    inject(part, "check", LoraSettings(r=2, lora_dropout=0.0))
    added = lora_parameters(part, "check")
    need(added, f"target_modules {part.target_modules!r} match no layer")
    with torch.no_grad():
        need(gap(before, subject.output(part)) < 1e-5, "LoRA that is not trained yet changes the output")
    _backward(subject, part)
    need(any(p.grad is not None and bool(p.grad.any()) for p in added), "no gradient reaches the LoRA weights")
    remove(part, "check")
    with torch.no_grad():
        need(torch.equal(before, subject.output(part)), "the output is another one once LoRA is taken off")


def _with_weights(subject: PartSubject) -> Any:
    part = subject.fresh()
    if not list(part.parameters()):
        raise NotApplicable("it has no weights")
    return part


def _backward(subject: PartSubject, part: Any) -> None:
    loss = weighed(subject.output(part))
    if not loss.requires_grad:
        raise Breach("the output has no gradient, though there is something to train")
    loss.backward()  # type: ignore[no-untyped-call]
