"""``nuebridge data`` from its command line: what it prints, and how it ends."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from nuebridge.cli import main
from nuebridge.cli._data import Depth, Format
from nuebridge.data import read_manifest
from nuebridge.data.checking import Depth as Depths
from nuebridge.data.importing import READERS
from tests.recordings import encode

RATE = 8000


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A table of eight recordings of four speakers; the working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clips").mkdir()
    rows = ["path,sentence,client_id"]
    for index in range(8):
        samples = np.random.default_rng(index).uniform(-0.3, 0.3, (RATE // 2, 1))
        encode(tmp_path / f"clips/{index}.wav", samples, RATE)
        rows.append(f"{index}.wav,sentence {index},speaker{index // 2}")
    (tmp_path / "table.csv").write_text("\n".join(rows) + "\n")
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of ``nuebridge data``."""
    with pytest.raises(SystemExit) as left:
        main(["data", *words])
    printed = capsys.readouterr()
    assert "Traceback" not in printed.err
    return int(left.value.code or 0), printed.out, printed.err


def test_from_a_table_to_checked_splits(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "import", "table.csv", "--audio-root", "clips", "--output", "all.jsonl") == (
        0,
        "all.jsonl: 8 utterances, 4.0 s (table)\n",
        "",
    )
    status, out, err = run(capsys, "split", "all.jsonl", "--output", "parts", "--test", "25%")
    assert (status, err) == (0, "")
    assert out.splitlines() == [
        "parts/train.jsonl  6 utterances  3.0 s  3 speakers  (asked for: the rest)",
        "parts/test.jsonl   2 utterances  1.0 s  1 speakers  (asked for: 25.0%)",
    ]
    status, out, err = run(capsys, "check", "parts/train.jsonl", "--against", "parts/test.jsonl", "--audio", "decode")
    assert (status, err) == (0, "")
    assert "utterances    6 (3.0 s)\nrecordings    6 files, 6 of 8000 Hz\n" in out and out.endswith("\nno faults\n")

    status, out, _ = run(capsys, "check", "all.jsonl", "--against", "parts/test.jsonl")
    assert status == 1
    assert "fault: overlap-audio (2): audio of the test data" in out
    assert "fault: overlap-speaker (2): speakers of the test data" in out
    assert out.endswith("\n6 faults\n")


def test_json(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (corpus / "table.csv").open("a").write("9.wav,gone,speaker9\n")
    words = ("import", "table.csv", "--audio-root", "clips", "--output", "all.jsonl", "--json")
    status, out, err = run(capsys, *words)
    assert (status, out) == (2, "")
    assert err.startswith("error: table.csv:10: there is no recording clips/9.wav")
    status, out, err = run(capsys, *words, "--skip-faults")
    data = json.loads(out)
    assert (data["utterances"], data["seconds"], data["format"]) == (8, 4.0, "table")
    assert [name.partition(": ")[0] for name in data["dropped"]["faulty"]] == ["table.csv:10"]

    data = json.loads(run(capsys, "check", "all.jsonl", "--json")[1])
    assert data["ok"] and data["findings"] == [] and data["statistics"]["utterances"] == 8
    data = json.loads(run(capsys, "split", "all.jsonl", "--output", "p", "--dev", "4", "--by-utterances", "--json")[1])
    assert data["parts"]["dev"] == {
        "manifest": "p/dev.jsonl",
        "asked": "4 utterances",
        "utterances": 4,
        "seconds": 2.0,
        "groups": 2,
        "speakers": 2,
    }


def test_what_is_left_out_is_told(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [f"{n} 1 x 0 0.4 words {n}" for n in range(8)]
    lines += [f"{n} 1 x 0.4 0.5 ignore_time_segment_in_scoring" for n in range(8)]
    (corpus / "clips/x.stm").write_text("\n".join(lines))
    status, out, err = run(capsys, "import", "clips/x.stm", "--output", "all.jsonl")
    assert (status, out) == (0, "all.jsonl: 8 utterances, 3.2 s (stm)\n")
    places = ", ".join(f"clips/x.stm:{number}" for number in range(9, 14))
    assert err == f"warning: dropped 8: ignore_time_segment_in_scoring ({places}, and 3 more)\n"
    status, out, err = run(
        capsys, "split", "all.jsonl", "--output", "p", "--train", "2", "--dev", "2", "--group-by", "x"
    )
    assert status == 0
    assert err == "warning: 4 utterances are in no part\n"


def test_findings_are_shown_and_cannot_steer_the_terminal(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [{"audio_filepath": f"clips/{n}.wav", "text": f"\x1b[2Jtext {n}" if n else ""} for n in range(8)]
    lines += [{"audio_filepath": "clips/\x1b[2J.wav", "text": "gone", "id": f"x{n}"} for n in range(7)]
    (corpus / "m.jsonl").write_text("\n".join(map(json.dumps, lines)))
    status, out, _ = run(capsys, "check", "m.jsonl", "--only-warn", "empty-text")
    assert status == 1
    assert "\x1b" not in out
    shown = out.splitlines()
    first = shown.index("fault: missing-audio (7): recordings that are not there")
    assert shown[first + 1] == "  m.jsonl (x0): 'clips/\\x1b[2J.wav': no such file"
    assert shown[first + 6] == "  (and 2 more)"
    assert shown.index("warning: empty-text (1): empty texts, but for silence") > first
    assert shown[-1] == "7 faults"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["import", "none", "--output", "m.jsonl"], "there is no none; give the file or folder to import"),
        (["import", "table.csv", "--output", "table.csv"], "table.csv exists already"),
        (["import", "table.csv", "--output", "m.jsonl", "--column", "text"], "write FIELD=COLUMN"),
        (["import", "table.csv", "--output", "m.jsonl", "--delimiter", "||"], "one character is needed"),
        (["check", "none.jsonl"], "there is no manifest none.jsonl"),
        (["check", "table.csv", "--only-warn", "all"], "there is no finding 'all'"),
        (["split", "table.csv", "--output", "p", "--dev", "some"], "the size 'some' is none; write a share"),
        (["split", "table.csv", "--output", "clips", "--dev", "5%"], "clips exists already and is not an empty folder"),
        (["split", "table.csv", "--output", "p", "--dev", "5%"], "table.csv:1: Expecting value"),
    ],
)
def test_mistakes_are_one_message(
    corpus: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    status, out, err = run(capsys, *words)
    assert (status, out) == (2, "")
    assert err.startswith("error: ") and said in err


def test_options_of_tables(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (corpus / "t.txt").write_text("0\tone\n1\ttwo\n")
    words = "--format table --delimiter \\t --header key,words --column audio_filepath=key --column text=words".split()
    assert run(capsys, "import", "t.txt", "--output", "m.jsonl", "--audio-root", "clips", *words)[0] == 0
    assert [one.text for one in read_manifest(corpus / "m.jsonl")] == ["one", "two"]
    words = ["import", "t.txt", "--output", "n.jsonl", "--no-measure", *words]
    assert run(capsys, *words)[1] == "n.jsonl: 2 utterances (table)\n"


def test_choices_are_those_of_the_library() -> None:
    assert [one.value for one in Format] == list(READERS)
    assert {one.value for one in Depth} == set(Depths.__args__)
