"""Several speech encoders as one: their frames at a common rate, side by side or added up.

On disk an ensemble is a folder with a config.json and one folder for each of its encoders, which hold what those
encoders themselves save:

    config.json    model_type, combine, rate, and for each encoder its component, options and origin
    0/  1/  ...
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, Self

import torch
from nuebridge.checkpoint import fetch
from nuebridge.compose import Workshop, read_encoder, read_sourced
from nuebridge.config import validate
from nuebridge.contracts import Frames, ParameterGroup, SpeechEncoder, check_not_empty, describe_part
from nuebridge.errors import CheckpointError, ConfigError, SizeMismatchError
from nuebridge.hookspecs import SpeechEncoderComponent
from nuebridge.model import PartInfo
from nuebridge.settings import Settings
from nuebridge.tensors import read_json, write_json
from pydantic import BaseModel
from torch import Tensor, nn

from nuebridge_ensemble.options import EnsembleOptions
from nuebridge_ensemble.resampling import resample

MODEL_TYPE = "ensemble"
Combine = Literal["concatenate", "sum"]
Rate = Literal["slowest", "fastest"]


class SavedEncoder(Settings):
    """What config.json says of one encoder."""

    info: PartInfo
    options: dict[str, Any]


class SavedEnsemble(Settings):
    """What config.json holds."""

    model_type: Literal["ensemble"]
    combine: Combine
    rate: Rate
    encoders: tuple[SavedEncoder, ...]


class EnsembleEncoder(SpeechEncoder):
    """Each clip is given to every encoder, and each frame of the result is what all of them made of its time."""

    def __init__(
        self, encoders: Sequence[SpeechEncoder], infos: Sequence[PartInfo], combine: Combine, rate: Rate
    ) -> None:
        """Raises SizeMismatchError where the encoders do not go together."""
        super().__init__()
        _check_fit(encoders, infos, combine)
        self.encoders = nn.ModuleList(encoders)
        self.infos = tuple(infos)
        self.combine, self.rate = combine, rate
        self.sample_rate = encoders[0].sample_rate
        widths = [encoder.hidden_size for encoder in encoders]
        self.hidden_size = sum(widths) if combine == "concatenate" else widths[0]
        choose = min if rate == "slowest" else max
        self.leader = encoders.index(choose(encoders, key=lambda encoder: encoder.frame_rate))
        self.frame_rate = encoders[self.leader].frame_rate
        limits = [encoder.max_audio_seconds for encoder in encoders if encoder.max_audio_seconds is not None]
        self.max_audio_seconds = min(limits, default=None)
        self.options = EnsembleOptions(combine=combine, rate=rate)

    @property
    def parts(self) -> list[SpeechEncoder]:
        """The encoders, with their type."""
        return [encoder for encoder in self.encoders if isinstance(encoder, SpeechEncoder)]

    @classmethod
    def load(cls, source: str, options: BaseModel, *, revision: str | None = None) -> Self:
        """As ``load_in``, with the plugins and the registry of the environment."""
        return cls.load_in(Workshop.open(), source, options, revision=revision)

    @classmethod
    def load_in(cls, workshop: Workshop, source: str, options: BaseModel, *, revision: str | None = None) -> Self:
        """A saved ensemble, or a new one of the encoders that the options name.

        Raises CheckpointError where the source is neither, and what reading the encoders raises.
        """
        assert isinstance(options, EnsembleOptions)
        folder = Path(source) if Path(source).is_dir() else fetch(source, revision)
        saved = _read_config(folder)
        if saved is not None:
            read = [_read_again(workshop, folder / str(i), one) for i, one in enumerate(saved.encoders)]
            combine, rate = options.combine or saved.combine, options.rate or saved.rate
        else:
            if len(options.encoders) < 2:
                raise CheckpointError(
                    f"{folder} is not a saved ensemble, and the option `encoders` names {len(options.encoders)}; name "
                    "two encoders or more"
                )
            read = [read_encoder(workshop, _from(folder, name)) for name in options.encoders]
            combine, rate = options.combine or "concatenate", options.rate or "slowest"
        ensemble = cls([encoder for encoder, _ in read], [info for _, info in read], combine, rate)
        ensemble.options = options
        return ensemble

    def save(self, folder: Path) -> None:
        """Every encoder into a folder of its own, as it saves itself."""
        described = []
        for number, (encoder, info) in enumerate(zip(self.parts, self.infos, strict=True)):
            (folder / str(number)).mkdir()
            encoder.save(folder / str(number))
            described.append({"info": asdict(info), "options": describe_part(encoder)})
        config = {"model_type": MODEL_TYPE, "combine": self.combine, "rate": self.rate, "encoders": described}
        write_json(folder / "config.json", config)

    def output_lengths(self, lengths: Tensor) -> Tensor:
        """Samples ``[B]`` to frames ``[B]``, exact: those of the leading encoder, where all have any."""
        each = torch.stack([encoder.output_lengths(lengths) for encoder in self.parts])
        return torch.where((each > 0).all(0), each[self.leader], 0)

    def forward(self, waveforms: Tensor, lengths: Tensor) -> Frames:
        """``[B, S]`` float32 to frames ``[B, F, E]``. Raises AudioTooShortError."""
        wanted = self.output_lengths(lengths)
        check_not_empty(lengths, wanted, self._shortest(), "samples", "this ensemble")
        losses: dict[str, Tensor] = {}
        streams = []
        for encoder in self.parts:
            frames: Frames = encoder(waveforms, lengths)
            streams.append(resample(frames.features, frames.lengths, wanted))
            for name, loss in frames.losses.items():
                losses[name] = losses[name] + loss if name in losses else loss
        features = torch.cat(streams, dim=-1) if self.combine == "concatenate" else torch.stack(streams).sum(0)
        return Frames(features, wanted, losses=losses).zero_padding()

    def _shortest(self) -> int:
        """Samples of the shortest clip that every encoder gives a frame for."""
        low, high = 0, 1
        while not self.output_lengths(torch.tensor([high])).item():
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self.output_lengths(torch.tensor([middle])).item() else (middle, high)
        return high

    def parameter_groups(self) -> list[ParameterGroup]:
        """Those of each encoder, behind its number: ``0.front_end``, ``1.layers.3``."""
        return [
            ParameterGroup(f"{number}.{group.name}", group.parameters)
            for number, encoder in enumerate(self.parts)
            for group in encoder.parameter_groups()
        ]


def _check_fit(encoders: Sequence[SpeechEncoder], infos: Sequence[PartInfo], combine: Combine) -> None:
    first, *others = zip(encoders, infos, strict=True)
    for encoder, info in others:
        if encoder.sample_rate != first[0].sample_rate:
            raise SizeMismatchError(
                f"encoders of an ensemble hear the same waveform, but {first[1].component} takes "
                f"{first[0].sample_rate} Hz and {info.component} {encoder.sample_rate} Hz; choose others"
            )
        if combine == "sum" and encoder.hidden_size != first[0].hidden_size:
            raise SizeMismatchError(
                f"frames that are added up have one width, but those of {first[1].component} have "
                f"{first[0].hidden_size} and those of {info.component} {encoder.hidden_size}; "
                "set combine to concatenate"
            )


def _read_config(folder: Path) -> SavedEnsemble | None:
    """What a saved ensemble says of itself; None for a folder of anything else. Raises CheckpointError."""
    file = folder / "config.json"
    if not file.is_file():
        return None
    config = read_json(file)
    if not isinstance(config, Mapping) or config.get("model_type") != MODEL_TYPE:
        return None
    try:
        return validate(config, SavedEnsemble, "config.json")
    except ConfigError as error:
        raise CheckpointError(f"{file} does not say what it should ({error}); copy it again") from error


def _read_again(workshop: Workshop, folder: Path, saved: SavedEncoder) -> tuple[SpeechEncoder, PartInfo]:
    """An encoder of a saved ensemble, by the component that wrote it."""
    if not folder.is_dir():  # a path that is not there could pass for a hub id
        raise CheckpointError(f"{folder} is missing; the checkpoint is incomplete: copy it again")
    info = saved.info
    ref = workshop.manager.find(SpeechEncoderComponent, info.component, distribution=info.distribution)
    encoder = read_sourced(workshop, ref, str(folder), ref.parse_options(saved.options))
    assert isinstance(encoder, SpeechEncoder)
    return encoder, info


def _from(folder: Path, name: str) -> str:
    """A name whose path, where it is a relative one, starts in ``folder``."""
    component, colon, source = name.rpartition(":")
    if not source.startswith(("./", "../")):
        return name
    return f"{component}{colon}{(folder / source).resolve()}"
