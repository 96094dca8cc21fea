from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from nuebridge.config import validate
from nuebridge.train.config import TrainConfig
from nuebridge.train.step import Stepper
from nuebridge.train.stopping import TrainingStopped
from nuebridge.train.summary import SUMMARY_FILE, short_count, write_summary
from nuebridge.train.summary.charts import MISSING, Series, chart, number, thinned, ticks
from nuebridge.train.summary.page import render

Configure = Callable[..., TrainConfig]
Run = Callable[..., Path]
VOID = {"meta", "line", "circle", "polyline", "br"}


class Page(HTMLParser):
    """A page that is read strictly: every element is closed where it should be."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def lines(**validation: Any) -> list[dict[str, Any]]:
    """The record of a short run."""
    part = {"component": "toy.bridge", "parameters": 12345, "trained": 345}
    start = {
        "kind": "start", "step": 0, "stage": "train", "minutes": 0.0, "time": "2030-01-02T03:04:05+00:00",
        "stage_steps": 7, "processes": 2, "hardware": "a processor, 1 thread", "utterances": 1200,
        "left_out": ["left out 3 of 1203 utterances longer than 20.0 s"], "parts": {"bridge": part},
    }  # fmt: skip
    train = [
        {
            "kind": "train", "step": step, "stage": "train", "minutes": step * 30.0, "loss": 4.0 / step,
            "learning_rate": {"bridge": 0.001 * step}, "audio_seconds_per_second": 50.0, "memory_gigabytes": 1.5,
            "data_wait_share": 0.25, "gradient_norm": 1.0,
        }
        for step in (1, 2, 3)
    ]  # fmt: skip
    figures = {"wer": 0.5, "cer": 0.25, "ctc_cer": None, "loss": 2.5, "audio_gain": 1.5, "samples": [["a b", "a c"]]}
    last = {"kind": "validation", "step": 3, "stage": "train", "minutes": 90.0, **figures, **validation}
    return [start, *train, last]


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    data = {"model": "mine", "output": str(tmp_path), "data": {"train": "t.jsonl"}, "schedule": {"steps": 7}}
    return validate(data, TrainConfig, "test")


# --- the page --------------------------------------------------------------------------------------


def test_what_the_page_says(config: TrainConfig) -> None:
    page = Page(render(config, lines(), "running"))
    for said in (
        "training of mine", "step 3 of 7 · running", "50.0 %best word error rate", "25.0 %best character error rate",
        "1.5audio gain, nats a token", "1 h 30 min", "left out 3 of 1203 utterances longer than 20.0 s",
        "1,200 utterances", "a processor, 1 thread", "2030-01-02 03:04 UTC", "12,345", "345", "a b", "a c",
        "steps: 7", "weight_decay: 0.01", "25.0 %share of time waiting for data",
    ):  # fmt: skip
        assert said in page.text, said
    titles = re.findall(r"<figcaption>(.*?) <", render(config, lines(), "running"))
    assert ", ".join(titles) == (
        "Losses, Validation scores, Audio gain, Learning rates, Gradient norm, Throughput, Waiting for data, Memory"
    )
    assert "does not listen" not in page.text
    assert "the decoder does not listen yet" in Page(render(config, lines(audio_gain=0.001), "running")).text


def test_nothing_comes_from_elsewhere(config: TrainConfig) -> None:
    text = render(config, lines(), "running")
    page = Page(text)
    assert not {tag for tag, _ in page.elements} & {"script", "link", "img", "iframe", "object", "base", "form"}
    assert not [name for _, attributes in page.elements for name in attributes if name in ("src", "href", "style")]
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    assert "url(" not in text and "@import" not in text and "http" not in text


def test_texts_are_escaped(tmp_path: Path) -> None:
    bad = "<script>alert('1')<b>\"&"
    data = {"model": bad, "output": str(tmp_path / "<b>run"), "data": {"train": bad}, "schedule": {"steps": 7}}
    record = lines(samples=[[bad, bad]])
    record[0].update(left_out=[bad], hardware=bad, stage=bad)
    record[0]["parts"] = {bad: {"component": bad, "parameters": 1, "trained": 1}}
    for line in record[1:4]:
        line["learning_rate"] = {bad: 0.1}
    stages = [{**record[0], "stage": bad * 2, "step": 2}]
    text = render(validate(data, TrainConfig, "test"), [*record[:3], *stages, *record[3:]], bad)
    page = Page(text)
    tags = {"html", "head", "meta", "title", "style", "body", "main", "header", "h1", "h2", "p", "progress", "ul", "li"}
    tags |= {"b", "span", "div", "figure", "figcaption", "small", "i", "svg", "line", "text", "polyline", "circle"}
    tags |= {"table", "thead", "tbody", "tr", "th", "td", "pre", "details", "summary"}
    assert {tag for tag, _ in page.elements} <= tags
    assert page.text.count(bad) >= 8 and "<script" not in text and "<b>run" not in text


def test_stages_have_their_lines(config: TrainConfig) -> None:
    record = lines()
    record.insert(3, {**record[0], "stage": "second", "step": 2})
    text = render(config, record, "running")
    assert text.count('<line class="mark"') == 8 and ">second</text>" in text
    assert "trained in train" in Page(text).text and "trained in second" in Page(text).text
    assert '<line class="mark"' not in render(config, lines(), "running")


def test_before_anything_is_known(config: TrainConfig) -> None:
    page = Page(render(config, [], "running"))
    assert "step 0 of 7" in page.text and page.all("svg") == []
    Page(render(config, lines()[:1], "running"))
    Page(render(config, lines(wer=None, cer=None, loss=None, audio_gain=None, samples=[]), "running"))


def test_earlier_samples_are_folded_away(config: TrainConfig) -> None:
    record = lines()
    record += [{**record[-1], "step": 4 + index, "samples": [["x", f"heard {index}"]]} for index in range(30)]
    page = Page(render(config, record, "running"))
    assert "after step 33" in page.text and "heard 29" in page.text and "Earlier (20, the last so many)" in page.text
    assert "heard 9" in page.text and "heard 8step" not in page.text and page.text.count("heard") == 21
    assert [attributes for attributes in page.all("details") if "open" in attributes] == []


def test_a_page_that_cannot_be_written(config: TrainConfig, caplog: pytest.LogCaptureFixture) -> None:
    (config.output / SUMMARY_FILE).mkdir()
    write_summary(config, "running")
    assert f"cannot write {config.output / SUMMARY_FILE}" in caplog.text


def test_counts_in_words() -> None:
    assert [short_count(n) for n in (0, 999, 1000, 34_100, 5_750_500, 3_600_000_000)] == [
        "0", "999", "1 k", "34.1 k", "5.75 M", "3.6 B",
    ]  # fmt: skip


# --- of a run --------------------------------------------------------------------------------------


def test_it_is_written_at_each_validation_and_at_the_end(
    run: Run, corpus: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: list[str] = []
    step = Stepper._step

    def looking(self: Any, *args: Any) -> Any:
        file = tmp_path / "run" / SUMMARY_FILE
        seen.append(file.read_text() if file.is_file() else "")
        return step(self, *args)

    monkeypatch.setattr(Stepper, "_step", looking)
    output = run(data__validation=str(corpus), validation={"every_steps": 3})
    assert seen[:3] == ["", "", ""] and "step 3 of 7 · running" in seen[3] and "step 6 of 7 · running" in seen[6]
    text = (output / SUMMARY_FILE).read_text()
    page = Page(text)
    assert "step 7 of 7 · finished" in page.text and "low" in page.text and "toy.bridge" in page.text
    assert len(page.all("svg")) == 8 and str(corpus) in page.text
    assert [path for path in output.iterdir() if path.name.startswith(".summary")] == []


def test_how_a_run_left_is_on_it(run: Run, configure: Configure) -> None:
    with pytest.raises(TrainingStopped):
        run(stop_after_minutes=1e-9)
    file = configure().output / SUMMARY_FILE
    assert "step 1 of 7 · stopped, to be resumed" in Page(file.read_text()).text
    run(resume="auto")
    assert "step 7 of 7 · finished" in Page(file.read_text()).text


def test_a_run_that_fails_says_so(run: Run, configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    step = Stepper._step

    def failing(self: Any, *args: Any) -> Any:
        if args[1] == 2:
            raise ValueError("<no> more")
        return step(self, *args)

    monkeypatch.setattr(Stepper, "_step", failing)
    with pytest.raises(ValueError, match="more"):
        run()
    assert "step 2 of 7 · ended by an error: <no> more" in Page((configure().output / SUMMARY_FILE).read_text()).text


def test_a_summary_that_cannot_be_written_does_not_end_the_run(
    run: Run, configure: Configure, caplog: pytest.LogCaptureFixture
) -> None:
    output = configure().output
    (output / SUMMARY_FILE).mkdir(parents=True)
    with caplog.at_level(logging.WARNING):
        run(schedule={"steps": 1})
    assert "cannot write" in caplog.text and (output / "final/config.json").is_file()


# --- curves ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0.3, 7.9, [2, 4, 6]),
        (-1.2, 1.2, [-1, -0.5, 0, 0.5, 1]),
        (0, 0.0018, [0, 0.0005, 0.001, 0.0015]),
        (990, 1010, [990, 995, 1000, 1005, 1010]),
        (3, 3, [3]),
    ],
)
def test_ticks_are_round(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high) == expected


@pytest.mark.parametrize(
    ("value", "said"),
    [(0, "0"), (0.12345, "0.123"), (0.0031, "3.1e-3"), (2e-5, "2e-5"), (-0.5, "-0.5"), (7.0, "7"), (2.5e6, "2.5M")],
)
def test_numbers_are_short(value: float, said: str) -> None:
    assert number(value) == said


def test_thinning_keeps_means_and_ends() -> None:
    points = [(float(step), float(step % 2)) for step in range(1000)]
    thin = thinned(points, 100)
    assert len(thin) == 100 and thin[-1][0] == 999 and all(y == 0.5 for _, y in thin)
    assert thinned(points[:7], 100) == points[:7]


def places(svg: str, tag: str = "polyline") -> list[list[tuple[float, float]]]:
    return [
        [(float(x), float(y)) for x, y in (pair.split(",") for pair in found.split())]
        for found in re.findall(rf'<{tag} class="s\d" points="([^"]+)"', svg)
    ]


def test_a_curve_lies_where_it_should() -> None:
    drawn = chart("T", "u", [Series("a", [(0, 0.0), (50, 5.0), (100, 10.0)])], last_step=100, zero=True)
    ((first, middle, last),) = places(drawn)
    assert first[0] < middle[0] < last[0] and first[1] > middle[1] > last[1]
    assert middle[0] == pytest.approx((first[0] + last[0]) / 2, abs=0.1)
    assert middle[1] == pytest.approx((first[1] + last[1]) / 2, abs=0.1)
    assert "<b>10</b>" in drawn and 'aria-label="T: a 0 to 10"' in drawn


def test_gaps_are_left_open() -> None:
    points = [(1, 1.0), (2, MISSING), (3, 2.0), (4, 3.0), (5, math.inf)]
    runs = places(chart("T", "", [Series("a", points)], last_step=5))
    assert [len(run) for run in runs] == [1, 2]
    assert chart("T", "", [Series("a", [(1, MISSING)]), Series("b", [])], last_step=5) == ""


def test_a_logarithmic_axis_where_values_lie_far_apart() -> None:
    wide, near = [(1, 100.0), (2, 10.0), (3, 1.0)], [(1, 4.0), (2, 3.0), (3, 2.0)]
    drawn = chart("T", "", [Series("a", wide)], last_step=3, log=True)
    ((a, b, c),) = places(drawn)
    assert "logarithmic" in drawn and b[1] - a[1] == pytest.approx(c[1] - b[1], abs=0.2)
    assert "logarithmic" not in chart("T", "", [Series("a", near)], last_step=3, log=True)
    assert "logarithmic" not in chart("T", "", [Series("a", [*wide, (4, -1.0)])], last_step=4, log=True)


@pytest.mark.parametrize("points", [[(1, 0.0)], [(1, 3.0), (2, 3.0)], [(7, -2.0)], [(1, 1e-9), (2, 1e9)]])
def test_whatever_is_measured_can_be_drawn(points: list[tuple[float, float]]) -> None:
    for zero in (True, False):
        for log in (True, False):
            drawn = chart("T", "u", [Series("a", points)], last_step=points[-1][0], zero=zero, log=log)
            Page(drawn)
            assert all(0 <= x <= 360 and 0 <= y <= 210 for run in places(drawn) for x, y in run)


def test_names_of_stages_do_not_overlap() -> None:
    marks = [(0.0, "first"), (10.0, "second"), (60.0, "third")]
    drawn = chart("T", "", [Series("a", [(1, 1.0), (100, 2.0)])], last_step=100, marks=marks)
    rows = {name: float(y) for y, name in re.findall(r'<text class="mark" x="[\d.]+" y="([\d.]+)">(\w+)<', drawn)}
    assert rows["first"] < rows["second"] and rows["third"] == rows["first"]


def test_the_record_of_this_file_is_like_a_real_one(run: Run, corpus: Path) -> None:
    """So that what the tests above draw is what runs write."""
    output = run(data__validation=str(corpus), schedule={"steps": 2})
    real = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    for line in lines():
        keys = next(set(one) for one in real if one["kind"] == line["kind"])
        assert set(line) <= keys
