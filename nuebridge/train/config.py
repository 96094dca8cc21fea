"""The training configuration: one YAML file, every key with its unit and default. No torch here."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from nuebridge.data.augmentation import AugmentationSettings
from nuebridge.data.sources import SourceConfig
from nuebridge.data.text import TextNormalizer
from nuebridge.settings import LoraSettings, NameOrPath, Settings, UserPath
from nuebridge.train.masking import SpecAugmentSettings

Fraction = Annotated[float, Field(ge=0, lt=1)]


class DataConfig(Settings):
    """What is trained and validated on."""

    train: tuple[SourceConfig, ...] = Field(min_length=1)
    """Sources to train on: paths, or mappings with a path, a weight and the like."""
    validation: SourceConfig | None = None
    """Source to validate on."""
    min_audio_seconds: float = Field(default=0.1, ge=0)
    """Shorter utterances are left out, counted and reported."""
    max_audio_seconds: float = Field(default=20.0, gt=0)
    """Longer utterances are left out, counted and reported."""
    min_text_characters: int = Field(default=0, ge=0)
    """Utterances with less text are left out, counted and reported; at 0, silence may be taught."""
    max_text_characters: int | None = Field(default=None, ge=1)
    """Utterances with more text are left out, counted and reported."""
    max_characters_per_second: float | None = Field(default=None, gt=0)
    """Utterances whose text cannot be what was said in their time are left out, counted and reported."""
    text_normalizer: TextNormalizer = "none"
    """What is done to texts before they are filtered and learned; saved in the checkpoint."""
    batch_seconds: float = Field(default=40.0, gt=0)
    """Audio seconds of a batch over all ranks, padding included; a longer utterance is a batch of its own."""
    batch_tokens: int | None = Field(default=None, ge=1)
    """Decoder positions of a batch over all ranks (prompt, audio and text), padding included; null: no limit."""
    device_batch_seconds: float | None = Field(default=None, gt=0)
    """Audio seconds that a device computes at once; a larger share is cut up and its gradients are added. null: all."""
    augmentation: AugmentationSettings = AugmentationSettings()
    """What is done to waveforms, drawn anew for every utterance in every epoch."""
    workers: int = Field(default=1, ge=1)
    """Threads that read audio ahead of the training step."""
    max_unreadable: int = Field(default=10, ge=0)
    """Utterances whose audio cannot be read are named and skipped up to so many in a run; one more ends it."""

    @field_validator("train", mode="before")
    @classmethod
    def _one_source(cls, value: Any) -> Any:
        """One source stands for a list of one."""
        return (value,) if isinstance(value, str | Path | dict) else value


class PartConfig(Settings):
    """How one part is trained."""

    train: bool | tuple[str, ...] = True
    """True: all of it; false: frozen; a list: the parameter groups whose names match a pattern (``layers.*``)."""
    lora: LoraSettings | None = None
    """Low-rank adapters beside weights that stay as they are (encoder and decoder)."""
    learning_rate: float = Field(default=1e-4, gt=0)
    """Peak learning rate."""
    from_step: int = Field(default=0, ge=0)
    """The step at which the part begins to be trained; until then it is frozen."""
    warmup_steps: int | None = Field(default=None, ge=0)
    """Steps in which its learning rate rises, from ``from_step`` on; null: those of the schedule."""

    @property
    def is_trained(self) -> bool:
        """True where anything of the part is trained."""
        return bool(self.train) or self.lora is not None


class PartsConfig(Settings):
    """Per part: what is trained and how fast."""

    encoder: PartConfig = PartConfig(train=False)
    """Speech to frames; frozen unless the file says otherwise."""
    ctc_head: PartConfig = PartConfig()
    """Frames to symbols, where the integration has one."""
    bridge: PartConfig = PartConfig()
    """Frames to positions that the decoder reads."""
    decoder: PartConfig = PartConfig(train=False)
    """The language model; frozen unless the file says otherwise."""

    @field_validator("encoder", "decoder", mode="before")
    @classmethod
    def _lora_alone(cls, value: Any) -> Any:
        """With LoRA the rest of the part is frozen unless the file says which groups are trained too."""
        if isinstance(value, dict) and value.get("lora") is not None and "train" not in value:
            return {**value, "train": False}
        return value

    @model_validator(mode="after")
    def _lora_where_it_serves(self) -> Self:
        for name in ("ctc_head", "bridge"):
            if getattr(self, name).lora is not None:
                raise ValueError(f"{name}.lora: this part is small and trained whole; use LoRA on encoder or decoder")
        for name in ("encoder", "decoder"):
            if getattr(self, name).lora is not None and getattr(self, name).train is True:
                raise ValueError(f"{name}: all of it is trained already; set {name}.train to false or drop {name}.lora")
        return self


class LossConfig(Settings):
    """What is minimised: weights of losses, each a mean over its own tokens (nats)."""

    text: float = Field(default=1.0, ge=0)
    """Weight of the next-token loss; 0 leaves bridge and decoder unused."""
    ctc: float = Field(default=0.0, ge=0)
    """Weight of the CTC loss; needs a CTC head. At 0 the head is left as it is."""
    ctc_final: float | None = Field(default=None, ge=0)
    """The CTC weight at the last step, reached linearly; null: it stays."""
    auxiliary: dict[str, Annotated[float, Field(ge=0)]] = Field(default_factory=dict)
    """Weights of what parts add to the loss, by its name, such as a bridge's ``quantity``; 1 where not given."""
    kl: float = Field(default=0.0, ge=0)
    """Weight of the divergence KL(start || model) of the next token: holds the model near what it started from."""
    label_smoothing: Fraction = 0.0
    """Share of each target that is spread evenly over the vocabulary (next-token loss)."""
    token_replacement: Fraction = 0.0
    """Share of the tokens the decoder reads (not of those it learns) that are replaced by random ones."""

    @model_validator(mode="after")
    def _some(self) -> Self:
        if self.text == 0 and self.ctc == 0:
            raise ValueError("both loss weights are 0: nothing would be learned")
        if self.ctc_final and self.ctc == 0:
            raise ValueError("ctc_final is given, but ctc is 0")
        return self

    def ctc_weight(self, progress: float) -> float:
        """The CTC weight at a share of the schedule (0 to 1)."""
        return self.ctc if self.ctc_final is None else self.ctc + (self.ctc_final - self.ctc) * progress


class OptimizerConfig(Settings):
    """AdamW (Loshchilov and Hutter, arXiv 1711.05101)."""

    betas: tuple[Fraction, Fraction] = (0.9, 0.98)
    """How much of the running means of gradient and squared gradient every step keeps."""
    weight_decay: float = Field(default=0.01, ge=0)
    """Share by which weights shrink at a learning rate of 1; not applied to biases and norms."""
    epsilon: float = Field(default=1e-8, gt=0)
    """Keeps the division by the root of the squared gradient finite."""
    max_gradient_norm: float = Field(default=1.0, gt=0)
    """Gradients whose norm is larger are scaled down to it."""


class ScheduleConfig(Settings):
    """Learning rates rise linearly, then fall."""

    steps: int = Field(ge=1)
    """Optimiser steps of the whole run, or of the stage."""
    warmup_steps: int = Field(default=0, ge=0)
    """Steps in which the learning rates rise to their peak."""
    shape: Literal["cosine", "linear", "constant"] = "cosine"
    """How they fall after that."""
    final_factor: float = Field(default=0.05, ge=0, le=1)
    """What is left of the peak rate at the last step."""

    def factor(self, step: int, part: PartConfig | None = None) -> float:
        """Share of the peak rate at a step, counted from 0; 0 before the step that a part begins at."""
        begin = 0 if part is None else part.from_step
        warmup = self.warmup_steps if part is None or part.warmup_steps is None else part.warmup_steps
        if step < begin:
            return 0.0
        if step - begin < warmup:
            return (step - begin + 1) / warmup
        progress = min(1.0, (step - begin - warmup) / max(1, self.steps - begin - warmup))
        if self.shape == "constant":
            return 1.0
        left = (1 + math.cos(math.pi * progress)) / 2 if self.shape == "cosine" else 1 - progress
        return self.final_factor + (1 - self.final_factor) * left


class ValidationConfig(Settings):
    """How the run is watched."""

    every_steps: int = Field(default=1000, ge=1)
    """Steps from one validation to the next; there is one at the end of every stage, too."""
    max_utterances: int | None = Field(default=200, ge=1)
    """The first so many of the source; null: all."""
    batch_size: int = Field(default=8, ge=1)
    """Utterances that are transcribed at once."""
    samples: int = Field(default=3, ge=0)
    """Hypotheses printed beside their references."""
    audio_gain: bool = True
    """Also measures how much the right audio lowers the loss against another clip's (nats a token)."""


class CheckpointConfig(Settings):
    """What is kept of a run."""

    every_steps: int = Field(default=500, ge=1)
    """Steps from one training checkpoint to the next."""
    keep: int = Field(default=2, ge=1)
    """The last so many training checkpoints."""
    best: Literal["wer", "cer", "ctc_cer"] | None = "wer"
    """The validation score whose best integration is kept in ``best``; null: none is kept."""
    weights: Literal["all", "trained"] = "all"
    """trained: leaves out parts that training did not touch and that can be had from their source again."""


class ParallelConfig(Settings):
    """How several processes, started by torchrun, share the work."""

    strategy: Literal["replicate", "shard"] = "replicate"
    """replicate: every rank holds the whole model (DDP); shard: weights and optimiser are divided (FSDP2)."""
    cpu_offload: bool = False
    """shard: weights and optimiser wait in the machine's memory."""

    @model_validator(mode="after")
    def _offload(self) -> Self:
        if self.cpu_offload and self.strategy != "shard":
            raise ValueError("cpu_offload needs strategy: shard")
        return self


class CacheConfig(Settings):
    """Keeping the frames of a frozen encoder on disk, computed once."""

    max_gigabytes: float = Field(default=50.0, gt=0)
    """A run whose cache would be larger does not start, and says how large it would be."""
    folder: UserPath | None = None
    """Where; runs with the same encoder may share it. null: ``cache`` in the run's folder."""


class StageConfig(Settings):
    """One of several trainings in a row; what it does not say, the run says."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    """For log lines: small letters, digits and hyphens."""
    schedule: ScheduleConfig
    """Its steps and learning rates."""
    parts: PartsConfig | None = None
    """What is trained in it."""
    losses: LossConfig | None = None
    """What is minimised in it."""
    max_audio_seconds: float | None = Field(default=None, gt=0)
    """As in ``data``."""
    batch_seconds: float | None = Field(default=None, gt=0)
    """As in ``data``."""


class TrainConfig(Settings):
    """A training run."""

    model: NameOrPath = Field(min_length=1)
    """The integration to start from: a registry name, a folder or a hub id."""
    output: UserPath
    """Folder of the run: checkpoints, metrics, and the trained integration in ``final``."""
    data: DataConfig
    schedule: ScheduleConfig | None = None
    """Needed unless there are stages."""
    parts: PartsConfig = PartsConfig()
    losses: LossConfig = LossConfig()
    stages: tuple[StageConfig, ...] = ()
    """Trainings in a row, such as bridge, then LoRA, then all; each with an optimiser and a schedule of its own."""
    spec_augment: SpecAugmentSettings = SpecAugmentSettings()
    """Masks on encoder frames."""
    optimizer: OptimizerConfig = OptimizerConfig()
    validation: ValidationConfig = ValidationConfig()
    checkpoints: CheckpointConfig = CheckpointConfig()
    parallel: ParallelConfig = ParallelConfig()
    cache_frozen: bool = False
    """Keeps the frames of a frozen encoder on disk: computed once, the same losses."""
    cache: CacheConfig = CacheConfig()
    gradient_checkpointing: bool = False
    """Layers are computed again in the backward pass: less memory, about a third more time."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16 computes under autocast; weights and optimiser stay float32."""
    device: str = "cpu"
    """What computes: cpu, cuda, cuda:1 and so on; started by torchrun, every process takes one of its own."""
    seed: int = Field(default=0, ge=0, le=2**32 - 1)
    """Decides the order of the data and everything that is drawn at random."""
    log_every_steps: int = Field(default=50, ge=1)
    """Steps from one line of figures to the next."""
    loggers: tuple[Literal["tensorboard", "wandb"], ...] = ()
    """Where figures go beside ``metrics.jsonl``; each is a package to be installed."""
    stop_after_minutes: float | None = Field(default=None, gt=0)
    """Saves and leaves with exit status 75 after so long; the same command with --resume auto goes on."""

    @model_validator(mode="after")
    def _schedule_or_stages(self) -> Self:
        if (self.schedule is None) == (not self.stages):
            raise ValueError("give either a schedule or stages, each with a schedule of its own")
        names = [stage.name for stage in self.stages]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two stages are named {name!r}")
        if self.cache_frozen:
            if self.data.augmentation.is_on:
                raise ValueError(
                    "cache_frozen keeps frames of audio that does not change, but data.augmentation changes it; "
                    "leave one of them out (spec_augment goes with both)"
                )
            if all(stage.config.parts.encoder.is_trained for stage in self.unrolled()):
                raise ValueError("cache_frozen needs a frozen encoder, but parts.encoder is trained")
        for stage in self.unrolled():
            for name, part in stage.config.parts:
                if part.is_trained and part.from_step >= stage.schedule.steps:
                    where = f"stage {stage.name!r}: " if self.stages else ""
                    raise ValueError(
                        f"{where}parts.{name}.from_step is {part.from_step}, but there are {stage.schedule.steps} steps"
                    )
        return self

    def unrolled(self) -> Iterator[Stage]:
        """The trainings in a row that the run is made of: one where there are no stages."""
        if self.schedule is not None:
            yield Stage("train", self, self.schedule)
            return
        for stage in self.stages:
            limits = {name: getattr(stage, name) for name in ("max_audio_seconds", "batch_seconds")}
            changes: dict[str, Any] = {
                "data": self.data.model_copy(update={name: v for name, v in limits.items() if v is not None}),
                "parts": stage.parts or self.parts,
                "losses": stage.losses or self.losses,
            }
            yield Stage(stage.name, self.model_copy(update=changes), stage.schedule)

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole run, all stages together."""
        return sum(stage.schedule.steps for stage in self.unrolled())


@dataclass(frozen=True)
class Stage:
    """One training of a run: the configuration as it holds in it."""

    name: str
    config: TrainConfig
    schedule: ScheduleConfig
