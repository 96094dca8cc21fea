"""Speech synthesis: espeak-ng and flite through their C libraries, Festival through a process kept open."""

from __future__ import annotations

import ctypes
import ctypes.util
import subprocess
import tempfile
import wave
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from voices import Voice

Samples = NDArray[np.float32]

_SYNCHRONOUS = 2
_DO_NOT_EXIT = 0x8000
_UTF8 = 1
_RATE, _VOLUME, _PITCH, _RANGE, _WORD_GAP = 1, 2, 3, 4, 7
_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
# espeak-ng's library knows a voice by its file; en-gb is the language of the file "en".
_ESPEAK_FILES = {"en-gb": "en"}
_FLITE_VOICES = ("kal", "kal16", "awb", "rms", "slt")
_FESTIVAL_VOICES = ("ked", "kal")


class SynthesisError(RuntimeError):
    """A synthesiser is missing or did not speak."""


def _load(*names: str) -> ctypes.CDLL:
    for name in names:
        try:
            return ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)
        except OSError:
            continue
    raise SynthesisError(f"library not found: {names[0]}")


class Espeak:
    """espeak-ng in synchronous retrieval mode; one instance a process, for the library keeps its state globally."""

    def __init__(self) -> None:
        self._lib = _load("libespeak-ng.so.1", "libespeak-ng.so", "libespeak-ng.dylib")
        self.sample_rate = int(self._lib.espeak_Initialize(_SYNCHRONOUS, 0, None, _DO_NOT_EXIT))
        if self.sample_rate <= 0:
            raise SynthesisError("espeak-ng did not start")
        self._pieces: list[bytes] = []
        self._callback = _CALLBACK(self._collect)
        self._lib.espeak_SetSynthCallback(self._callback)
        self._lib.espeak_Synth.argtypes = [
            ctypes.c_char_p,
            ctypes.c_size_t,
            ctypes.c_uint,
            ctypes.c_int,
            ctypes.c_uint,
            ctypes.c_uint,
            ctypes.c_void_p,
            ctypes.c_void_p,
        ]

    def _collect(self, samples: Any, count: int, _events: Any) -> int:
        if samples and count > 0:
            self._pieces.append(ctypes.string_at(samples, 2 * count))
        return 0

    def speak(self, text: str, voice: Voice) -> tuple[Samples, int]:
        """The samples (-1 to 1) of a text in a voice, and their rate."""
        lib = self._lib
        accent, plus, variant = voice.name.partition("+")
        name = _ESPEAK_FILES.get(accent, accent) + plus + variant
        if lib.espeak_SetVoiceByName(name.encode()) != 0:
            raise SynthesisError(f"espeak-ng has no voice {voice.name!r}")
        for parameter, value in (
            (_RATE, voice.rate),
            (_VOLUME, voice.volume),
            (_PITCH, voice.pitch),
            (_RANGE, voice.pitch_range),
            (_WORD_GAP, voice.word_gap),
        ):
            lib.espeak_SetParameter(parameter, int(value), 0)
        self._pieces = []
        data = text.encode() + b"\0"
        if lib.espeak_Synth(data, len(data), 0, 1, 0, _UTF8, None, None) != 0:
            raise SynthesisError("espeak-ng did not speak")
        pcm = np.frombuffer(b"".join(self._pieces), dtype=np.int16)
        return pcm.astype(np.float32) / 32768.0, self.sample_rate


class _Wave(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_char_p),
        ("sample_rate", ctypes.c_int),
        ("num_samples", ctypes.c_int),
        ("num_channels", ctypes.c_int),
        ("samples", ctypes.POINTER(ctypes.c_short)),
    ]


class _FliteVoice(ctypes.Structure):
    _fields_ = [("name", ctypes.c_char_p), ("features", ctypes.c_void_p)]


class Flite:
    """The flite voices, each registered when it is first asked for."""

    def __init__(self) -> None:
        self._lib = _load("libflite.so.1", "libflite.so")
        self._lib.flite_init()
        self._lib.flite_text_to_wave.restype = ctypes.POINTER(_Wave)
        self._lib.flite_text_to_wave.argtypes = [ctypes.c_char_p, ctypes.c_void_p]
        self._lib.delete_wave.argtypes = [ctypes.POINTER(_Wave)]
        self._lib.flite_feat_set_float.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_float]
        self._lib.flite_feat_remove.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
        self._lib.get_param_float.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_float]
        self._lib.get_param_float.restype = ctypes.c_float
        self._voices: dict[str, Any] = {}
        self._stretch: dict[str, float] = {}

    def _voice(self, name: str) -> Any:
        if name not in self._voices:
            if name not in _FLITE_VOICES:
                raise SynthesisError(f"flite has no voice {name!r}")
            library = _load(f"libflite_cmu_us_{name}.so.1", f"libflite_cmu_us_{name}.so")
            register = getattr(library, f"register_cmu_us_{name}")
            register.restype = ctypes.POINTER(_FliteVoice)
            register.argtypes = [ctypes.c_char_p]
            voice = register(None)
            self._stretch[name] = self._lib.get_param_float(voice.contents.features, b"duration_stretch", 1.0)
            self._voices[name] = voice
        return self._voices[name]

    def speak(self, text: str, voice: Voice) -> tuple[Samples, int]:
        """The samples (-1 to 1) of a text in a voice, and their rate."""
        handle = self._voice(voice.name)
        features = handle.contents.features
        self._lib.flite_feat_set_float(features, b"duration_stretch", float(self._stretch[voice.name] * voice.rate))
        # A voice's own pitch is not in its features but in its model: to set a feature, even to what
        # `get_param_float` gives, is to take the voice's pitch away.
        for key, value in ((b"int_f0_target_mean", voice.pitch), (b"int_f0_target_stddev", voice.pitch_range)):
            if value:
                self._lib.flite_feat_set_float(features, key, float(value))
            else:
                self._lib.flite_feat_remove(features, key)
        spoken = self._lib.flite_text_to_wave(text.encode(), ctypes.cast(handle, ctypes.c_void_p))
        if not spoken:
            raise SynthesisError("flite did not speak")
        try:
            pcm = np.ctypeslib.as_array(spoken.contents.samples, (spoken.contents.num_samples,)).copy()
            rate = int(spoken.contents.sample_rate)
        finally:
            self._lib.delete_wave(spoken)
        return pcm.astype(np.float32) / 32768.0, rate


class Festival:
    """Festival's diphone voices, spoken by one process that stays open."""

    def __init__(self) -> None:
        try:
            self._process = subprocess.Popen(
                ["festival", "--pipe"],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
        except FileNotFoundError:
            raise SynthesisError("festival is not installed") from None
        self._folder = tempfile.TemporaryDirectory(prefix="festival-")

    def _run(self, *commands: str) -> None:
        assert self._process.stdin is not None and self._process.stderr is not None
        for command in commands:
            self._process.stdin.write(command + "\n")
        self._process.stdin.write('(format stderr "done\\n")\n')
        self._process.stdin.flush()
        for line in self._process.stderr:
            if line.strip() == "done":
                return
            if "ERROR" in line:  # other lines tell of diphones that the voice lacks
                raise SynthesisError(f"festival said: {line.strip()}")
        raise SynthesisError("festival ended")

    def speak(self, text: str, voice: Voice) -> tuple[Samples, int]:
        """The samples (-1 to 1) of a text in a voice, and their rate."""
        if voice.name not in _FESTIVAL_VOICES:
            raise SynthesisError(f"festival has no voice {voice.name!r}")
        path = Path(self._folder.name) / "spoken.wav"
        quoted = text.replace("\\", " ").replace('"', " ")
        self._run(
            f"(voice_{voice.name}_diphone)",
            f"(Parameter.set 'Duration_Stretch {voice.rate})",
            f'(utt.save.wave (utt.synth (Utterance Text "{quoted}")) "{path}" \'riff)',
        )
        with wave.open(str(path), "rb") as file:
            pcm = np.frombuffer(file.readframes(file.getnframes()), dtype=np.int16)
            return pcm.astype(np.float32) / 32768.0, file.getframerate()


_ENGINES: dict[str, type[Espeak] | type[Flite] | type[Festival]] = {
    "espeak": Espeak,
    "flite": Flite,
    "festival": Festival,
}


class Synthesizer:
    """The engines behind one call; each starts when it is first needed."""

    def __init__(self) -> None:
        self._engines: dict[str, Espeak | Flite | Festival] = {}

    def speak(self, text: str, voice: Voice) -> tuple[Samples, int]:
        """The samples (-1 to 1) of a text in a voice, and their rate; silence at either end is cut off."""
        if voice.engine not in self._engines:
            if voice.engine not in _ENGINES:
                raise SynthesisError(f"no engine {voice.engine!r}")
            self._engines[voice.engine] = _ENGINES[voice.engine]()
        samples, rate = self._engines[voice.engine].speak(text, voice)
        return trim(samples, rate), rate


def trim(samples: Samples, rate: int, threshold: float = 0.003, margin: float = 0.02) -> Samples:
    """The samples without the silence at either end, but for a short margin."""
    loud = np.flatnonzero(np.abs(samples) > threshold)
    if loud.size == 0:
        return samples[:0]
    edge = int(margin * rate)
    return samples[max(0, loud[0] - edge) : loud[-1] + edge]
