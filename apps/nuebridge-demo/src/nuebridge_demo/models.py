"""Which integrations the page offers, and the loaded ones. Knows nothing of web pages."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from nuebridge.checkpoint import load
from nuebridge.compose import Workshop
from nuebridge.contracts import RecognitionOptions, Recognizer, Transcript
from nuebridge.errors import RegistryError
from nuebridge.plugins import INSTALL_DEFAULTS
from nuebridge.registry import IntegrationEntry, WeightsSource, is_local
from nuebridge.transcribe import transcribe


@dataclass(frozen=True)
class Choice:
    """An integration that the page offers."""

    name: str
    """What the page calls it."""
    source: str
    """Registry name, folder or hub id."""
    sample: Path | None = None
    """A recording to try it with."""


@dataclass(frozen=True)
class Heard:
    """A transcript and what it took."""

    transcript: Transcript
    seconds: float
    """From opening the recording to the text; loading the integration is not part of it."""

    @property
    def rtf(self) -> float | None:
        """Real-time factor, compute seconds by audio seconds; None for a recording without samples."""
        return self.seconds / self.transcript.duration if self.transcript.duration > 0 else None


class Models:
    """The integrations on offer: each loaded when it is first used, and kept; one works at a time."""

    def __init__(self, workshop: Workshop, models: Sequence[str] = (), *, device: str = "cpu") -> None:
        """Offers ``models`` and those of the registry whose weights are at hand.

        Raises RegistryError for a name that cannot be an integration, and where there is nothing to offer.
        """
        self.workshop = workshop
        self.device = device
        self.choices = _choices(workshop, models)
        if not self.choices:
            raise RegistryError(
                f"no integration is at hand: {INSTALL_DEFAULTS}, "
                "or name one with --model (registry name, folder or hub id)"
            )
        embedded = workshop.registry.default_integration
        self.default = embedded if embedded in self.choices and not models else next(iter(self.choices))
        """The name of the one that is chosen when the page opens."""
        self._loaded: dict[str, Recognizer] = {}
        self._lock = Lock()

    def recognizer(self, name: str) -> Recognizer:
        """The integration of that name. Raises the errors of :func:`nuebridge.checkpoint.load`."""
        with self._lock:
            if name not in self._loaded:
                self._loaded[name] = load(
                    self.choices[name].source,
                    device=self.device,
                    manager=self.workshop.manager,
                    registry=self.workshop.registry,
                )
            return self._loaded[name]

    def transcribe(self, name: str, recording: Path, *, beam_size: int = 1) -> Heard:
        """The text of a recording. Raises AudioError where it cannot be read, and what loading raises."""
        recognizer = self.recognizer(name)
        with self._lock:
            began = time.perf_counter()
            (result,) = transcribe(recognizer, [recording], options=RecognitionOptions(beam_size=beam_size))
            seconds = time.perf_counter() - began
        if result.transcript is None:
            assert result.error is not None
            raise result.error
        return Heard(result.transcript, seconds)


def _choices(workshop: Workshop, models: Sequence[str]) -> dict[str, Choice]:
    """The choices by name, ``models`` first."""
    registry = workshop.registry
    choices: dict[str, Choice] = {}
    for model in models:
        name = model
        source = model
        if Path(model).is_dir():
            folder = Path(model).resolve()
            source = str(folder)
            taken = folder.name in choices or folder.name in registry.names("integrations")
            name = model if taken or not folder.name else folder.name
        elif model not in registry.names("integrations") and not _may_be_hub_id(model):
            raise RegistryError(
                f"--model {model}: is no folder, and there is {registry.unknown('integrations', model)}"
            )
        choices[name] = Choice(name, source)
    for name in registry.names("integrations"):
        entry = registry.integration(name)
        if name in choices or _is_at_hand(entry):
            sample = None if entry.sample is None else Path(entry.sample)
            choices[name] = Choice(name, name, sample if sample and sample.is_file() else None)
    return choices


def _may_be_hub_id(text: str) -> bool:
    return text.count("/") == 1 and not is_local(text)


def _is_at_hand(entry: IntegrationEntry) -> bool:
    """True where an integration has trained weights on this machine; nothing is fetched to find out."""
    if entry.weights is None:
        return False
    return _is_here(entry.weights)


def _is_here(weights: WeightsSource) -> bool:
    if is_local(weights.source):
        return Path(weights.source).is_dir()
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(weights.source, "config.json", revision=weights.revision), str)
