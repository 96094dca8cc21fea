"""What this plugin offers. Only records: transformers is imported when a part is loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nuebridge.hookspecs import (
    BenchBaseline,
    BridgeComponent,
    CheckpointFormat,
    SpeechEncoderComponent,
    TextDecoderComponent,
    hookimpl,
)
from nuebridge_hf.options import (
    DecoderOptions,
    EncoderOptions,
    W2vBertOptions,
    Wav2Vec2Options,
    WhisperOptions,
)
from nuebridge_hf.speech_llms import records as speech_llms

if TYPE_CHECKING:
    from pydantic import BaseModel

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


def _wavlm() -> type[SpeechEncoder]:
    from nuebridge_hf.wavlm import WavLmEncoder

    return WavLmEncoder


def _data2vec_audio() -> type[SpeechEncoder]:
    from nuebridge_hf.data2vec import Data2VecAudioEncoder

    return Data2VecAudioEncoder


def _w2v_bert() -> type[SpeechEncoder]:
    from nuebridge_hf.w2v_bert import W2vBertEncoder

    return W2vBertEncoder


def _whisper() -> type[SpeechEncoder]:
    from nuebridge_hf.whisper import WhisperSpeechEncoder

    return WhisperSpeechEncoder


def _encoder_examples(model_type: str) -> Callable[[], Mapping[str, Callable[[Path], None]]]:
    """Tiny random checkpoints of an encoder."""

    def examples() -> Mapping[str, Callable[[Path], None]]:
        from nuebridge_hf.examples.encoders import of_model_type

        return of_model_type(model_type)

    return examples


def _decoder_examples() -> Mapping[str, Callable[[Path], None]]:
    """Tiny random checkpoints of decoders."""
    from nuebridge_hf.examples.decoders import DECODERS

    return DECODERS


def _causal_lm() -> type[TextDecoder]:
    from nuebridge_hf.causal_lm import CausalLm

    return CausalLm


def _published_encoder(load: Callable[[], type[SpeechEncoder]]) -> Callable[[str, BaseModel], SpeechEncoder | None]:
    """What a well-known checkpoint of an encoder gives at full size, without its weights."""

    def published(source: str, options: BaseModel) -> SpeechEncoder | None:
        from nuebridge_hf.published import encoder

        return encoder(load(), source, options)

    return published


def _published_decoder(source: str, options: BaseModel) -> TextDecoder | None:
    from nuebridge_hf.published import decoder

    return decoder(source, options)


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
    """Encoders of the families that are pre-trained on speech, and those of speech-language models."""
    families = [
        SpeechEncoderComponent(
            name=name,
            summary=summary,
            load=load,
            options=options,
            model_types=(model_type,),
            published=_published_encoder(load),
            examples=_encoder_examples(model_type),
        )
        for name, model_type, summary, load, options in (
            ("hubert", "hubert", "HuBERT: self-supervised frames of raw audio at 50 Hz", _hubert, EncoderOptions),
            (
                "wav2vec2",
                "wav2vec2",
                "wav2vec 2.0, XLS-R and MMS: frames of raw audio at 50 Hz",
                _wav2vec2,
                Wav2Vec2Options,
            ),
            ("wavlm", "wavlm", "WavLM: frames of raw audio at 50 Hz", _wavlm, EncoderOptions),
            (
                "data2vec-audio",
                "data2vec-audio",
                "data2vec: frames of raw audio at 50 Hz",
                _data2vec_audio,
                EncoderOptions,
            ),
            (
                "w2v-bert",
                "wav2vec2-bert",
                "w2v-BERT 2.0: frames of a log-mel spectrogram at 50 Hz",
                _w2v_bert,
                W2vBertOptions,
            ),
            (
                "whisper",
                "whisper",
                "Whisper's encoder: frames of a log-mel spectrogram at 50 Hz, up to 30 s",
                _whisper,
                WhisperOptions,
            ),
        )
    ]
    return [*families, *speech_llms.encoders()]


@hookimpl
def nuebridge_bridges() -> list[BridgeComponent]:
    """The bridges of published speech-language models."""
    return speech_llms.bridges()


@hookimpl
def nuebridge_text_decoders() -> list[TextDecoderComponent]:
    """One component reads them all; another knows answers with more in them than the transcript."""
    return [
        *speech_llms.decoders(),
        TextDecoderComponent(
            name="causal-lm",
            summary="Any causal language model that transformers knows",
            load=_causal_lm,
            options=DecoderOptions,
            model_types=("*",),
            examples=_decoder_examples,
            published=_published_decoder,
        ),
    ]


@hookimpl
def nuebridge_checkpoint_formats() -> list[CheckpointFormat]:
    """Foreign formats."""
    return [
        *speech_llms.formats(),
        CheckpointFormat(
            name="nue-asr",
            summary="The published Nue-ASR format: HuBERT, two convolutions and GPT-NeoX in one file",
            load=_nue_asr,
            recognizes=_is_nue_asr,
        ),
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
