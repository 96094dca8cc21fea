"""The corpus generator of the recipe: words, sentences, voices, effects, and the commands."""

from __future__ import annotations

import ctypes
import json
import random
import shutil
import sys
import wave
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

np = pytest.importorskip("numpy")
pytest.importorskip("soxr")

RECIPE = Path(__file__).resolve().parents[1] / "recipe"
sys.path.insert(0, str(RECIPE))

import effects  # noqa: E402
import make_corpus  # noqa: E402
import make_test  # noqa: E402
import numberwords  # noqa: E402
import sentences  # noqa: E402
import vocabulary  # noqa: E402
import voices  # noqa: E402
from synthesize import Synthesizer  # noqa: E402
from utterances import ClipMaker  # noqa: E402


def _libraries_present() -> bool:
    for name in ("libespeak-ng.so.1", "libflite.so.1", "libflite_cmu_us_slt.so.1"):
        try:
            ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)
        except OSError:
            return False
    return shutil.which("festival") is not None


needs_speech = pytest.mark.skipif(not _libraries_present(), reason="espeak-ng, flite or festival is not installed")


def test_vocabulary_is_large_and_in_the_alphabet() -> None:
    words = vocabulary.all_words()
    assert len(words) >= 3000
    assert len(set(words)) == len(words)
    assert all(vocabulary.check_alphabet(word) and " " not in word for word in words)
    assert len(vocabulary.word_classes()["name"]) >= 60


@pytest.mark.parametrize(
    ("verb", "forms"),
    [
        ("go", ["go", "goes", "went", "gone", "going"]),
        ("write", ["write", "writes", "wrote", "written", "writing"]),
        ("stop", ["stop", "stops", "stopped", "stopped", "stopping"]),
        ("visit", ["visit", "visits", "visited", "visited", "visiting"]),
        ("carry", ["carry", "carries", "carried", "carried", "carrying"]),
        ("lie", ["lie", "lies", "lay", "lain", "lying"]),
        ("pick up", ["pick up", "picks up", "picked up", "picked up", "picking up"]),
        ("be", ["be", "is", "was", "been", "being"]),
    ],
)
def test_verb_forms(verb: str, forms: list[str]) -> None:
    assert vocabulary.verb_forms(verb) == forms


@pytest.mark.parametrize(
    ("noun", "many"),
    [("child", "children"), ("box", "boxes"), ("city", "cities"), ("day", "days"), ("ice cream", "ice creams")],
)
def test_plurals(noun: str, many: str) -> None:
    assert vocabulary.plural(noun) == many


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "zero"),
        (21, "twenty one"),
        (105, "one hundred and five"),
        (2010, "two thousand and ten"),
        (1_250_000, "one million two hundred and fifty thousand"),
    ],
)
def test_numbers_in_words(number: int, text: str) -> None:
    assert numberwords.in_words(number) == text


def test_sentences_are_seeded_and_in_the_alphabet() -> None:
    first = sentences.Sentences(random.Random(5))
    again = sentences.Sentences(random.Random(5))
    drawn = [first.draw() for _ in range(2000)]
    assert drawn == [again.draw() for _ in range(2000)]
    assert drawn[:50] != [sentences.Sentences(random.Random(6)).draw() for _ in range(50)]
    for utterance in drawn:
        assert vocabulary.check_alphabet(utterance.text)
        assert 0 < len(utterance.text) <= sentences.MAX_CHARACTERS
        assert sentences.normalise(utterance.spoken) == utterance.text
    share = sum(utterance.kind == "words" for utterance in drawn) / len(drawn)
    assert 0.2 < share < 0.3
    assert len({utterance.text for utterance in drawn}) > 1900


def test_every_template_can_be_filled() -> None:
    stream = sentences.Sentences(random.Random(1))
    for lines in sentences.templates().values():
        for line in lines:
            filled = sentences.normalise(stream._template(line))
            assert filled and vocabulary.check_alphabet(filled)


def test_lines_of_the_test_texts_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = sentences.Sentences(random.Random(3))
    wanted = stream.draw().text
    monkeypatch.setattr(sentences, "held_out_texts", lambda: frozenset({wanted}))
    stream = sentences.Sentences(random.Random(3))
    assert stream.draw().text != wanted
    assert stream.overlaps == 1


def test_normalise() -> None:
    assert sentences.normalise("  Don\u2019t stop, the well-known  Song!") == "don't stop the well known song"


@pytest.mark.parametrize(
    ("engine", "name"),
    [
        ("flite", "slt"),
        ("flite", "cmu_us_slt"),
        ("festival", "festvox-us-slt-hts"),
        ("festival", "cmu_us_slt_arctic_hts"),
        ("espeak", "en-us+f4"),
        ("espeak", "en-gb+m7"),
        ("espeak", "en-gb-scotland+F4"),
    ],
)
def test_held_out_voices_are_refused(engine: str, name: str) -> None:
    with pytest.raises(voices.HeldOutVoiceError):
        voices.check_trainable(voices.Voice(engine, name, 1.0))


def test_held_out_voices_are_never_drawn() -> None:
    rng = random.Random(0)
    drawn = [voices.random_voice(rng) for _ in range(4000)]
    names = {voice.name for voice in drawn}
    assert not any(name.endswith(("+f4", "+m7")) or "slt" in name or "whisper" in name for name in names)
    shares = Counter(voice.engine for voice in drawn)
    for engine, share in (("flite", voices.FLITE_SHARE), ("festival", voices.FESTIVAL_SHARE)):
        assert abs(shares[engine] / len(drawn) - share) < 0.03
    assert {name.partition("+")[0] for name in names} >= set(voices.ESPEAK_ACCENTS) | set(voices.FLITE_VOICES)


@needs_speech
def test_the_clip_maker_refuses_a_held_out_voice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("utterances.BABBLE_CLIPS", 1)
    maker = ClipMaker(1, "train")
    monkeypatch.setattr("utterances.random_voice", lambda rng: voices.Voice("espeak", "en-us+f4", 160))
    with pytest.raises(voices.HeldOutVoiceError, match="en-us\\+f4"):
        [maker.make(index) for index in range(20)]


def test_effects_are_seeded_and_do_not_clip() -> None:
    tone = np.sin(np.arange(22050) / 20).astype(np.float32) * 0.5
    for seed in range(60):
        one = effects.assemble(np.random.default_rng(seed), [(tone, 22050)], [tone])
        two = effects.assemble(np.random.default_rng(seed), [(tone, 22050)], [tone])
        assert np.array_equal(one, two)
        assert one.dtype == np.float32 and np.isfinite(one).all()
        assert 0.0 < np.abs(one).max() <= 1.0
        assert 0.85 * 16000 < one.size < 2.8 * 16000
        silent = effects.nothing(np.random.default_rng(seed))
        assert np.isfinite(silent).all() and np.abs(silent).max() <= 1.0


def _entries(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of two small blocks, the last one not full, made by two processes."""
    output = tmp_path_factory.mktemp("corpus")
    make_corpus.make_corpus(output, "train", seed=4, jobs=2, clips=7, block=4)
    return output


@needs_speech
def test_manifest_and_recordings(corpus: Path) -> None:
    entries = _entries(corpus / "train.jsonl")
    assert len(entries) == 7
    fields = ["audio_filepath", "text", "duration", "engine", "voice", "rate", "kind"]
    for entry in entries:
        assert list(entry) == fields
        with wave.open(str(corpus / entry["audio_filepath"])) as file:
            assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (16000, 1, 2)
            assert file.getnframes() / 16000 == pytest.approx(entry["duration"], abs=1e-3)
            samples = np.frombuffer(file.readframes(file.getnframes()), dtype=np.int16)
        if entry["text"]:
            assert np.abs(samples).max() > 300
            assert len(entry["text"]) / entry["duration"] < 30
    figures = json.loads((corpus / "train.stats.json").read_text(encoding="utf-8"))
    assert figures["clips"] == 7 and figures["test_sentences_dropped"] == 0


@needs_speech
def test_the_number_of_processes_does_not_matter(corpus: Path, tmp_path: Path) -> None:
    make_corpus.make_corpus(tmp_path, "train", seed=4, jobs=1, clips=7, block=4)
    assert (tmp_path / "train.jsonl").read_bytes() == (corpus / "train.jsonl").read_bytes()
    for entry in _entries(corpus / "train.jsonl"):
        path = entry["audio_filepath"]
        assert (tmp_path / path).read_bytes() == (corpus / path).read_bytes(), path


@needs_speech
def test_a_finished_block_is_not_made_again(corpus: Path) -> None:
    before = (corpus / "train.jsonl").read_bytes()
    kept = corpus / "train" / "0000" / "0000000.wav"
    lost = corpus / "train" / "0001" / "0000004.wav"
    kept_time, lost_bytes = kept.stat().st_mtime_ns, lost.read_bytes()
    (lost.parent / make_corpus.BLOCK_MANIFEST).unlink()
    lost.unlink()
    (corpus / "train.jsonl").unlink()
    make_corpus.make_corpus(corpus, "train", seed=4, jobs=2, clips=7, block=4)
    assert kept.stat().st_mtime_ns == kept_time
    assert lost.read_bytes() == lost_bytes
    assert (corpus / "train.jsonl").read_bytes() == before
    assert not list((corpus / "train").glob("*.partial"))


@needs_speech
def test_another_seed_is_refused_in_the_same_folder(corpus: Path) -> None:
    with pytest.raises(SystemExit):
        make_corpus.make_corpus(corpus, "train", seed=5, jobs=1, clips=7, block=4)


def test_groups_of_the_test_recordings() -> None:
    make_test.check_groups()
    assert set(make_test.GROUPS) == {"espeak-trained", "espeak-unseen", "flite-trained", "flite-unseen"}


@needs_speech
def test_test_recordings(tmp_path: Path) -> None:
    lines = ["Where is the nearest station?", "I don't know.", "It rains."]
    entries = make_test.make_set(tmp_path, "test-dev", lines)
    assert entries == _entries(tmp_path / "test-dev.jsonl")
    assert len(entries) == 4 * len(lines) + 1
    for entry in entries[:-1]:
        assert entry["text"] in lines and entry["group"] in make_test.GROUPS
        assert 0.5 < entry["duration"] < 6
        assert (tmp_path / entry["audio_filepath"]).exists()
    several = entries[-1]
    assert (several["group"], several["text"]) == ("espeak-several", " ".join(lines[:2]))
    alone = [entry["duration"] for entry in entries if entry["group"] == "espeak-trained"]
    assert several["duration"] > alone[0] + 0.3


def test_clips_without_speech(tmp_path: Path) -> None:
    entries = make_test.make_silence(tmp_path, clips=8)
    assert Counter(entry["voice"] for entry in entries) == {"zeros": 2, "noise": 2, "tone": 2, "hum": 2}
    for entry in entries:
        with wave.open(str(tmp_path / entry["audio_filepath"])) as file:
            samples = np.frombuffer(file.readframes(file.getnframes()), dtype=np.int16)
        assert bool(samples.any()) == (entry["voice"] != "zeros")


@needs_speech
def test_clips_of_several_sentences() -> None:
    maker = ClipMaker(3, "train")
    clips = [maker.make(index) for index in range(60)]
    several = [clip for clip in clips if clip.kind == "several"]
    assert several and all(clip.samples.size < 16.5 * effects.SAMPLE_RATE for clip in several)
    assert any(len(clip.text) > 90 for clip in several)


@needs_speech
def test_a_voice_of_flite_has_its_own_pitch_unless_asked() -> None:
    speaker = Synthesizer()

    def pitch(asked: float) -> float:
        samples, rate = speaker.speak("where were you all these years", voices.Voice("flite", "awb", 1.0, asked))
        spectrum = np.abs(np.fft.rfft(samples, 1 << 17))
        frequencies = np.fft.rfftfreq(1 << 17, 1 / rate)
        low = (frequencies > 70) & (frequencies < 260)
        return float((frequencies[low] * spectrum[low]).sum() / spectrum[low].sum())

    own, high = pitch(0.0), pitch(220.0)
    assert high > own + 20
    assert abs(pitch(0.0) - own) < 1.0  # what was asked of the last clip is forgotten
