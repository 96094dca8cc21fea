"""Every entry of the packaged registry at full size, on the meta device: no weights, the real classes.

The counts are those that the checkpoints' authors publish. Needs nuebridge-hf and nuebridge-bridges.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
import torch

from nuebridge.compose import Workshop
from nuebridge.errors import CheckpointError
from nuebridge.plugins import PluginManager
from nuebridge.registry import (
    DecoderEntry,
    EncoderEntry,
    IntegrationEntry,
    Layer,
    Registry,
    packaged_file,
)
from nuebridge.sizes import PUBLISHED, IntegrationSize, PartSize, entry_size

pytest.importorskip("nuebridge_bridges")
published_configs = pytest.importorskip("nuebridge_hf.published_configs")
transformers = pytest.importorskip("transformers")

REGISTRY = Registry([Layer("packaged", packaged_file())])
ENCODERS = REGISTRY.names("encoders")
DECODERS = REGISTRY.names("decoders")

ASKED_FOR = (
    "hubert-base-ls960 hubert-large-ll60k hubert-xlarge-ll60k japanese-hubert-base wav2vec2-base wav2vec2-large "
    "wav2vec2-xls-r-300m mms-300m mms-1b wavlm-base-plus wavlm-large w2v-bert-2.0 whisper-tiny whisper-base "
    "whisper-small whisper-medium whisper-large-v3 "
    "gpt2 gpt2-medium gpt2-large gpt2-xl japanese-gpt-neox-3.6b pythia-160m pythia-410m llama-3.2-1b llama-3.2-3b "
    "qwen3-0.6b qwen3-8b smollm2-135m gemma-3-1b"
)


@pytest.fixture(scope="module")
def workshop() -> Workshop:
    return Workshop(PluginManager.discover(), REGISTRY)


def size(workshop: Workshop, section: str, name: str) -> Any:
    entry: Any = REGISTRY.encoder(name) if section == "encoders" else REGISTRY.decoder(name)
    computed = entry_size(entry, name, workshop)
    assert computed.basis == PUBLISHED and isinstance(computed.size, PartSize)
    return computed.size


def known(entry: EncoderEntry | DecoderEntry) -> Any:
    """The published facts of an entry, where the installed transformers has its class."""
    all_known = published_configs.ENCODERS if isinstance(entry, EncoderEntry) else published_configs.DECODERS
    found = all_known[entry.source]
    if not hasattr(transformers, found.counted):
        pytest.skip(f"transformers {transformers.__version__} has no {found.counted}")
    return found


def test_the_checkpoints_that_people_start_from_are_there() -> None:
    assert set(ASKED_FOR.split()) <= {*ENCODERS, *DECODERS}
    assert {"nue-asr", "slam-hubert-xlarge-smollm2-1.7b"} <= set(REGISTRY.names("integrations"))


def test_revisions_are_commits_or_open() -> None:
    for section in ("encoders", "decoders"):
        for one in REGISTRY.entries(section):
            assert isinstance(one.entry, EncoderEntry | DecoderEntry)
            assert one.entry.revision is None or re.fullmatch("[0-9a-f]{40}", one.entry.revision)


@pytest.mark.parametrize("name", ENCODERS)
def test_encoders(workshop: Workshop, name: str) -> None:
    facts = known(REGISTRY.encoder(name))
    found = size(workshop, "encoders", name)
    config = facts.config
    classes_own = transformers.CONFIG_MAPPING[config["model_type"]]()
    assert found.hidden_size == config.get("hidden_size", config.get("d_model", classes_own.hidden_size))
    assert (found.sample_rate, found.frame_rate) == (16_000, 50.0)
    whole = counted(facts)
    if facts.counted == "WhisperModel":  # published with its decoder, which is as deep and has cross-attention
        assert 0.1 * whole < found.parameters < 0.9 * whole
    else:
        # What only pre-training reads may be left out of the encoder.
        assert found.parameters == pytest.approx(whole, rel=0.001)


@pytest.mark.parametrize("name", DECODERS)
def test_decoders(workshop: Workshop, name: str) -> None:
    facts = known(REGISTRY.decoder(name))
    found = size(workshop, "decoders", name)
    config = facts.config
    assert found.hidden_size == config.get("hidden_size", config.get("n_embd"))
    assert found.vocab_size == config.get("vocab_size", 50_257)
    assert found.max_positions == config.get("max_position_embeddings", config.get("n_positions"))
    assert found.frame_rate is None
    assert found.parameters == counted(facts)


def counted(facts: Any) -> int:
    """The parameters of the class that the published figure is of, checked against that figure."""
    config = transformers.CONFIG_MAPPING[facts.config["model_type"]](**facts.config)
    with torch.device("meta"):
        model = getattr(transformers, facts.counted)._from_config(config)
    count = sum(parameter.numel() for parameter in model.parameters())
    off = abs(count - facts.parameters)
    if facts.remark:
        assert 0.01 * facts.parameters < off < 0.035 * facts.parameters
    else:
        assert off <= max(0.01 * facts.parameters, facts.rounded_to / 2), f"{count:,} is not {facts.parameters:,}"
    return count


def test_few_figures_need_a_remark() -> None:
    facts = published_configs.ENCODERS | published_configs.DECODERS
    assert [source for source, one in facts.items() if one.remark] == ["openai/whisper-tiny", "openai/whisper-base"]


@pytest.mark.parametrize("name", REGISTRY.names("integrations"))
def test_integrations_compose_at_full_size(workshop: Workshop, name: str) -> None:
    entry = REGISTRY.integration(name)
    computed = entry_size(entry, name, workshop)
    found = computed.size
    assert computed.basis == PUBLISHED and isinstance(found, IntegrationSize)
    assert entry.encoder is not None and entry.decoder is not None
    assert found.parts["encoder"] == size(workshop, "encoders", entry.encoder)
    assert found.parts["decoder"] == size(workshop, "decoders", entry.decoder)
    assert found.parts["bridge"].hidden_size == found.parts["decoder"].hidden_size
    assert found.longest_audio_seconds is not None and found.longest_audio_seconds > 60
    limit = found.parts["decoder"].max_positions
    assert limit is not None
    needed = found.longest_audio_seconds * found.positions_per_second
    needed += entry.max_new_tokens.tokens(found.longest_audio_seconds)
    assert limit - 8 <= needed <= limit + 8  # the rate is nominal; the search is by exact lengths


def test_nue_asr_reads_two_minutes(workshop: Workshop) -> None:
    """12.5 positions and 4 tokens a second and 20 tokens more, of 2,048: (2048 - 20.5) / 16.5 = 122.9 s."""
    found = entry_size(REGISTRY.integration("nue-asr"), "nue-asr", workshop).size
    assert isinstance(found, IntegrationSize)
    assert found.positions_per_second == 12.5
    assert found.longest_audio_seconds == pytest.approx(122.9, abs=0.3)
    assert found.parts["bridge"].parameters == 768 * 768 * 4 + 768 + 768 * 768 * 4 + 768 + 768 * 2816 + 2816


def test_what_is_not_known_is_said(workshop: Workshop) -> None:
    stranger = EncoderEntry(component="hf.hubert", source="someone/else")
    with pytest.raises(CheckpointError, match="hf.hubert does not know the configuration that someone/else was"):
        entry_size(stranger, "x", workshop)
    entry = replace_encoder(REGISTRY.integration("nue-asr"), None)
    with pytest.raises(CheckpointError, match="named in its checkpoint alone"):
        entry_size(entry, "x", workshop)


def replace_encoder(entry: IntegrationEntry, encoder: str | None) -> IntegrationEntry:
    return entry.model_copy(update={"encoder": encoder})


def test_no_hub_is_asked(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    def refuse(*arguments: Any, **options: Any) -> Any:
        raise AssertionError("a connection was asked for")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    entry_size(REGISTRY.encoder("hubert-base-ls960"), "hubert-base-ls960", replace(workshop))
