"""A tiny bridge of every kind, and frames for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from nuebridge.contracts import Bridge, Frames
from nuebridge.hookspecs import BridgeComponent
from nuebridge.plugins import PluginManager

INPUT, OUTPUT, SYMBOLS = 12, 10, 5
LAYERS = {"hidden_size": 8, "heads": 2, "intermediate_size": 16}

BRIDGES: dict[str, tuple[str, dict[str, Any]]] = {
    "conv": ("conv", {"kernel_sizes": [4, 3], "strides": [2, 1]}),
    "stacking": ("stacking", {"frames": 3, "hidden_size": 16}),
    "stacking-linear": ("stacking", {"frames": 5, "hidden_size": None}),
    "mean-pooling": ("mean-pooling", {"frames": 3}),
    "ctc-drop-blanks": ("ctc", {"runs": "keep", "drop_blanks": True}),
    "ctc-average": ("ctc", {"runs": "average"}),
    "ctc-average-drop-blanks": ("ctc", {"runs": "average", "drop_blanks": True}),
    "ctc-weighted": ("ctc", {"runs": "weighted"}),
    "ctc-weighted-drop-blanks": ("ctc", {"runs": "weighted", "drop_blanks": True}),
    "cif": ("cif", {}),
    "cif-wide": ("cif", {"kernel_size": 5}),
    "conv-transformer": ("conv-transformer", {"kernel_sizes": [3, 3], "strides": [2, 2], "layers": 2, **LAYERS}),
    "q-former": ("q-former", {"window": 5, "queries": 1, **LAYERS}),
    "q-former-several": ("q-former", {"window": 6, "queries": 3, "normalize_input": False, "layers": 1, **LAYERS}),
}
"""By a name of their own: the component and its options."""

Build = Callable[..., Bridge]


@pytest.fixture(params=BRIDGES)
def name(request: pytest.FixtureRequest) -> str:
    """Each of the bridges."""
    return str(request.param)


@pytest.fixture(scope="session")
def bridges() -> dict[str, tuple[str, dict[str, Any]]]:
    """All of them."""
    return BRIDGES


@pytest.fixture(scope="session")
def manager() -> PluginManager:
    return PluginManager.discover({})


@pytest.fixture
def build(manager: PluginManager) -> Build:
    """A bridge of ``BRIDGES``, or a component with options, between two widths; the same weights every time."""

    def build(name: str, input_size: int = INPUT, output_size: int = OUTPUT, **options: Any) -> Bridge:
        component, given = BRIDGES.get(name, (name, {}))
        ref = manager.find(BridgeComponent, f"bridges.{component}")
        torch.manual_seed(0)
        bridge = ref.load().build(input_size, output_size, ref.parse_options({**given, **options}))
        with torch.no_grad():
            for parameter in bridge.parameters():  # biases of zero and gains of one hide mistakes
                parameter.add_(0.1 * torch.randn_like(parameter))
        return bridge.eval()

    return build


@pytest.fixture
def frames_of() -> Callable[..., Frames]:
    """Random frames of so many clips, with CTC logits whose best symbol often is the same for a while."""

    def frames_of(*lengths: int, width: int = INPUT, seed: int = 1) -> Frames:
        generator = torch.Generator().manual_seed(seed)
        batch, longest = len(lengths), max(lengths)
        features = torch.randn(batch, longest, width, generator=generator)
        logits = torch.randn(batch, longest, SYMBOLS, generator=generator)
        slow = torch.randn(batch, longest // 4 + 1, SYMBOLS, generator=generator).repeat_interleave(4, 1)
        counts = torch.tensor(lengths)
        return Frames(features, counts, ctc_logits=logits + 2 * slow[:, :longest]).zero_padding()

    return frames_of


@pytest.fixture(scope="session")
def toys() -> Path:
    """Where the toy plugin of the host's own tests is."""
    return Path(__file__).parents[3] / "tests"
