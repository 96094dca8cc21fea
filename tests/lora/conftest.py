from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from toy.parts import ToyBridge, ToyDecoder, ToyEncoder

from nuebridge.lora import add_lora, lora_parameters, retrain, set_adapters
from nuebridge.model import Integration
from nuebridge.settings import LoraSettings

SMALL = LoraSettings(r=2, lora_alpha=4, lora_dropout=0.0)


@pytest.fixture
def train() -> Callable[..., None]:
    """``train(integration, name, seed)``: moves all that the adapter changes, as training would."""

    def train(integration: Integration, name: str, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        adapter = integration.adapters[name]
        moved = [p for part in integration.parts.values() for p in lora_parameters(part, name)]
        moved += [p for part in adapter.states for p in integration.parts[part].parameters()]
        with torch.no_grad():
            for parameter in moved:
                parameter += 0.3 * torch.randn(parameter.shape, generator=generator).to(parameter.dtype)

    return train


@pytest.fixture
def adapt(train: Callable[..., None]) -> Callable[..., None]:
    """``adapt(integration, name, seed)``: a trained adapter, LoRA in encoder and decoder and a bridge of its own."""

    def adapt(integration: Integration, name: str, seed: int = 0) -> None:
        set_adapters(integration, {})
        for part in ("encoder", "decoder"):
            add_lora(integration, part, SMALL, name=name, seed=seed)
        retrain(integration, "bridge", name=name)
        train(integration, name, seed)

    return adapt


@pytest.fixture
def outputs() -> Callable[[Integration], torch.Tensor]:
    """The logits an integration gives for two clips and a text."""

    def outputs(integration: Integration) -> torch.Tensor:
        waveforms = torch.randn(2, 900, generator=torch.Generator().manual_seed(3))
        with torch.no_grad():
            audio = integration.embed_audio(waveforms, torch.tensor([900, 600])).features
            text = integration.decoder.embed(torch.tensor([[65, 66, 67], [70, 71, 72]])).to(audio.dtype)
            embeds = torch.cat([audio, text], 1)
            return integration.decoder(embeds, torch.ones(embeds.shape[:2], dtype=torch.int64)).float()

    return outputs


@pytest.fixture
def bare() -> Integration:
    """Toy parts of no known origin."""
    torch.manual_seed(0)
    return Integration(ToyEncoder(12), ToyBridge(12, 16), ToyDecoder(16)).eval()
