"""A small speech encoder: log-mel frames, a linear layer and a residual one.

Shapes: B batch, S samples, F frames, E width.
"""

from __future__ import annotations

from pathlib import Path
from typing import Self

import torch
import torch.nn.functional as F
from nuebridge.checkpoint import fetch
from nuebridge.config import validate
from nuebridge.contracts import Frames, ParameterGroup, SpeechEncoder, check_not_empty
from nuebridge.settings import NoOptions, Settings
from nuebridge.tensors import load_weights, read_json, save_weights, write_json
from pydantic import BaseModel, Field
from torch import Tensor, nn

SAMPLE_RATE = 16_000  # Hz
WINDOW = 400  # samples: 25 ms
MELS = 40  # bands between 0 Hz and half the sample rate
MODEL_TYPE = "ensemble-log-mel"


class LogMelConfig(Settings):
    """What its config.json holds."""

    model_type: str = MODEL_TYPE
    hidden_size: int = Field(ge=1)
    hop: int = Field(ge=1)
    """Samples from one frame to the next."""


class LogMelEncoder(SpeechEncoder):
    """A frame reads only samples of its own clip, so a clip yields the same alone and in a batch."""

    sample_rate = SAMPLE_RATE

    def __init__(self, hidden_size: int, hop: int) -> None:
        super().__init__()
        self.options = NoOptions()
        self.hidden_size, self.hop = hidden_size, hop
        self.frame_rate = SAMPLE_RATE / hop
        self.front_end = nn.Linear(MELS, hidden_size)
        self.layer = nn.Linear(hidden_size, hidden_size)
        # No buffers: where the weights are bfloat16, these stay float32.
        self._window = torch.hann_window(WINDOW)
        self._mels = mel_filters()

    @classmethod
    def load(cls, source: str, options: BaseModel, *, revision: str | None = None) -> Self:
        """Reads a folder that ``save`` wrote, or a hub repository of one. Raises CheckpointError."""
        folder = Path(source) if Path(source).is_dir() else fetch(source, revision)
        config = validate(read_json(folder / "config.json"), LogMelConfig, str(folder / "config.json"))
        encoder = cls(config.hidden_size, config.hop)
        load_weights(encoder, folder)
        return encoder

    def save(self, folder: Path) -> None:
        """Writes configuration and weights."""
        config = LogMelConfig(hidden_size=self.hidden_size, hop=self.hop)
        write_json(folder / "config.json", config.model_dump(mode="json"))
        save_weights(self, folder)

    def output_lengths(self, lengths: Tensor) -> Tensor:
        """Samples ``[B]`` to frames ``[B]``, exact: only whole windows count."""
        return ((lengths - WINDOW).div(self.hop, rounding_mode="floor") + 1).clamp(min=0)

    def forward(self, waveforms: Tensor, lengths: Tensor) -> Frames:
        """``[B, S]`` float32 to frames ``[B, F, E]``. Raises AudioTooShortError."""
        frames = self.output_lengths(lengths)
        check_not_empty(lengths, frames, WINDOW, "samples", "the log-mel encoder")
        mels = self.log_mel(waveforms)[:, : int(frames.max())]
        hidden = self.front_end(mels.to(self.dtype))
        hidden = hidden + self.layer(F.gelu(hidden))
        return Frames(hidden, frames).zero_padding()

    def log_mel(self, waveforms: Tensor) -> Tensor:
        """``[B, S]`` to the logarithm of the energy in each mel band, ``[B, F, MELS]`` float32."""
        window, mels = self._window.to(waveforms.device), self._mels.to(waveforms.device)
        windows = waveforms.float().unfold(-1, WINDOW, self.hop) * window  # [B, F, WINDOW]
        power = torch.fft.rfft(windows).abs().square()  # [B, F, WINDOW // 2 + 1]
        scaled: Tensor = (power @ mels + 1e-6).log() / 5 + 1
        return scaled

    def parameter_groups(self) -> list[ParameterGroup]:
        """By name, front end first, for freezing and learning rates."""
        return [
            ParameterGroup("front_end", tuple(self.front_end.parameters())),
            ParameterGroup("layers.0", tuple(self.layer.parameters())),
        ]


def mel_filters() -> Tensor:
    """Triangular filters, evenly spaced in mel (2595 log10(1 + f / 700)): ``[WINDOW // 2 + 1, MELS]``."""
    top = 2595 * torch.log10(torch.tensor(1 + SAMPLE_RATE / 2 / 700))
    edges = 700 * (10 ** (torch.linspace(0, 1, MELS + 2) * top / 2595) - 1)  # Hz
    bins = torch.arange(WINDOW // 2 + 1)[:, None] * SAMPLE_RATE / WINDOW  # Hz
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    return torch.minimum(rising, falling).clamp(min=0)
