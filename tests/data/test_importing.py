"""Manifests from the files of other toolkits. The recordings are real, short and of known lengths."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from nuebridge.data import read_manifest
from nuebridge.data.headers import read_header
from nuebridge.data.importing import READERS, Imported, ImportOptions, by_reason, detect, import_data
from nuebridge.errors import AudioError, ConfigError, DataError
from tests.recordings import burst, encode

RATE = 8000


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A folder with ``audio/a.wav`` (1 s), ``audio/b.flac`` (2 s) and ``audio/two.wav`` (1 s, 2 channels)."""
    (tmp_path / "audio").mkdir()
    encode(tmp_path / "audio/a.wav", burst(1.0, RATE), RATE)
    encode(tmp_path / "audio/b.flac", burst(2.0, RATE), RATE)
    encode(tmp_path / "audio/two.wav", burst(1.0, RATE, channels=2), RATE)
    return tmp_path


def write(path: Path, *lines: object) -> Path:
    path.parent.mkdir(exist_ok=True)
    text = "".join(f"{line if isinstance(line, str) else json.dumps(line, ensure_ascii=False)}\n" for line in lines)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text, encoding="utf-8")
    return path


def bring(source: Path, **options: Any) -> tuple[list[dict[str, Any]], Imported]:
    """The lines of the manifest beside a source, and what was told of the import."""
    output = source.parent / "manifest.jsonl"
    form = options.pop("format", None)
    done = import_data(source, output, format=form, options=ImportOptions(**options))
    utterances = read_manifest(output)
    assert all(one.audio_filepath.is_file() for one in utterances) or not options.get("measure", True)
    lines = [json.loads(line) for line in output.read_text(encoding="utf-8").split("\n") if line]
    assert done.utterances == len(lines)
    return lines, done


def refused(source: Path, **options: Any) -> list[str]:
    """The lines of the error that an import ends with; nothing is written."""
    with pytest.raises((DataError, ConfigError)) as caught:
        bring(source, **options)
    assert not (source.parent / "manifest.jsonl").exists()
    return str(caught.value).splitlines()


def cut(name: str, source: str, start: float, duration: float, *supervisions: dict[str, Any], **more: Any) -> object:
    sources = [{"type": "file", "channels": [0], "source": source}]
    recording = {"id": f"rec-{name}", "sources": sources, "sampling_rate": RATE, "num_samples": 1, "duration": 9.0}
    return {
        "id": name,
        "start": start,
        "duration": duration,
        "channel": 0,
        "supervisions": list(supervisions),
        "recording": {**recording, **more.pop("recording", {})},
        "type": "MonoCut",
        **more,
    }


def supervision(start: float, duration: float, text: str | None = "good morning", **more: Any) -> dict[str, Any]:
    base = {"id": f"s{start}", "recording_id": "r", "start": start, "duration": duration, "channel": 0}
    return {**base, **({} if text is None else {"text": text}), **more}


class TestHeaders:
    @pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.mp3", "a.ogg", "a.m4a", "a.webm", "a.aiff", "a.au"])
    def test_seconds_are_those_of_the_recording(self, tmp_path: Path, name: str) -> None:
        rate = 48_000 if name.endswith(("ogg", "webm")) else 16_000
        header = read_header(encode(tmp_path / name, burst(1.5, rate, channels=2), rate))
        assert header.seconds == pytest.approx(1.5, abs=0.08)
        assert (header.sample_rate, header.channels) == (rate, 2)

    def test_wav_is_exact_in_every_format(self, tmp_path: Path) -> None:
        for codec in ("pcm_s16le", "pcm_u8", "pcm_s24le", "pcm_f32le", "pcm_mulaw"):
            assert read_header(encode(tmp_path / "a.wav", burst(0.7, RATE), RATE, codec)).seconds == 0.7
        assert read_header(encode(tmp_path / "a.wav", burst(1.0, RATE), RATE, "adpcm_ms")).seconds == pytest.approx(
            1, abs=0.1
        )

    def test_an_mp3_that_declares_no_length_is_read_through(self, tmp_path: Path) -> None:
        file = encode(tmp_path / "a.mp3", burst(3.0, 16_000), 16_000)
        data = file.read_bytes()
        assert b"Info" in data[:500] or b"Xing" in data[:500]
        file.write_bytes(data.replace(b"Info", b"\0\0\0\0", 1).replace(b"Xing", b"\0\0\0\0", 1))
        assert read_header(file).seconds == pytest.approx(3.0, abs=0.15)

    def test_what_cannot_be_read(self, tmp_path: Path) -> None:
        file = encode(tmp_path / "a.wav", burst(1.0, RATE), RATE)
        file.write_bytes(file.read_bytes()[:-4000])
        for path, said in ((tmp_path / "none.wav", "no such file"), (file, "truncated"), (tmp_path, "is a folder")):
            with pytest.raises(AudioError, match=said):
                read_header(path)
        with pytest.raises(AudioError, match="holds no samples"):
            read_header(encode(tmp_path / "b.wav", burst(0.0, RATE), RATE))


class TestLhotse:
    def test_a_supervision_is_an_utterance(self, corpus: Path) -> None:
        source = write(
            corpus / "cuts.jsonl.gz",
            cut("one", "audio/a.wav", 0.0, 1.0, supervision(0.0, 1.0, speaker="s1", language="en", gender=None)),
            cut(
                "many", "audio/b.flac", 0.5, 1.5, supervision(0.1, 0.5), supervision(0.9, 0.6, "bye", custom={"snr": 3})
            ),
        )
        lines, done = bring(source)
        assert (done.format, done.dropped, done.notes) == ("lhotse", (), ())
        assert done.seconds == pytest.approx(2.1)
        assert lines == [
            {
                "audio_filepath": "audio/a.wav",
                "text": "good morning",
                "duration": 1.0,
                "id": "one",
                "speaker": "s1",
                "recording": "rec-one",
                "language": "en",
            },
            {
                "audio_filepath": "audio/b.flac",
                "text": "good morning",
                "duration": 0.5,
                "offset": 0.6,
                "id": "many-s0.1",
                "recording": "rec-many",
            },
            {
                "audio_filepath": "audio/b.flac",
                "text": "bye",
                "duration": 0.6,
                "offset": 1.4,
                "id": "many-s0.9",
                "recording": "rec-many",
                "snr": 3,
            },
        ]

    def test_what_is_left_out_is_named(self, corpus: Path) -> None:
        source = write(
            corpus / "cuts.jsonl",
            cut("kept", "audio/a.wav", 0.0, 0.8, supervision(-0.01, 0.82)),
            cut("bare", "audio/a.wav", 0.0, 1.0),
            cut("early", "audio/a.wav", 0.5, 0.5, supervision(-0.2, 0.5)),
            cut("late", "audio/a.wav", 0.0, 0.5, supervision(0.2, 0.5)),
            cut("mute", "audio/a.wav", 0.0, 0.5, supervision(0.0, 0.5, None)),
        )
        lines, done = bring(source)
        assert [(line["id"], line["duration"]) for line in lines] == [("kept", 0.8)]
        assert by_reason(done.dropped) == {
            "a cut without supervision": ["bare"],
            "a supervision that reaches beyond its cut": ["early", "late"],
            "no text": ["mute"],
        }

    def test_what_a_manifest_cannot_say_is_an_error(self, corpus: Path) -> None:
        command = {"sources": [{"type": "command", "channels": [0], "source": "rm -rf"}]}
        whole = {"sources": [{"type": "file", "channels": [0, 1], "source": "audio/two.wav"}]}
        source = write(
            corpus / "cuts.jsonl",
            {"id": "mixed", "type": "MixedCut", "tracks": []},
            cut("piped", "", 0.0, 1.0, supervision(0.0, 1.0), recording=command),
            cut("fast", "audio/a.wav", 0.0, 1.0, recording={"transforms": [{"name": "Speed", "kwargs": {}}]}),
            cut("side", "", 0.0, 1.0, supervision(0.0, 1.0), recording=whole, channel=1),
            cut("first", "", 0.0, 1.0, supervision(0.0, 1.0), recording=whole),
            {"id": "x", "duration": 1.0, "type": "MonoCut"},
            cut("features", "", 0.0, 1.0, recording={}) | {"recording": None},  # type: ignore[operator]
            cut("gone", "audio/none.wav", 0.0, 1.0, supervision(0.0, 1.0)),
        )
        *faults, advice = refused(source)
        for said in (
            "1: is a MixedCut; only a MonoCut is a stretch of one recording and channel; write its audio",
            "2: the recording 'rec-piped' is of type 'command', not a file",
            "3: the recording 'rec-fast' is changed by Speed when it is read",
            "4: means channel 2 of",
            "5: means channel 1 of",
            "6: is not a cut: start: Field required",
            "7: the cut 'features' has no recording",
            f"8: there is no recording {corpus}/audio/none.wav (relative paths begin at {corpus}; --audio-root",
        ):
            assert [fault for fault in faults if fault.startswith(f"{source}:{said}")], (said, faults)
        assert len(faults) == 8
        assert advice == "nothing is written; mend them, or leave them out with --skip-faults"

    def test_one_channel_in_a_file_of_its_own(self, corpus: Path) -> None:
        apart = [
            {"type": "file", "channels": [0], "source": "audio/a.wav"},
            {"type": "file", "channels": [1], "source": "audio/b.flac"},
        ]
        resampled = {"sources": apart, "transforms": [{"name": "Resample", "kwargs": {"target": 16000}}]}
        source = write(corpus / "c.jsonl", cut("x", "", 0, 1, supervision(0, 1), recording=resampled, channel=1))
        lines, _ = bring(source)
        assert lines[0]["audio_filepath"] == "audio/b.flac"

    def test_recordings_and_supervisions_apart(self, corpus: Path) -> None:
        source = write(corpus / "recordings.jsonl", {"id": "r", "sources": [], "sampling_rate": 8000, "duration": 1.0})
        assert "lhotse cut simple" in refused(source)[0]


class TestKaldi:
    def folder(self, corpus: Path, **files: list[str]) -> Path:
        folder = corpus / "data"
        folder.mkdir()
        for name, lines in {"wav.scp": [f"r1 {corpus}/audio/a.wav", f"r2   {corpus}/audio/b.flac"], **files}.items():
            write(folder / name.replace("wav_scp", "wav.scp"), *lines)
        return folder

    def test_with_segments(self, corpus: Path) -> None:
        folder = self.folder(
            corpus,
            segments=["u1 r1 0.25 0.75", "u2 r2 0.5 -1", "u3 r2 0 0.4"],
            text=["u1 góðan  dag", "u2", "u9 nowhere"],
            utt2spk=["u1 s1", "u2 s2"],
            utt2lang=["u1 is"],
            spk2utt=["s1 u1"],
            ctm=["r1 1 0.0 0.1 x"],
        )
        lines, done = bring(folder)
        assert done.format == "kaldi"
        assert lines == [
            {
                "audio_filepath": "audio/a.wav",
                "text": "góðan  dag",
                "duration": 0.5,
                "offset": 0.25,
                "id": "u1",
                "speaker": "s1",
                "recording": "r1",
                "language": "is",
            },
            {
                "audio_filepath": "audio/b.flac",
                "text": "",
                "duration": 1.5,
                "offset": 0.5,
                "id": "u2",
                "speaker": "s2",
                "recording": "r2",
            },
        ]
        assert by_reason(done.dropped) == {"not in text": ["u3"], "in text, not in segments": ["u9"]}
        assert done.notes == ("not read, as they are no part of a data folder's utterances: ctm",)

    def test_without_segments(self, corpus: Path) -> None:
        lines, _ = bring(self.folder(corpus, utt2dur=["r1 0.99"]))
        assert [(line["id"], line["duration"], line.get("text")) for line in lines] == [
            ("r1", 0.99, None),
            ("r2", 2.0, None),
        ]

    def test_commands_are_not_run(self, corpus: Path) -> None:
        made = corpus / "made"
        folder = self.folder(
            corpus,
            wav_scp=[f"r1 touch {made} |", f"r2 {corpus}/audio/b.flac", "r3 wavs.ark:1234", "r4"],
        )
        faults = refused(folder)
        assert faults[0].startswith(f"{folder}/wav.scp:1: the recording is what a command prints (touch ")
        assert "commands from data files are not run: write its output to a file" in faults[0]
        assert "is a place in a Kaldi archive" in faults[1] and faults[1].startswith(f"{folder}/wav.scp:3")
        assert "no recording is named" in faults[2]
        assert not made.exists()
        lines, done = bring(folder, skip_faults=True)
        assert [line["id"] for line in lines] == ["r2"]
        assert len(by_reason(done.dropped)["faulty"]) == 3

    def test_faults_name_their_lines(self, corpus: Path) -> None:
        folder = self.folder(
            corpus,
            segments=[
                "u1 r1 0.5 0.2",
                "u2 r9 0 1",
                "u3 r1 0 soon",
                "u4 r1 0",
                "u5 r1 0.5 1.5",
                "u6 r1 0 0.5",
                "u6 r1 0.5 1",
                "u7 r1 0 1 B",
            ],
        )
        *faults, _ = refused(folder)
        for said in (
            "1: ends at 0.2 s, which is not after 0.5 s",
            f"2: the recording 'r9' is not in {folder}/wav.scp",
            "3: could not convert string to float: 'soon'",
            "4: a line must hold utterance, recording, start and end",
            f"5: {corpus}/audio/a.wav ends at 1.000 s, before the stretch 0.5 to 1.5 s does",
            f"7: the id 'u6' is that of {folder}/segments:6 already",
            "8: names channel B of its recording",
        ):
            assert [fault for fault in faults if fault.startswith(f"{folder}/segments:{said}")], (said, faults)
        assert len(faults) == 7


class TestStm:
    def test_segments(self, corpus: Path) -> None:
        source = write(
            corpus / "audio/talks.stm",
            ';; CATEGORY "0" "" ""',
            ";; LABEL",
            "a 1 anna 0.00 0.50 <o,f0,female> hello { world / word }",
            "a 1 anna 0.50 0.75 <o,f0,female> ignore_time_segment_in_scoring",
            "b A bert 1.25 2.0 one two",
            "b A bert 0.25 0.5 <o>",
            "b A inter_segment_gap 0.5 1.25 IGNORE_TIME_SEGMENT_IN_SCORING",
        )
        lines, done = bring(source)
        assert lines == [
            {
                "audio_filepath": "a.wav",
                "text": "hello { world / word }",
                "duration": 0.5,
                "speaker": "anna",
                "recording": "a",
                "labels": "o,f0,female",
            },
            {
                "audio_filepath": "b.flac",
                "text": "one two",
                "duration": 0.75,
                "offset": 1.25,
                "speaker": "bert",
                "recording": "b",
            },
            {
                "audio_filepath": "b.flac",
                "text": "",
                "duration": 0.25,
                "offset": 0.25,
                "speaker": "bert",
                "recording": "b",
                "labels": "o",
            },
        ]
        assert by_reason(done.dropped) == {"ignore_time_segment_in_scoring": [f"{source}:4", f"{source}:7"]}
        assert done.notes == ("1 transcripts hold alternatives ({ a / b }), which stay as they are",)

    def test_a_folder_of_files_and_a_root(self, corpus: Path) -> None:
        write(corpus / "stm/2.stm", "b 1 x 0 1 later")
        write(corpus / "stm/1.stm", "a 1 x 0 1 sooner")
        lines, _ = bring(corpus / "stm", audio_root=corpus / "audio")
        assert [(line["audio_filepath"], line["text"]) for line in lines] == [
            ("audio/a.wav", "sooner"),
            ("audio/b.flac", "later"),
        ]

    def test_faults(self, corpus: Path) -> None:
        (corpus / "audio/b.wav").write_bytes((corpus / "audio/a.wav").read_bytes())
        source = write(
            corpus / "audio/x.stm", "a 1 x 0", "c 1 x 0 1 words", "b 1 x 0 1 words", "a B x 0 1 w", "two 1 x 0 1 w"
        )
        *faults, _ = refused(source)
        assert "a line must hold recording, channel" in faults[0]
        assert "there is no recording" in faults[1]
        assert "b.wav and " in faults[2] and "could both be meant" in faults[2]
        assert "means channel 2 of" in faults[3] and "which has 1" in faults[3]
        assert "means channel 1 of" in faults[4] and "which has 2" in faults[4]


class TestTable:
    def test_names_are_guessed(self, corpus: Path) -> None:
        source = write(
            corpus / "validated.tsv",
            "client_id\tpath\tsentence\tup_votes\tlocale\tempty",
            'c1\taudio/a.wav\tShe said "no".\t2\ten\t',
            'c2\taudio/b.flac\t"Yes\t0\ten\t',
        )
        lines, done = bring(source)
        assert done.format == "table"
        assert lines == [
            {
                "audio_filepath": "audio/a.wav",
                "text": 'She said "no".',
                "duration": 1.0,
                "speaker": "c1",
                "up_votes": "2",
                "language": "en",
            },
            {
                "audio_filepath": "audio/b.flac",
                "text": '"Yes',
                "duration": 2.0,
                "speaker": "c2",
                "up_votes": "0",
                "language": "en",
            },
        ]

    def test_csv_with_columns_by_option(self, corpus: Path) -> None:
        source = write(
            corpus / "list.csv",
            "\ufeffaudio,begin,end,raw,text",
            'audio/b.flac,0.5,1.25,"well, ""yes""",normal',
        )
        lines, _ = bring(source, columns={"text": "raw", "context": "text"})
        assert lines == [
            {
                "audio_filepath": "audio/b.flac",
                "text": 'well, "yes"',
                "duration": 0.75,
                "offset": 0.5,
                "context": "normal",
            }
        ]
        (corpus / "manifest.jsonl").unlink()
        lines, _ = bring(source, columns={"text": "raw"})
        assert lines[0]["column_text"] == "normal"

    def test_without_a_line_of_names(self, corpus: Path) -> None:
        source = write(corpus / "metadata.csv", "a|Dr. Who|doctor who", "b|Mr. X|mister x")
        lines, _ = bring(source, delimiter="|", header=("audio", "raw", "text"), audio_root=corpus / "audio")
        assert [(line["audio_filepath"], line["text"], line["raw"]) for line in lines] == [
            ("audio/a.wav", "doctor who", "Dr. Who"),
            ("audio/b.flac", "mister x", "Mr. X"),
        ]

    @pytest.mark.parametrize(
        ("head", "options", "said"),
        [
            ("path,filename,text", {}, "path and filename could both be audio_filepath; say which"),
            ("sound,text", {}, "no column looks like the path of a recording: sound, text; say which: --column audio_"),
            (
                "audio,text",
                {"columns": {"text": "words"}},
                "--column text=words: the table has the columns audio, text",
            ),
            ("audio,text,text", {}, "two columns have one name"),
        ],
    )
    def test_columns_that_do_not_fit(self, corpus: Path, head: str, options: dict[str, Any], said: str) -> None:
        assert said in refused(write(corpus / "list.csv", head, "audio/a.wav,x,y"), **options)[0]

    def test_faulty_rows(self, corpus: Path) -> None:
        source = write(
            corpus / "list.csv", "audio,text,duration", "audio/a.wav,x,1", "audio/a.wav,x", "audio/a.wav,x,long"
        )
        *faults, _ = refused(source)
        assert faults == [
            f"{source}:3: has 2 cells for 3 columns (audio, text, duration)",
            f"{source}:4: duration must be seconds, not 'long'",
        ]


class TestJsonLines:
    def test_key_source_target(self, corpus: Path) -> None:
        source = write(
            corpus / "train.jsonl",
            {"key": "k1", "source": f"{corpus}/audio/a.wav", "target": "one", "prompt": "Transcribe.", "text": "odd"},
            {"key": "k2", "source": "audio/b.flac", "target": ""},
        )
        lines, done = bring(source)
        assert done.format == "slam-llm"
        assert lines == [
            {
                "audio_filepath": "audio/a.wav",
                "text": "one",
                "duration": 1.0,
                "id": "k1",
                "prompt": "Transcribe.",
                "source_text": "odd",
            },
            {"audio_filepath": "audio/b.flac", "text": "", "duration": 2.0, "id": "k2"},
        ]

    def test_nemo(self, corpus: Path) -> None:
        source = write(
            corpus / "nemo.json",
            {"audio_filepath": "audio/b.flac", "text": "x", "duration": 1.5, "offset": 0.25, "lang": "en", "pnc": True},
            "",
            {"audio_filepath": "audio/a.wav", "text": "y\u2028z", "speaker": 7},
        )
        lines, done = bring(source)
        assert done.format == "nemo"
        assert lines == [
            {"audio_filepath": "audio/b.flac", "text": "x", "duration": 1.5, "offset": 0.25, "lang": "en", "pnc": True},
            {"audio_filepath": "audio/a.wav", "text": "y\u2028z", "duration": 1.0, "speaker": "7"},
        ]

    def test_every_faulty_line_is_named_and_a_long_list_is_cut(self, corpus: Path) -> None:
        source = write(
            corpus / "nemo.jsonl",
            {"audio_filepath": "audio/a.wav", "text": "fine"},
            "{not json",
            ["audio/a.wav"],
            {"audio_filepath": ["audio/a.wav", "audio/b.flac"]},
            {"audio_filepath": "audio/a.wav", "text": 3},
            {"audio_filepath": "audio/a.wav", "duration": -1},
            *[{"text": "no recording"}] * 8,
        )
        with source.open("ab") as file:
            file.write(b'{"audio_filepath": "audio/a.wav", "text": "\xff"}\n')
        faults = refused(source)
        assert len(faults) == 12 and faults[-2] == "(and 4 more)"
        for fault, number in zip(faults[:10], [2, 3, 4, 5, 6, 7, 8, 9, 10, 11], strict=True):
            assert fault.startswith(f"{source}:{number}: ")
        lines, done = bring(source, skip_faults=True)
        assert len(lines) == 1
        assert "utf-8" in by_reason(done.dropped)["faulty"][-1]


class TestDetection:
    def test_every_format_is_found_by_name_or_content(self) -> None:
        assert set(READERS) == {"lhotse", "kaldi", "stm", "table", "slam-llm", "nemo"}  # each has its class above

    def test_what_could_be_anything(self, corpus: Path) -> None:
        (corpus / "empty").mkdir()
        assert "holds neither wav.scp nor .stm files" in refused(corpus / "empty")[0]
        write(corpus / "both/wav.scp", f"r {corpus}/audio/a.wav")
        write(corpus / "both/x.stm", "a 1 x 0 1 words")
        assert "both wav.scp and .stm files; name a file in it, or name it with --format" in refused(corpus / "both")[0]
        assert bring(corpus / "both", format="kaldi")[1].format == "kaldi"
        (corpus / "manifest.jsonl").unlink()
        assert "(foo, bar) are those of no format" in refused(write(corpus / "x.jsonl", {"foo": 1, "bar": 2}))[0]
        assert "is of no kind that is known" in refused(write(corpus / "x.txt", "words"))[0]
        with pytest.raises(DataError, match="there is no .*none"):
            detect(corpus / "none")

    def test_options_of_another_format(self, corpus: Path) -> None:
        source = write(corpus / "nemo.jsonl", {"audio_filepath": "audio/a.wav"})
        assert "--column is for tables" in refused(source, columns={"text": "x"})[0]
        assert "there is no format 'wave'" in refused(source, format="wave")[0]
        assert "there is no such folder" in refused(source, audio_root=corpus / "none")[0]


class TestWriting:
    def test_nothing_is_overwritten(self, corpus: Path) -> None:
        source = write(corpus / "nemo.jsonl", {"audio_filepath": "audio/a.wav"})
        (corpus / "manifest.jsonl").write_text("mine")
        with pytest.raises(DataError, match="exists already; remove it or choose another name"):
            import_data(source, corpus / "manifest.jsonl")
        assert (corpus / "manifest.jsonl").read_text() == "mine"

    def test_paths_lead_from_the_manifest(self, corpus: Path) -> None:
        source = write(corpus / "nemo.jsonl", {"audio_filepath": "audio/a.wav"})
        for output in (corpus / "audio/m.jsonl", corpus / "new/deep/m.jsonl"):
            import_data(source, output)
            (one,) = read_manifest(output)
            assert not Path(json.loads(output.read_text())["audio_filepath"]).is_absolute()
            assert one.audio_filepath.samefile(corpus / "audio/a.wav")

    def test_paths_past_links(self, corpus: Path) -> None:
        """`..` after a link leads to the target's parent."""
        (corpus / "there/below").mkdir(parents=True)
        (corpus / "link").symlink_to(corpus / "there/below")
        source = write(corpus / "nemo.jsonl", {"audio_filepath": "audio/a.wav"})
        import_data(source, corpus / "link/m.jsonl")
        assert read_manifest(corpus / "link/m.jsonl")[0].audio_filepath.samefile(corpus / "audio/a.wav")

    def test_paths_that_go_through_a_link_and_back(self, corpus: Path) -> None:
        (corpus / "there/below").mkdir(parents=True)
        (corpus / "link").symlink_to(corpus / "there/below")
        encode(corpus / "there/a.wav", burst(0.5, RATE), RATE)
        source = write(corpus / "nemo.jsonl", {"audio_filepath": "link/../a.wav"})
        lines, _ = bring(source)
        assert lines[0] == {"audio_filepath": "there/a.wav", "duration": 0.5}

    def test_all_dropped(self, corpus: Path) -> None:
        source = write(corpus / "x.stm", "audio/a 1 x 0 1 ignore_time_segment_in_scoring")
        assert "gives no utterance: all dropped: ignore_time_segment_in_scoring (1)" in refused(source)[0]

    def test_without_a_look_at_the_recordings(self, corpus: Path) -> None:
        source = write(
            corpus / "nemo.jsonl", {"audio_filepath": "elsewhere/a.wav", "duration": 2}, {"audio_filepath": "b"}
        )
        lines, done = bring(source, measure=False)
        assert lines == [{"audio_filepath": "elsewhere/a.wav", "duration": 2.0}, {"audio_filepath": "b"}]
        assert done.seconds is None

    def test_a_disk_that_is_full(self, corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        import os

        def full(descriptor: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        source = write(corpus / "nemo.jsonl", {"audio_filepath": "audio/a.wav"})
        before = sorted(corpus.iterdir())
        with pytest.raises(DataError, match="cannot write .*No space left on device"):
            import_data(source, corpus / "m.jsonl")
        assert sorted(corpus.iterdir()) == before
