"""What this plugin offers. Only records: transformers is imported when a part is loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nuebridge.hookspecs import (
    BenchBaseline,
    CheckpointFormat,
    SpeechEncoderComponent,
    TextDecoderComponent,
    hookimpl,
)
from nuebridge_hf.options import DecoderOptions, EncoderOptions

if TYPE_CHECKING:
    from nuebridge.bench import TrainingWork
    from nuebridge.contracts import SpeechEncoder, TextDecoder
    from nuebridge.model import Integration
    from nuebridge.plugins import PluginManager


def _hubert() -> type[SpeechEncoder]:
    from nuebridge_hf.wav2vec_family import HubertEncoder

    return HubertEncoder


def _wav2vec2() -> type[SpeechEncoder]:
    from nuebridge_hf.wav2vec_family import Wav2Vec2Encoder

    return Wav2Vec2Encoder


def _causal_lm() -> type[TextDecoder]:
    from nuebridge_hf.causal_lm import CausalLm

    return CausalLm


def _nue_asr() -> Callable[[Path, PluginManager], Integration]:
    from nuebridge_hf.nue_asr import load_nue_asr

    return load_nue_asr


def _trainer(*, grouped: bool, same_encoder: bool) -> Callable[[TrainingWork], None]:
    _need_accelerate()
    from nuebridge_hf.trainer_baseline import train

    return partial(train, grouped=grouped, same_encoder=same_encoder)


def _need_accelerate() -> None:
    """transformers' Trainer does not run without it, and nothing else here needs it."""
    from importlib.util import find_spec

    if find_spec("accelerate") is None:
        from nuebridge.errors import PluginError

        raise PluginError("transformers' Trainer needs accelerate: run `pip install 'accelerate>=1.1'`")


def _is_nue_asr(config: Mapping[str, Any]) -> bool:
    return config.get("model_type") == "nue_asr"


@hookimpl
def nuebridge_speech_encoders() -> list[SpeechEncoderComponent]:
    """Encoders of raw audio."""
    return [
        SpeechEncoderComponent(
            name="hubert",
            summary="HuBERT: self-supervised frames of raw audio at 50 Hz",
            load=_hubert,
            options=EncoderOptions,
            model_types=("hubert",),
        ),
        SpeechEncoderComponent(
            name="wav2vec2",
            summary="wav2vec 2.0 and its multilingual kin: frames of raw audio at 50 Hz",
            load=_wav2vec2,
            options=EncoderOptions,
            model_types=("wav2vec2",),
        ),
    ]


@hookimpl
def nuebridge_text_decoders() -> list[TextDecoderComponent]:
    """One component reads them all."""
    return [
        TextDecoderComponent(
            name="causal-lm",
            summary="Any causal language model that transformers knows",
            load=_causal_lm,
            options=DecoderOptions,
            model_types=("*",),
        )
    ]


@hookimpl
def nuebridge_checkpoint_formats() -> list[CheckpointFormat]:
    """Foreign formats."""
    return [
        CheckpointFormat(
            name="nue-asr",
            summary="The published Nue-ASR format: HuBERT, two convolutions and GPT-NeoX in one file",
            load=_nue_asr,
            recognizes=_is_nue_asr,
        )
    ]


@hookimpl
def nuebridge_bench_baselines() -> list[BenchBaseline]:
    """Training with the library's own Trainer."""
    plain = "transformers' Trainer: clips in random order, a fixed number a batch, logits everywhere"
    grouped = "the same with group_by_length: clips of like length in a batch"
    return [
        BenchBaseline(name="plain-trainer", summary=plain, load=partial(_trainer, grouped=False, same_encoder=False)),
        BenchBaseline(
            name="grouped-trainer", summary=grouped, load=partial(_trainer, grouped=True, same_encoder=False)
        ),
        BenchBaseline(
            name="plain-trainer-same-encoder",
            summary="plain-trainer with the encoder run as nuebridge runs it",
            load=partial(_trainer, grouped=False, same_encoder=True),
        ),
        BenchBaseline(
            name="grouped-trainer-same-encoder",
            summary="grouped-trainer with the encoder run as nuebridge runs it",
            load=partial(_trainer, grouped=True, same_encoder=True),
        ),
    ]
