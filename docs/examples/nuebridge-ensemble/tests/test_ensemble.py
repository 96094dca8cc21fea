from __future__ import annotations

from pathlib import Path

import pytest
import torch
from nuebridge.compose import Workshop, read_encoder
from nuebridge.errors import CheckpointError, PluginError, SizeMismatchError
from nuebridge.model import PartInfo
from nuebridge.plugins import PluginManager
from nuebridge.registry import Layer, Registry

from nuebridge_ensemble.ensemble import EnsembleEncoder
from nuebridge_ensemble.examples import LOG_MELS
from nuebridge_ensemble.log_mel import LogMelEncoder
from nuebridge_ensemble.options import EnsembleOptions
from nuebridge_ensemble.resampling import resample

INFO = PartInfo("ensemble.log-mel", "nuebridge-ensemble", "1.0")


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """A folder with two encoders and a registry that joins them."""
    for name, write in LOG_MELS.items():
        (tmp_path / name).mkdir()
        write(tmp_path / name)
    (tmp_path / "registry.yaml").write_text(
        "encoders:\n"
        "  quick: {component: ensemble.log-mel, source: ./log-mel-10ms}\n"
        "  both:\n    component: ensemble.encoders\n    source: ./\n"
        "    options: {encoders: [quick, 'ensemble.log-mel:./log-mel-20ms'], rate: fastest}\n"
    )
    return tmp_path


def workshop(sources: Path) -> Workshop:
    return Workshop(PluginManager.discover(), Registry([Layer("option", sources / "registry.yaml")]))


def test_the_registry_joins_encoders_by_name(sources: Path) -> None:
    encoder, info = read_encoder(workshop(sources), "both")
    assert isinstance(encoder, EnsembleEncoder)
    assert (encoder.hidden_size, encoder.frame_rate) == (32, 100.0)
    assert (info.component, info.source) == ("ensemble.encoders", str(sources))
    first, second = encoder.parts
    waveforms, lengths = torch.randn(2, 8000), torch.tensor([8000, 3333])
    frames = encoder(waveforms, lengths)
    assert torch.equal(frames.features[..., :16], first(waveforms, lengths).features)
    slower = second(waveforms, lengths)
    expected = resample(slower.features, slower.lengths, frames.lengths)
    assert torch.equal(frames.features[..., 16:], expected)


def test_a_saved_one_holds_its_encoders_and_knows_where_they_came_from(sources: Path, tmp_path: Path) -> None:
    there = workshop(sources)
    encoder, _ = read_encoder(there, "both")
    saved = tmp_path / "saved"
    saved.mkdir()
    encoder.save(saved)
    for name in LOG_MELS:
        (sources / name / "model.safetensors").unlink()
    again, _ = read_encoder(there, str(saved))
    assert isinstance(again, EnsembleEncoder)
    assert [info.source for info in again.infos] == [str(sources / name) for name in LOG_MELS]
    assert again.rate == "fastest"
    waveforms, lengths = torch.randn(1, 5000), torch.tensor([5000])
    assert torch.equal(again(waveforms, lengths).features, encoder(waveforms, lengths).features)


def test_the_plugins_it_reads_from_are_those_it_is_given(sources: Path, tmp_path: Path) -> None:
    """Not those of the environment, where its own encoders are installed."""
    nothing = Workshop(PluginManager([]), workshop(sources).registry)
    with pytest.raises(PluginError, match="no plugin 'ensemble' is installed"):
        EnsembleEncoder.load_in(nothing, str(sources), EnsembleOptions(encoders=("quick", "quick")))


def test_every_encoder_decides_how_short_a_clip_may_be() -> None:
    long = LogMelEncoder(4, 160)
    long.output_lengths = lambda lengths: ((lengths - 2000) // 160 + 1).clamp(min=0)  # type: ignore[method-assign]
    ensemble = EnsembleEncoder([LogMelEncoder(4, 320), long], [INFO, INFO], "concatenate", "slowest")
    assert ensemble.output_lengths(torch.tensor([399, 1999, 2000])).tolist() == [0, 0, 6]


def test_what_does_not_go_together_is_refused(sources: Path) -> None:
    narrow, wide = LogMelEncoder(4, 160), LogMelEncoder(5, 160)
    with pytest.raises(SizeMismatchError, match=r"have 4 and those of ensemble\.log-mel 5; set combine to concatenate"):
        EnsembleEncoder([narrow, wide], [INFO, INFO], "sum", "slowest")
    wide.sample_rate = 8000
    with pytest.raises(SizeMismatchError, match=r"16000 Hz and ensemble\.log-mel 8000 Hz"):
        EnsembleEncoder([narrow, wide], [INFO, INFO], "concatenate", "slowest")
    for names in ((), ("quick",)):
        with pytest.raises(CheckpointError, match=f"names {len(names)}; name two encoders or more"):
            EnsembleEncoder.load_in(workshop(sources), str(sources), EnsembleOptions(encoders=names))


def test_damage_is_told(sources: Path, tmp_path: Path) -> None:
    there = workshop(sources)
    saved = tmp_path / "saved"
    saved.mkdir()
    read_encoder(there, "both")[0].save(saved)
    (saved / "1").rename(saved / "2")
    with pytest.raises(CheckpointError, match="1 is missing"):
        EnsembleEncoder.load_in(there, str(saved), EnsembleOptions())
    (saved / "config.json").write_text('{"model_type": "ensemble", "combine": "multiply"}')
    with pytest.raises(CheckpointError, match="multiply"):
        EnsembleEncoder.load_in(there, str(saved), EnsembleOptions())
