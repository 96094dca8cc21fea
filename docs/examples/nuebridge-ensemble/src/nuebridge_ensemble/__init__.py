"""An ensemble of speech encoders, and a light encoder to go with another. nuebridge imports this when it starts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nuebridge.hookspecs import SpeechEncoderComponent, hookimpl

from nuebridge_ensemble.options import EnsembleOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from nuebridge.contracts import SpeechEncoder


def _ensemble() -> type[SpeechEncoder]:
    from nuebridge_ensemble.ensemble import EnsembleEncoder

    return EnsembleEncoder


def _ensemble_examples() -> Mapping[str, Callable[[Path], None]]:
    from nuebridge_ensemble.examples import ENSEMBLES

    return ENSEMBLES


def _log_mel() -> type[SpeechEncoder]:
    from nuebridge_ensemble.log_mel import LogMelEncoder

    return LogMelEncoder


def _log_mel_examples() -> Mapping[str, Callable[[Path], None]]:
    from nuebridge_ensemble.examples import LOG_MELS

    return LOG_MELS


@hookimpl
def nuebridge_speech_encoders() -> list[SpeechEncoderComponent]:
    """Both."""
    return [
        SpeechEncoderComponent(
            name="encoders",
            summary="Several encoders as one: frames at a common rate, side by side or added up.",
            load=_ensemble,
            options=EnsembleOptions,
            model_types=("ensemble",),
            examples=_ensemble_examples,
            contract_version=1,
        ),
        SpeechEncoderComponent(
            name="log-mel",
            summary="Log-mel frames, a linear layer and a residual one.",
            load=_log_mel,
            model_types=("ensemble-log-mel",),
            examples=_log_mel_examples,
            contract_version=1,
        ),
    ]
