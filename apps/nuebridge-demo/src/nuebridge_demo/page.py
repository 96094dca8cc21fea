"""The page: a clip and an integration go in, the text comes out. Knows gradio; all else is in ``models``.

Nothing is fetched from elsewhere and nothing is sent: no fonts, no analytics, no history of runs.
"""

from __future__ import annotations

import html
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from nuebridge.compose import Workshop
from nuebridge.errors import ConfigError, NuebridgeError
from nuebridge_demo.models import Models

# gradio reads this while it is imported.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

import gradio as gr

MAX_FILE_SIZE = "100mb"
"""Of a recording: nine hours of mp3 at 24 kbit/s, or nine minutes of stereo wav at 48 kHz."""

MAX_BEAM_SIZE = 8

KEEP_UPLOADS_SECONDS = 3600
"""Recordings are deleted after this long; when the page ends, all of them are."""

MESSAGE_SECONDS = 20
"""An error message leaves the page after this long, or when it is closed."""

FIRST_PORT, LAST_PORT = 7860, 7959
"""Where a port is looked for unless one is given."""

_FONTS = ("system-ui", "sans-serif")
_MONOSPACED = ("ui-monospace", "monospace")

_LOG = logging.getLogger(__name__)


def build_demo(workshop: Workshop, models: Sequence[str] = (), *, device: str = "cpu") -> gr.Blocks:
    """The page, not yet served; :func:`launch` serves it.

    It offers the integrations of ``models`` (registry names, folders or hub ids) and those of the
    registry whose weights are on this machine. Raises RegistryError for a name that cannot be an
    integration, and where there is nothing to offer.
    """
    offered = Models(workshop, models, device=device)
    samples = {name: choice.sample for name, choice in offered.choices.items() if choice.sample is not None}
    # Served from where they are: they belong to the page, not to a visitor.
    gr.set_static_paths(list(samples.values()))

    def transcribe(
        audio: str | None,
        model: str,
        beam_size: float = 1,
        progress: gr.Progress = gr.Progress(),  # noqa: B008  gradio looks for it among the defaults
    ) -> tuple[str, float, float, float | None, str]:
        """Text of a clip, its duration (s), the time taken (s), the real-time factor, and warnings, one a line."""
        if audio is None:
            raise _shown("Drop or record a clip first.")
        with _as_messages(model, Path(audio)):
            progress(None, desc=f"loading {model}")
            offered.recognizer(model)
            progress(None, desc="transcribing")
            heard = offered.transcribe(model, Path(audio), beam_size=int(beam_size))
        transcript = heard.transcript
        return transcript.text, transcript.duration, heard.seconds, heard.rtf, "\n".join(transcript.warnings)

    def sample(model: str) -> str:
        """The sample recording of an integration."""
        if model not in samples:
            raise _shown(f"{model} comes without a sample recording.")
        return str(samples[model])

    page = gr.Blocks(
        title="nuebridge", analytics_enabled=False, delete_cache=(KEEP_UPLOADS_SECONDS // 6, KEEP_UPLOADS_SECONDS)
    )
    with page:
        gr.Markdown("# nuebridge\nDrop or record a clip, choose an integration, read the text.")
        with gr.Row():  # of two columns; on a phone the second goes below the first
            with gr.Column(min_width=300):
                audio = gr.Audio(label="Clip", sources=["upload", "microphone"], type="filepath", buttons=[])
                use_sample = gr.Button("Use the sample recording", size="sm", visible=offered.default in samples)
                model = gr.Dropdown(list(offered.choices), value=offered.default, label="Integration", filterable=False)
                beam_size = gr.Slider(
                    1, MAX_BEAM_SIZE, value=1, step=1, label="Beam size", info="1 = greedy; more is slower."
                )
                button = gr.Button("Transcribe", variant="primary")
            with gr.Column(min_width=300):
                text = gr.Textbox(label="Text", lines=5, interactive=False, buttons=["copy"])
                with gr.Row(visible=False) as figures:
                    duration = gr.Number(label="Duration (s)", precision=2, min_width=110)
                    seconds = gr.Number(label="Time taken (s)", precision=2, min_width=110)
                    rtf = gr.Number(label="Real-time factor", precision=3, min_width=110)
                warnings = gr.Textbox(label="Warnings", interactive=False, visible=False)
        clicked = button.click(
            transcribe,
            [audio, model, beam_size],
            [text, duration, seconds, rtf, warnings],
            api_name="transcribe",
            scroll_to_output=True,
            show_progress_on=text,
        )
        clicked.success(
            lambda lines: (gr.Row(visible=True), gr.Textbox(visible=bool(lines))),
            warnings,
            [figures, warnings],
            queue=False,
            show_progress="hidden",
            api_visibility="private",
        )
        clicked.failure(  # what stands there belongs to an earlier clip
            lambda: (gr.Textbox(""), gr.Row(visible=False), gr.Textbox(visible=False)),
            None,
            [text, figures, warnings],
            queue=False,
            show_progress="hidden",
            api_visibility="private",
        )
        use_sample.click(sample, model, audio, api_name="sample", queue=False)
        model.change(
            lambda name: gr.Button(visible=name in samples),
            model,
            use_sample,
            queue=False,
            show_progress="hidden",
            api_visibility="private",
        )
    page.queue(default_concurrency_limit=1, max_size=20)
    return page


def launch(page: gr.Blocks, *, host: str = "127.0.0.1", port: int | None = None) -> str:
    """Serves the page from a thread of its own and returns its address; ``page.close()`` ends it.

    Raises ConfigError where host and port cannot be listened on.
    """
    _reach_directly(host)
    theme = gr.themes.Default(font=_FONTS, font_mono=_MONOSPACED)
    try:
        _, url, _ = page.launch(
            server_name=host,
            server_port=port,
            theme=theme,
            prevent_thread_lock=True,
            quiet=True,
            share=False,
            inbrowser=False,
            show_error=False,
            max_file_size=MAX_FILE_SIZE,
            run_history=False,
            footer_links=[],
            enable_monitoring=False,
            mcp_server=False,
            pwa=False,
            ssr_mode=False,
        )
    except OSError as error:
        ports = f"port {port}" if port is not None else f"ports {FIRST_PORT} to {LAST_PORT}"
        raise ConfigError(
            f"cannot listen on {host}, {ports}: in use or not allowed; choose others with --host and --port"
        ) from error
    return url


def _reach_directly(host: str) -> None:
    """gradio asks its own page whether it is up; a proxy for the outside must not stand between."""
    for variable in ("no_proxy", "NO_PROXY"):
        hosts = [name for name in os.environ.get(variable, "").split(",") if name]
        os.environ[variable] = ",".join(dict.fromkeys([*hosts, "localhost", "127.0.0.1", host]))


def _shown(message: str) -> gr.Error:
    """A message on the page, which shows HTML; what came from a visitor is to stay text."""
    return gr.Error(html.escape(message, quote=False), duration=MESSAGE_SECONDS, print_exception=False)


@contextmanager
def _as_messages(model: str, recording: Path) -> Iterator[None]:
    """Turns errors within the block into messages for the visitor; the unexpected ones are logged as well."""
    try:
        yield
    except NuebridgeError as error:
        # The folder of an upload says nothing to whoever dropped the file.
        raise _shown(str(error).replace(str(recording), recording.name)) from error
    except Exception as error:
        _LOG.exception("%s failed on %s", model, recording)
        raise _shown(
            f"{model} failed on this clip ({type(error).__name__}); "
            "the terminal that the page was started from says more"
        ) from error
