"""Distributions as pip leaves them in site-packages: a module, and metadata beside it. Nothing is faked."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path


class Site:
    """A folder on ``sys.path`` into which distributions are installed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def path(self) -> list[str]:
        return [str(self.folder)]

    def install(
        self,
        distribution: str,
        entry_points: Mapping[str, str],
        modules: Mapping[str, str],
        version: str = "1.0.0",
    ) -> None:
        """Entry points of the group ``nuebridge`` by name; sources of modules by file name."""
        for name, source in modules.items():
            file = self.folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(source, encoding="utf-8")
        info = self.folder / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        files = {
            "METADATA": f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n",
            "entry_points.txt": "[nuebridge]\n" + "".join(f"{name} = {to}\n" for name, to in entry_points.items()),
        }
        files["RECORD"] = "".join(f"{name},,\n" for name in [*modules, *(f"{info.name}/{file}" for file in files)])
        for name, text in files.items():
            (info / name).write_text(text, encoding="utf-8")
        importlib.invalidate_caches()

    def plugin(self, name: str, source: str, distribution: str | None = None, version: str = "1.0.0") -> None:
        """A distribution of one module with one entry point, ``name``."""
        distribution = distribution or f"nuebridge-{name}"
        module = f"{distribution.replace('-', '_')}_entry"
        self.install(distribution, {name: module}, {f"{module}.py": source}, version)


@contextmanager
def temporary_site(folder: Path) -> Iterator[Site]:
    """A site that is on ``sys.path`` within the block; what was imported from it is forgotten afterwards."""
    before = set(sys.modules)
    sys.path.insert(0, str(folder))
    try:
        yield Site(folder)
    finally:
        sys.path.remove(str(folder))
        for name in set(sys.modules) - before:
            if str(folder) in str(getattr(sys.modules[name], "__file__", "")):
                del sys.modules[name]
        importlib.invalidate_caches()


def bridge(record: str = 'name="one", summary="A bridge.", load=lambda: dict') -> str:
    """The source of an entry module that offers one bridge."""
    return (
        "from nuebridge.hookspecs import BridgeComponent, hookimpl\n\n"
        f"@hookimpl\ndef nuebridge_bridges():\n    return [BridgeComponent({record})]\n"
    )
