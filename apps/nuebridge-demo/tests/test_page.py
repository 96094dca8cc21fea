"""The page as a visitor meets it: served for real and driven by gradio's own client."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urljoin

import gradio as gr
import httpx
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError

from nuebridge.checkpoint import load
from nuebridge.errors import ConfigError
from nuebridge_demo.page import build_demo, launch


@pytest.fixture(scope="module")
def broken(place, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of another schema."""
    folder = tmp_path_factory.mktemp("checkpoints") / "broken"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "nuebridge", "schema_version": 99}')
    return folder


@pytest.fixture(scope="module")
def url(place, broken: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("uploads")))
        # Nobody listens there: whatever the page wanted from outside, it would not get.
        for variable in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
            patch.setenv(variable, "http://127.0.0.1:9")
        patch.setenv("no_proxy", "")
        patch.setenv("NO_PROXY", "")
        page = build_demo(place.workshop, [str(broken), "toy-failing", "toy-trained"])
        yield launch(page)
        page.close()


@pytest.fixture(scope="module")
def client(url: str) -> Client:
    return Client(url, verbose=False)


def transcribe(client: Client, recording: Path | None, model: str = "toy-trained", beam_size: int = 1) -> tuple:
    audio = None if recording is None else handle_file(recording)
    return client.predict(audio=audio, model=model, beam_size=beam_size, api_name="/transcribe")


def message(client: Client, recording: Path | None, **options) -> str:
    """What the page says instead of a transcript."""
    with pytest.raises(AppError) as caught:
        transcribe(client, recording, **options)
    said = str(caught.value)
    assert "Traceback" not in said and "\n" not in said
    return said


def test_text_duration_time_and_warnings(client: Client, place) -> None:
    sample = place.folder / "sample.wav"
    integration = load(place.folder / "trained", manager=place.workshop.manager, registry=place.workshop.registry)
    (expected,) = integration.transcribe(sample)
    assert expected.text and expected.warnings
    text, duration, seconds, rtf, warnings = transcribe(client, sample)
    assert text == expected.text
    assert duration == 3.0
    assert seconds >= 0 and rtf == pytest.approx(seconds / duration, abs=0.003)
    assert warnings.splitlines() == list(expected.warnings)


def test_beam_size_reaches_the_search(client: Client, place) -> None:
    assert transcribe(client, place.folder / "sample.wav", beam_size=2)[0]
    assert "less than minimum value 1" in message(client, place.folder / "sample.wav", beam_size=0)


def test_silence_is_a_warning(client: Client, place) -> None:
    text, duration, _, _, warnings = transcribe(client, place.folder / "silence.wav")
    assert (text, duration) == ("", 0.5)
    assert warnings.startswith("silent:")


def test_a_file_that_is_not_audio(client: Client, tmp_path: Path) -> None:
    notes = tmp_path / "notes.wav"
    notes.write_text("milk, eggs, bread")
    assert message(client, notes) == "notes.wav: is not audio, or of a kind that cannot be read"


def test_an_empty_file(client: Client, tmp_path: Path) -> None:
    empty = tmp_path / "empty.wav"
    empty.touch()
    assert message(client, empty) == "empty.wav: is empty (0 bytes)"


def test_no_clip(client: Client) -> None:
    assert message(client, None) == "Drop or record a clip first."


def test_an_integration_that_cannot_be_loaded(client: Client, place) -> None:
    said = message(client, place.folder / "sample.wav", model="broken")
    assert "schema_version 99" in said
    # The others go on.
    assert transcribe(client, place.folder / "sample.wav")[1] == 3.0


def test_a_failure_that_nobody_foresaw(client: Client, place, caplog: pytest.LogCaptureFixture) -> None:
    said = message(client, place.folder / "sample.wav", model="toy-failing")
    assert said.startswith("toy-failing failed on this clip (MemoryError)")
    assert "cannot allocate 9 GB" in caplog.text


def test_only_what_is_offered(client: Client, place) -> None:
    assert "not in the list of choices" in message(client, place.folder / "sample.wav", model="toy-untrained")
    assert "not in the list of choices" in message(
        client, place.folder / "sample.wav", model=str(place.folder / "trained")
    )


def test_sample_recording(client: Client, place) -> None:
    fetched = client.predict(model="toy-trained", api_name="/sample")
    assert Path(fetched).read_bytes() == (place.folder / "sample.wav").read_bytes()
    with pytest.raises(AppError, match="broken comes without a sample"):
        client.predict(model="broken", api_name="/sample")


def post(url: str, path: Path) -> str:
    """What the page answers to a file named by its path on the server, which gradio's client would upload first."""
    data = [{"path": str(path), "meta": {"_type": "gradio.FileData"}}, "toy-trained", 1]
    with httpx.Client(trust_env=False, timeout=60) as http:
        event = http.post(f"{url}gradio_api/call/transcribe", json={"data": data}).raise_for_status().json()["event_id"]
        return http.get(f"{url}gradio_api/call/transcribe/{event}").text


def test_sample_as_the_browser_sends_it_back(url: str, client: Client, place) -> None:
    """A browser hands the file that the page gave it straight back, without an upload."""
    raw = Client(url, verbose=False, download_files=False)
    assert raw.predict(model="toy-trained", api_name="/sample")["path"] == str(place.folder / "sample.wav")
    answer = post(url, place.folder / "sample.wav")
    text = transcribe(client, place.folder / "sample.wav")[0]
    assert answer.startswith("event: complete") and json.dumps(text)[1:-1] in answer


def test_files_of_the_machine_stay_there(url: str, place) -> None:
    private = place.folder / "silence.wav"
    assert post(url, private).startswith("event: error")
    assert httpx.get(f"{url}gradio_api/file={private}", trust_env=False).status_code == 403


def test_nothing_from_elsewhere(url: str) -> None:
    with httpx.Client(trust_env=False) as http:
        config = http.get(f"{url}config").json()
        page = http.get(url).text
        theme = http.get(f"{url}theme.css").text
    assert config["analytics_enabled"] is False and config["run_history"] is False and config["footer_links"] == []
    assert config["max_file_size"] == 100 * 1024**2
    for sheet in config["stylesheets"]:
        assert urljoin(url, sheet).startswith(url)
    sources = re.findall(r"""<(?:script|link)[^>]*(?:src|href)=["']([^"']+)""", page)
    fetched = re.findall(r"""url\(["']?([^"')]+)|@import ["']([^"']+)""", theme)
    assert sources and fetched
    for target in [*sources, *(one or other for one, other in fetched)]:
        assert urljoin(url, target).startswith((url, "data:")), target


def test_several_clips_at_once(client: Client, place) -> None:
    sample = place.folder / "sample.wav"
    jobs = [
        client.submit(audio=handle_file(sample), model="toy-trained", beam_size=1, api_name="/transcribe")
        for _ in range(4)
    ]
    assert len({job.result(timeout=60)[0] for job in jobs}) == 1


def test_a_port_in_use(place) -> None:
    page = build_demo(place.workshop)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"cannot listen on 127.0.0.1, port {port}.*--port"):
            launch(page, port=port)


def test_the_default_is_chosen(place) -> None:
    page = build_demo(place.workshop)
    dropdowns = [block for block in page.blocks.values() if isinstance(block, gr.Dropdown)]
    assert [block.value for block in dropdowns] == ["toy-trained"]
    assert isinstance(page, gr.Blocks)
