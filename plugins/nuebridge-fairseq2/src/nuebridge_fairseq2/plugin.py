"""What this plugin offers. Only records: fairseq2 is imported when an encoder is loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from nuebridge.errors import PluginError
from nuebridge.hookspecs import SpeechEncoderComponent, hookimpl
from nuebridge_fairseq2.environment import fault
from nuebridge_fairseq2.options import W2vBertOptions, Wav2Vec2Options

if TYPE_CHECKING:
    from nuebridge.contracts import SpeechEncoder


def _wav2vec2() -> type[SpeechEncoder]:
    from nuebridge_fairseq2.encoders import Wav2Vec2Encoder

    return Wav2Vec2Encoder


def _w2v_bert() -> type[SpeechEncoder]:
    from nuebridge_fairseq2.encoders import W2vBertEncoder

    return W2vBertEncoder


def _wav2vec2_examples() -> Mapping[str, Callable[[Path], None]]:
    from nuebridge_fairseq2.examples import WAV2VEC2

    return WAV2VEC2


def _w2v_bert_examples() -> Mapping[str, Callable[[Path], None]]:
    from nuebridge_fairseq2.examples import W2V_BERT

    return W2V_BERT


@hookimpl
def nuebridge_speech_encoders() -> list[SpeechEncoderComponent]:
    """Encoders of raw audio and of mel spectrograms. Raises PluginError where fairseq2 cannot run here."""
    reason = fault()
    if reason is not None:
        raise PluginError(reason)
    return [
        SpeechEncoderComponent(
            name="wav2vec2",
            summary="fairseq2's wav2vec 2.0, with Omnilingual ASR's encoders: frames of raw audio at 50 Hz",
            load=_wav2vec2,
            options=Wav2Vec2Options,
            model_types=("fairseq2-wav2vec2",),
            examples=_wav2vec2_examples,
        ),
        SpeechEncoderComponent(
            name="w2v-bert",
            summary="fairseq2's w2v-BERT: conformer frames of mel spectrograms at 50 Hz",
            load=_w2v_bert,
            options=W2vBertOptions,
            model_types=("fairseq2-w2v-bert",),
            examples=_w2v_bert_examples,
        ),
    ]
