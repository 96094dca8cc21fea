"""tiny-en: a registry file, weights and a sample clip; no code of its own."""

from __future__ import annotations

from pathlib import Path

from nuebridge.hookspecs import RegistryFile, hookimpl

_HERE = Path(__file__).parent


@hookimpl
def nuebridge_registry_files() -> list[RegistryFile]:
    """The registry file beside this module."""
    return [
        RegistryFile(
            name="tiny-en",
            summary="tiny-en, English on a CPU: the integration that is used where none is named.",
            load=lambda: _HERE / "registry.yaml",
        )
    ]
