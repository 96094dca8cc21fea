"""``nuebridge demo``: serves the page on this machine. Knows the command line; gradio is imported when it runs."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Annotated

import typer


def demo(
    ctx: typer.Context,
    model: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Integration to offer besides those at hand: registry name, folder or hub id; may be given more "
            "than once, and the first is chosen when the page opens.",
        ),
    ] = None,
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Port to listen on [default: the first free one from 7860].")
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 lets other machines use the page.")
    ] = "127.0.0.1",
    device: Annotated[str, typer.Option(help="Where to compute: cpu, cuda, cuda:1, mps.")] = "cpu",
    registry: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="A registry file above all others; may be given more than once."),
    ] = None,
) -> None:
    """Open a web page where a clip can be dropped or recorded and an integration chosen.

    Everything stays on this machine; recordings are deleted when the page ends (Ctrl-C).
    """
    from nuebridge.checkpoint import check_device

    check_device(device)
    workshop = ctx.obj.workshop(registry)
    # gradio's own folder is shared by all users of the machine and never emptied.
    with tempfile.TemporaryDirectory(prefix="nuebridge-demo-") as uploads:
        os.environ["GRADIO_TEMP_DIR"] = uploads

        from nuebridge_demo.page import build_demo, launch

        page = build_demo(workshop, model or (), device=device)
        url = launch(page, host=host, port=port)
        typer.echo(f"the demo is at {url} (Ctrl-C ends it)")
        page.block_thread()
