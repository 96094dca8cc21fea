"""What this plugin offers of published speech-language models. Only records: transformers is imported on loading."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nuebridge.hookspecs import BridgeComponent, CheckpointFormat, SpeechEncoderComponent, TextDecoderComponent
from nuebridge_hf.speech_llms.options import (
    GraniteProjectorOptions,
    MarkedDecoderOptions,
    MlpProjectorOptions,
    TowerOptions,
)

if TYPE_CHECKING:
    from nuebridge.contracts import Bridge, SpeechEncoder, TextDecoder
    from nuebridge.model import Integration
    from nuebridge.plugins import PluginManager

    Load = Callable[[Path, PluginManager], Integration]


def _qwen3_asr_encoder() -> type[SpeechEncoder]:
    from nuebridge_hf.speech_llms.known import need

    need("qwen3_asr")
    from nuebridge_hf.speech_llms.qwen3_asr import Qwen3AsrSpeechEncoder

    return Qwen3AsrSpeechEncoder


def _voxtral_encoder() -> type[SpeechEncoder]:
    from nuebridge_hf.speech_llms.voxtral import VoxtralSpeechEncoder

    return VoxtralSpeechEncoder


def _granite_encoder() -> type[SpeechEncoder]:
    from nuebridge_hf.speech_llms.known import need

    need("granite_speech_encoder")
    from nuebridge_hf.speech_llms.granite_speech import GraniteSpeechEncoder

    return GraniteSpeechEncoder


def _mlp_projector() -> type[Bridge]:
    from nuebridge_hf.speech_llms.projectors import MlpProjector

    return MlpProjector


def _granite_projector() -> type[Bridge]:
    from nuebridge_hf.speech_llms.projectors import GraniteProjector

    return GraniteProjector


def _marked_lm() -> type[TextDecoder]:
    from nuebridge_hf.speech_llms.marked_lm import MarkedLm

    return MarkedLm


def _qwen3_asr() -> Load:
    from nuebridge_hf.speech_llms.known import need

    need("qwen3_asr")
    from nuebridge_hf.speech_llms.qwen3_asr import load_qwen3_asr

    return load_qwen3_asr


def _voxtral() -> Load:
    from nuebridge_hf.speech_llms.voxtral import load_voxtral

    return load_voxtral


def _granite_speech() -> Load:
    from nuebridge_hf.speech_llms.known import need

    need("granite_speech_encoder")  # 4.57 knows the whole and cannot read its encoder alone
    from nuebridge_hf.speech_llms.granite_speech import load_granite_speech

    return load_granite_speech


def _encoder_examples(name: str) -> Callable[[], Mapping[str, Callable[[Path], None]]]:
    """Tiny random checkpoints of an encoder; none where the installed transformers does not know it."""

    def examples() -> Mapping[str, Callable[[Path], None]]:
        from nuebridge_hf.speech_llms.examples import encoder_examples

        return encoder_examples(name)

    return examples


def _decoder_examples() -> Mapping[str, Callable[[Path], None]]:
    from nuebridge_hf.speech_llms.examples import marked_lm_examples

    return marked_lm_examples()


def _recognizes(model_type: str) -> Callable[[Mapping[str, Any]], bool]:
    return lambda config: config.get("model_type") == model_type


def encoders() -> list[SpeechEncoderComponent]:
    """The encoders, also for use with other bridges and decoders."""
    return [
        SpeechEncoderComponent(
            name=f"{model_type.replace('_', '-')}-encoder",
            summary=summary,
            load=load,
            options=TowerOptions,
            model_types=(model_type, f"{model_type}_encoder"),
            examples=_encoder_examples(model_type),
        )
        for model_type, summary, load in (
            ("qwen3_asr", "Qwen3-ASR's encoder: frames of a log-mel spectrogram at 13 Hz", _qwen3_asr_encoder),
            ("voxtral", "Voxtral's encoder: whole 30-second windows at 50 Hz", _voxtral_encoder),
            (
                "granite_speech",
                "Granite Speech's conformer: frames of a log-mel spectrogram at 50 Hz",
                _granite_encoder,
            ),
        )
    ]


def bridges() -> list[BridgeComponent]:
    """The bridges, also for training between other parts."""
    return [
        BridgeComponent(
            name="mlp-projector",
            summary="Qwen3-ASR's and Voxtral's bridge: frames side by side, two linear layers",
            load=_mlp_projector,
            options=MlpProjectorOptions,
            examples=lambda: {"qwen3-asr": {"hidden_size": "input"}, "voxtral": {"frames": 4, "bias": False}},
        ),
        BridgeComponent(
            name="granite-projector",
            summary="Granite Speech's bridge: a Q-Former over windows of frames",
            load=_granite_projector,
            options=GraniteProjectorOptions,
            examples=lambda: {
                "small": {
                    "window_size": 6,
                    "downsample_rate": 3,
                    "hidden_size": 16,
                    "num_attention_heads": 2,
                    "intermediate_size": 32,
                }
            },
        ),
    ]


def decoders() -> list[TextDecoderComponent]:
    """A language model that writes something before the transcript."""
    return [
        TextDecoderComponent(
            name="marked-lm",
            summary="A causal language model that names the language before the transcript (Qwen3-ASR)",
            load=_marked_lm,
            options=MarkedDecoderOptions,
            examples=_decoder_examples,
        )
    ]


def formats() -> list[CheckpointFormat]:
    """The published checkpoints, as they are."""
    return [
        CheckpointFormat(
            name=model_type.replace("_", "-"), summary=summary, load=load, recognizes=_recognizes(model_type)
        )
        for model_type, summary, load in (
            ("qwen3_asr", "Qwen3-ASR as transformers publishes it (...-hf)", _qwen3_asr),
            ("voxtral", "Voxtral, for transcription", _voxtral),
            ("granite_speech", "Granite Speech, its LoRA for audio merged", _granite_speech),
        )
    ]
