"""A small plugin of real, trainable parts, so that the host is tested with no first-party plugin installed."""

from __future__ import annotations

from nuebridge.hookspecs import BridgeComponent, SpeechEncoderComponent, TextDecoderComponent, hookimpl


def _encoder() -> type:
    from toy.parts import ToyEncoder

    return ToyEncoder


def _bridge() -> type:
    from toy.parts import ToyBridge

    return ToyBridge


def _decoder() -> type:
    from toy.parts import ToyDecoder

    return ToyDecoder


@hookimpl
def nuebridge_speech_encoders() -> list[SpeechEncoderComponent]:
    return [SpeechEncoderComponent(name="encoder", summary="Chunks.", load=_encoder, model_types=("toy-encoder",))]


@hookimpl
def nuebridge_bridges() -> list[BridgeComponent]:
    return [BridgeComponent(name="bridge", summary="Pairs of frames.", load=_bridge)]


@hookimpl
def nuebridge_text_decoders() -> list[TextDecoderComponent]:
    return [
        TextDecoderComponent(name="decoder", summary="A GRU over bytes.", load=_decoder, model_types=("toy-decoder",))
    ]
