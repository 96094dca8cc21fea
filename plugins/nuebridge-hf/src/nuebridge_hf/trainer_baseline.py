"""transformers' ``Trainer`` on an integration: what ``nuebridge bench train`` is measured beside.

The weights, the bridge, the prompt, the losses and the optimiser are the integration's own. What differs is the
machinery around them: a fixed number of clips a batch, in random order or grouped by length, padded to the longest;
logits for every position of the prompt, as a language model of the library gives them when it computes its own loss;
and the speech encoder run as the library runs it, on the padded batch. With ``same_encoder`` it is run as nuebridge
runs it, so that what is left is the difference between the two ways of training alone.
"""

from __future__ import annotations

import importlib.metadata
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn
from torch.utils.data import Dataset, Sampler
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_pt_utils import get_length_grouped_indices

from nuebridge.bench import Meter, TrainingWork
from nuebridge.contracts import Frames, length_mask
from nuebridge.ctc import ctc_loss
from nuebridge.data import Utterance
from nuebridge.model import Integration, Targets
from nuebridge.prompt import IGNORED, build_prompt
from nuebridge.train.config import LossConfig, Stage
from nuebridge.train.positions import prompt_values
from nuebridge.train.trainable import add_adapters, set_training_mode, trainable_groups
from nuebridge_hf.wav2vec_family import Wav2VecFamilyEncoder, normalized


def train(work: TrainingWork, *, grouped: bool, same_encoder: bool) -> None:
    """Does the work; ``grouped``: in batches of clips of like length, as ``group_by_length`` makes them.

    Raises AudioError for audio that cannot be read.
    """
    with tempfile.TemporaryDirectory(prefix="nuebridge-bench-") as folder:
        trainer_of(work, folder, grouped=grouped, same_encoder=same_encoder).train()


@dataclass(frozen=True)
class Text:
    """What is read and learned beside the audio of a batch; the Trainer hands it on as it is."""

    targets: Targets
    fields: Sequence[Mapping[str, str | None]]
    samples: int
    """Of all clips, padding not counted."""


class Clips(Dataset[dict[str, Any]]):
    """Utterances as the Trainer takes them: read, and spelled in tokens, one by one."""

    def __init__(self, integration: Integration, utterances: Sequence[Utterance], losses: LossConfig) -> None:
        self.integration = integration
        self.utterances = utterances
        self.losses = losses

    def __len__(self) -> int:
        return len(self.utterances)

    def __getitem__(self, index: int) -> dict[str, Any]:
        utterance = self.utterances[index]
        return {
            "waveform": torch.from_numpy(utterance.load(self.integration.sample_rate)),
            "targets": self.integration.targets([utterance.target or ""], ctc=self.losses.ctc > 0),
            "fields": prompt_values(self.integration, utterance),
        }


def collate(clips: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Clips of :class:`Clips` as one batch, ``waveforms [B, S]`` padded to the longest."""
    waveforms = [clip["waveform"] for clip in clips]
    lengths = torch.tensor([len(waveform) for waveform in waveforms])
    tokens = tuple(ids for clip in clips for ids in clip["targets"].tokens)
    symbols = tuple(ids for clip in clips for ids in clip["targets"].symbols)
    return {
        "waveforms": nn.utils.rnn.pad_sequence(waveforms, batch_first=True),
        "lengths": lengths,
        "text": Text(Targets(tokens, symbols), [clip["fields"] for clip in clips], int(lengths.sum())),
    }


class WithLoss(nn.Module):
    """An integration as the Trainer wants it: a module that gives the loss of a batch."""

    def __init__(self, integration: Integration, losses: LossConfig, meter: Meter, *, same_encoder: bool) -> None:
        super().__init__()
        self.by_library = not same_encoder and isinstance(integration.encoder, Wav2VecFamilyEncoder)
        self.integration = integration
        self.losses = losses
        self.meter = meter

    def train(self, mode: bool = True) -> WithLoss:
        """Frozen parts stay in eval mode: nothing is to be dropped in them."""
        super().train(mode)
        if mode:
            set_training_mode(self.integration)
        return self

    def forward(self, waveforms: Tensor, lengths: Tensor, text: Text) -> dict[str, Tensor]:
        self.meter.count(text.samples, waveforms.numel())
        model, weights, targets = self.integration, self.losses, text.targets
        frames = self._frames(waveforms, lengths)
        tokens = sum(map(len, targets.tokens))
        counts = torch.tensor([len(ids) for ids in targets.tokens], device=waveforms.device)
        audio: Frames = model.bridge(frames, counts)
        prompt = build_prompt(model.decoder, audio, model.prompt, text.fields, targets.tokens)
        assert prompt.labels is not None
        logits = model.decoder(prompt.inputs_embeds, prompt.attention_mask)  # [B, P, V]
        labels = F.pad(prompt.labels, (logits.shape[1] - prompt.labels.shape[1], 0), value=IGNORED)
        total = F.cross_entropy(
            logits.flatten(0, 1).float(),
            labels.flatten(),
            ignore_index=IGNORED,
            reduction="sum",
            label_smoothing=weights.label_smoothing,
        )
        loss: Tensor = weights.text * total / tokens
        if targets.symbols:
            value, symbols = ctc_loss(frames, targets.symbols)
            loss = loss + weights.ctc * value / max(1, symbols)
        for name, value in {**frames.losses, **audio.losses}.items():
            loss = loss + weights.auxiliary.get(name, 1.0) * value / len(targets.tokens)
        return {"loss": loss}

    def _frames(self, waveforms: Tensor, lengths: Tensor) -> Frames:
        model = self.integration
        if not self.by_library:
            return model.encode_audio(waveforms, lengths)
        encoder = model.encoder
        assert isinstance(encoder, Wav2VecFamilyEncoder)
        if encoder.normalize:
            waveforms = normalized(waveforms, lengths)
        mask = length_mask(lengths, waveforms.shape[1]).long()
        hidden: Tensor = encoder.model(waveforms, attention_mask=mask).last_hidden_state
        frames = Frames(hidden, encoder.output_lengths(lengths)).zero_padding()
        return frames if model.ctc_head is None else model.ctc_head(frames)


class GroupedByLength(Sampler[int]):
    """What ``group_by_length`` stands for, as it is in a large corpus, whatever the number of clips here.

    The library sorts by length within 50 batches, and within fewer where it has less than 200.
    """

    def __init__(self, batch_size: int, lengths: list[int]) -> None:
        self.batch_size, self.lengths = batch_size, lengths

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        return iter(get_length_grouped_indices(self.lengths, self.batch_size, mega_batch_mult=50))


class BenchTrainer(Trainer):
    """The library's Trainer; given the lengths of the clips, it groups by them."""

    def __init__(self, *arguments: Any, clip_lengths: list[int] | None = None, **more: Any) -> None:
        self.clip_lengths = clip_lengths
        super().__init__(*arguments, **more)

    def _get_train_sampler(self, *arguments: Any) -> Sampler[int] | None:
        if self.clip_lengths is None:
            sampler: Sampler[int] | None = super()._get_train_sampler(*arguments)
            return sampler
        grouped: Sampler[int] = GroupedByLength(self.args.train_batch_size, self.clip_lengths)
        return grouped


class _Passes(TrainerCallback):
    """Ends the first pass when it is warm, and measures the others."""

    def __init__(self, meter: Meter, warmup_steps: int) -> None:
        self.meter, self.warmup_steps = meter, warmup_steps
        self.measures = False

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        if not self.measures and state.global_step >= self.warmup_steps:
            self.measures = True
            self.meter.begin()

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> Any:
        if not self.measures and state.global_step >= self.warmup_steps:
            control.should_epoch_stop = True
        return control

    def on_train_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        self.meter.end()


def optimizer_of(integration: Integration, stage: Stage) -> torch.optim.AdamW:
    """The optimiser that nuebridge itself trains the stage with."""
    settings = stage.config.optimizer
    groups = trainable_groups(integration, stage.config)
    return torch.optim.AdamW(groups, betas=settings.betas, eps=settings.epsilon, fused=True)


def trainer_of(work: TrainingWork, folder: str, *, grouped: bool, same_encoder: bool) -> BenchTrainer:
    """The Trainer that does the work; ``folder`` is one that it may write into."""
    config, model = work.stage.config, work.integration
    add_adapters(model, config)
    optimizer = optimizer_of(model, work.stage)
    on_cpu = work.device.type == "cpu"
    # On a CPU, processes that read would take the threads that compute.
    workers = 0 if on_cpu else config.data.workers
    # One pass to warm up in, which ends early.
    warmup = min(work.warmup_steps, math.ceil(len(work.utterances) / work.batch_size))
    arguments: dict[str, Any] = {
        "output_dir": folder,
        "per_device_train_batch_size": work.batch_size,
        "num_train_epochs": work.passes + (1 if warmup else 0),
        "max_grad_norm": config.optimizer.max_gradient_norm,
        "bf16": config.precision == "bfloat16",
        "use_cpu": on_cpu,
        "dataloader_num_workers": workers,
        "dataloader_pin_memory": not on_cpu,
        "remove_unused_columns": False,
        "seed": config.seed,
        "save_strategy": "no",
        "logging_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }
    for name, value in {"transformers": transformers.__version__, "accelerate": _version("accelerate")}.items():
        work.meter.note(name, value)
    work.meter.note("processes that read audio", workers or "the training one")
    wrapped = WithLoss(model, config.losses, work.meter, same_encoder=same_encoder)
    work.meter.note("encoder run by", "transformers" if wrapped.by_library else "nuebridge")
    rate = model.sample_rate
    return BenchTrainer(
        model=wrapped,
        args=TrainingArguments(**arguments),
        data_collator=collate,
        train_dataset=Clips(model, work.utterances, config.losses),
        optimizers=(optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, work.stage.schedule.factor)),
        callbacks=[_Passes(work.meter, warmup)],
        clip_lengths=[round((u.duration or 0.0) * rate) for u in work.utterances] if grouped else None,
    )


def _version(distribution: str) -> str:
    return importlib.metadata.version(distribution)
