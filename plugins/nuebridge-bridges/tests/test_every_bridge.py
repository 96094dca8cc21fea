"""What holds for each of the bridges."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from nuebridge.config import parse_yaml
from nuebridge.config.keys import yaml_value
from nuebridge.contracts import Bridge, Frames
from nuebridge.errors import AudioTooShortError, SizeMismatchError
from nuebridge.hookspecs import BridgeComponent
from nuebridge.plugins import PluginManager
from nuebridge.registry import Registry
from nuebridge.registry.entries import RegistryContents
from nuebridge.train.config import TrainConfig

Build = Callable[..., Bridge]
FramesOf = Callable[..., Frames]

LENGTHS = (31, 9, 10, 24)
DATA_DEPENDENT = ("ctc", "cif")
PAGE = Path(__file__).parents[3] / "docs" / "bridges.md"


def alone(frames: Frames, row: int) -> Frames:
    """One clip of a batch, without padding."""
    return replace(frames.rows(slice(row, row + 1)), losses={})


def test_a_clip_is_what_it_is_alone_and_padding_is_zero(name: str, build: Build, frames_of: FramesOf) -> None:
    bridge = build(name)
    frames = frames_of(*LENGTHS)
    found = bridge(frames)
    assert found.features.shape == (4, int(found.lengths.max()), 10) and found.lengths.dtype == torch.int64
    for row in range(4):
        one = bridge(alone(frames, row))
        count = int(one.lengths)
        assert count == int(found.lengths[row]) >= 1
        assert torch.allclose(found.features[row, :count], one.features[0], rtol=0, atol=1e-5)
        assert not found.features[row, count:].any()


def test_what_lies_in_the_padding_of_the_logits_does_not_matter(name: str, build: Build, frames_of: FramesOf) -> None:
    """A CTC head gives logits for padding too: those of a frame of zeros."""
    bridge, frames = build(name), frames_of(*LENGTHS)
    logits = frames.ctc_logits + (~frames.mask)[..., None] * torch.tensor([9.0, 0, 0, 50, 0])
    other = bridge(replace(frames, ctc_logits=logits))
    assert torch.equal(other.features, bridge(frames).features) and torch.equal(other.lengths, bridge(frames).lengths)


def test_lengths(name: str, build: Build, frames_of: FramesOf) -> None:
    """Exact where a bridge says so; else never more than it says."""
    bridge = build(name)
    counts = torch.arange(0, 26)
    said = bridge.output_lengths(counts).tolist()
    assert said == sorted(said) and said[0] == 0
    least = next(count for count in counts.tolist() if said[count] >= 1)
    for count in range(least, 26):
        found = bridge(frames_of(count, seed=count))
        real = int(found.lengths)
        assert found.features.shape[1] == real
        assert real == said[count] if bridge.lengths_are_exact else 1 <= real <= said[count]
    assert bridge.lengths_are_exact != name.startswith(DATA_DEPENDENT)


def test_the_downsampling_factor_is_frames_a_position(name: str, build: Build) -> None:
    bridge = build(name)
    assert (bridge.downsampling_factor is None) == name.startswith(DATA_DEPENDENT)
    if bridge.downsampling_factor is not None:
        long = torch.tensor([30_000])
        assert 30_000 / int(bridge.output_lengths(long)) == pytest.approx(bridge.downsampling_factor, rel=1e-3)


def test_a_clip_that_is_too_short_is_an_error(name: str, build: Build, frames_of: FramesOf) -> None:
    bridge = build(name)
    counts = bridge.output_lengths(torch.arange(0, 20)).tolist()
    least = next(count for count, given in enumerate(counts) if given >= 1)
    frames = replace(frames_of(20, 20), lengths=torch.tensor([20, least - 1])).zero_padding()
    said = rf"clip 1 of the batch has {least - 1} encoder frames, and the .* bridge needs at least {least};"
    with pytest.raises(AudioTooShortError, match=said):
        bridge(frames)


def test_gradients_reach_the_frames_and_every_parameter(name: str, build: Build, frames_of: FramesOf) -> None:
    bridge = build(name).train()
    frames = frames_of(*LENGTHS)
    features = frames.features.clone().requires_grad_()
    assert frames.ctc_logits is not None
    logits = frames.ctc_logits.clone().requires_grad_()
    out = bridge(replace(frames, features=features, ctc_logits=logits), torch.tensor([7, 3, 4, 6]))
    (out.features * torch.randn_like(out.features)).sum().backward()
    assert features.grad is not None and torch.isfinite(features.grad).all()
    assert features.grad[frames.mask].any() and all(features.grad[row].any() for row in range(4))
    assert not features.grad[~frames.mask].any()
    for key, parameter in bridge.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), key
        # To add the same to what every key scores changes nothing; one query attends to itself whatever it scores.
        idle = r"key\.bias$|self_attention\.(query|key)" if name == "q-former" else r"key\.bias$"
        assert re.search(idle, key) or parameter.grad.any(), key
    # The choice of what belongs together has no gradient; weights by posterior do.
    assert (logits.grad is not None and bool(logits.grad.any())) == name.startswith("ctc-weighted")


def test_bfloat16(name: str, build: Build, frames_of: FramesOf) -> None:
    """Parts held in bfloat16, and float32 ones under autocast, give nearly the same."""
    bridge = build(name)
    half = copy.deepcopy(bridge).bfloat16()
    frames = frames_of(*LENGTHS)
    assert frames.ctc_logits is not None
    small = replace(frames, features=frames.features.bfloat16(), ctc_logits=frames.ctc_logits.bfloat16())
    whole = replace(small, features=small.features.float(), ctc_logits=frames.ctc_logits.bfloat16().float())
    expected = copy.deepcopy(half).float()(whole)
    found = half(small)
    assert half.dtype == found.features.dtype == torch.bfloat16 and bridge.dtype == torch.float32
    assert found.lengths.tolist() == expected.lengths.tolist()
    assert torch.allclose(found.features.float(), expected.features, atol=0.06)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = bridge(frames)
    reference = bridge(frames)
    assert mixed.lengths.tolist() == reference.lengths.tolist()
    assert torch.allclose(mixed.features.float(), reference.features, atol=0.06)


def test_saved_and_loaded_it_is_the_same(name: str, build: Build, frames_of: FramesOf, tmp_path: Path) -> None:
    bridge, frames = build(name), frames_of(*LENGTHS)
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
    bridge.save(tmp_path / "one")
    assert bridge.options is not None
    loaded = type(bridge).load(tmp_path / "one", 12, 10, type(bridge.options)(**bridge.options.model_dump())).eval()
    assert torch.equal(loaded(frames).features, bridge(frames).features)
    loaded.save(tmp_path / "two")
    one, two = (tmp_path / folder / "model.safetensors" for folder in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()


def test_every_parameter_is_in_one_group(name: str, build: Build) -> None:
    bridge = build(name)
    groups = bridge.parameter_groups()
    assert len({group.name for group in groups}) == len(groups) and groups[-1].name == "head"
    grouped = [id(parameter) for group in groups for parameter in group.parameters]
    assert sorted(grouped) == sorted(id(parameter) for parameter in bridge.parameters())


def test_losses_of_other_parts_are_handed_on(name: str, build: Build, frames_of: FramesOf) -> None:
    frames = replace(frames_of(20), losses={"other": torch.tensor(2.0)})
    assert build(name)(frames).losses == {"other": torch.tensor(2.0)}


@pytest.mark.parametrize("kind", ["mean-pooling", "ctc", "cif", "conv-transformer", "q-former"])
def test_without_projection(kind: str, build: Build, frames_of: FramesOf, tmp_path: Path) -> None:
    """Widths must agree by themselves then; a bridge may have no parameters at all."""
    sizes: dict[str, Any] = {"hidden_size": 12, "heads": 2} if kind in ("conv-transformer", "q-former") else {}
    bridge = build(kind, 12, 12, projection=False, **sizes)
    with_one = build(kind, 12, 12, **sizes)
    own, other = set(dict(bridge.named_parameters())), set(dict(with_one.named_parameters()))
    assert other - own == {"proj.weight", "proj.bias"} and own <= other
    found = bridge(frames_of(40, 30))
    assert found.features.shape[2] == 12 and found.features[0, 0].any()
    assert bridge.device == torch.device("cpu") and bridge.to("meta").device == torch.device("meta")
    with pytest.raises(SizeMismatchError, match="without a projection gives positions of width 12, but the decoder"):
        build(kind, 12, 10, projection=False, **sizes)


def test_no_loop_over_frames_or_clips(name: str, build: Build, frames_of: FramesOf) -> None:
    """A longer or larger batch takes no more operations."""

    def operations(frames: Frames) -> int:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile, torch.no_grad():
            bridge(frames)
        top = [event for event in profile.events() if event.cpu_parent is None and event.name.startswith("aten::")]
        return len(top)

    bridge = build(name)
    few, many = frames_of(20, 14), frames_of(*[60 + i for i in range(12)])
    operations(few)
    assert operations(many) <= operations(few) + 2


# --- the registry and the page ---------------------------------------------------------------------


def test_the_page_says_what_each_entry_of_the_registry_gives(manager: PluginManager) -> None:
    """The table's rates and parameter counts, for an encoder of width 768 at 50 Hz and a decoder of width 1024."""
    registry = Registry.load(manager, environ={"NUEBRIDGE_CONFIG_DIR": "/nowhere"}, folder=Path("/nowhere"))
    table = PAGE.read_text(encoding="utf-8").partition("\n## ")[0]
    rows = [line.split("|")[1:-1] for line in table.splitlines() if line.startswith("| `")]
    told = {cells[0].strip(" `"): [cell.strip() for cell in cells[1:]] for cells in rows}
    ours = [key for key in registry.names("bridges") if registry.bridge(key).component.startswith("bridges.")]
    assert ours and set(ours) == set(told)
    for key in ours:
        entry = registry.bridge(key)
        ref = manager.find(BridgeComponent, entry.component)
        with torch.device("meta"):
            bridge = ref.load().build(768, 1024, ref.parse_options(entry.options))
        factor = bridge.downsampling_factor
        millions = sum(parameter.numel() for parameter in bridge.parameters()) / 1e6
        rate = "depends on the speech" if factor is None else f"{50 / factor:.4g} Hz"
        lengths = "exact" if bridge.lengths_are_exact else "upper bound"
        component = f"`{entry.component}`"
        assert told[key][:4] == [component, rate, lengths, f"{millions:.1f}"], key
        assert entry.summary and bridge.needs_ctc == ("needs a CTC head" in entry.summary)


def test_the_page_says_every_option_and_its_default(manager: PluginManager) -> None:
    sections = PAGE.read_text(encoding="utf-8").split("\n## ")[1:]
    told = {}
    for section in sections:
        rows = [line.split("|") for line in section.splitlines() if line.startswith("| `")]
        told[section.splitlines()[0]] = {row[1].strip(" `"): row[2].strip(" `") for row in rows}
    refs = [ref for ref in manager.refs(BridgeComponent) if ref.plugin == "bridges"]
    assert set(told) == {ref.id for ref in refs}
    for ref in refs:
        defaults = ref.options_model().model_dump(mode="json")
        assert told[ref.id] == {key: yaml_value(value) for key, value in defaults.items()}


def test_the_examples_of_the_page_are_valid(manager: PluginManager) -> None:
    entries, losses = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    for entry in parse_yaml(entries, RegistryContents, "page").bridges.values():
        manager.find(BridgeComponent, entry.component).parse_options(entry.options)
    run = "model: a\noutput: b\ndata: {train: [c]}\nschedule: {steps: 1}\n"
    assert parse_yaml(run + losses, TrainConfig, "page").losses.auxiliary == {"quantity": 0.5}
