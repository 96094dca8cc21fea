"""What the host knows of a plugin and of each component."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from nuebridge import config
from nuebridge.errors import PluginError
from nuebridge.hookspecs import (
    BenchBaseline,
    BridgeComponent,
    CheckpointFormat,
    CliCommand,
    Component,
    RegistryFile,
    SpeechEncoderComponent,
    TextDecoderComponent,
)

if TYPE_CHECKING:
    from pydantic import BaseModel

C = TypeVar("C", bound=Component)

PluginState = Literal["loaded", "failed", "incompatible", "conflict", "disabled"]

HOOKS: Mapping[str, type[Component]] = {
    "nuebridge_speech_encoders": SpeechEncoderComponent,
    "nuebridge_bridges": BridgeComponent,
    "nuebridge_text_decoders": TextDecoderComponent,
    "nuebridge_checkpoint_formats": CheckpointFormat,
    "nuebridge_registry_files": RegistryFile,
    "nuebridge_cli_commands": CliCommand,
    "nuebridge_bench_baselines": BenchBaseline,
}
"""Every hook and the records it returns, in the order in which ``nuebridge plugins`` lists them."""


@dataclass(frozen=True)
class ComponentRef(Generic[C]):
    """A component and where it comes from; nothing of it is imported yet."""

    id: str
    """``PLUGIN.NAME``."""
    record: C
    plugin: str
    distribution: str
    version: str
    """Version of the distribution."""

    def load(self) -> Any:
        """The implementation. Raises PluginError that names the plugin and the cause."""
        try:
            implementation = self.record.load()
        except (Exception, SystemExit) as error:
            raise PluginError(f"{self._who} could not load {self.id!r}: {cause_of(error)}") from error
        if isinstance(self.record, RegistryFile):
            right, wanted = isinstance(implementation, Path), "a pathlib.Path"
        elif isinstance(self.record, (BenchBaseline, CheckpointFormat, CliCommand)):
            right, wanted = callable(implementation), "a function"
        else:
            right, wanted = isinstance(implementation, type), "a class"
        if not right:
            raise PluginError(f"{self._who}: load() of {self.id!r} must return {wanted}, not {implementation!r}")
        return implementation

    def parse_options(self, options: Mapping[str, Any]) -> BaseModel:
        """The options as the component's own model. Raises ConfigError with all that is wrong."""
        return config.validate(options, self.options_model, f"options of {self.id}")

    @property
    def options_model(self) -> type[BaseModel]:
        """The pydantic model of the component's options."""
        from nuebridge.settings import NoOptions

        return self.record.options or NoOptions

    @property
    def _who(self) -> str:
        return f"plugin {self.plugin!r} ({self.distribution} {self.version})"


@dataclass(frozen=True)
class PluginReport:
    """What became of one plugin of one distribution."""

    name: str
    distribution: str
    version: str
    state: PluginState
    reason: str | None = None
    """Why it is not in use, one line; None for a loaded one."""
    components: tuple[ComponentRef[Component], ...] = ()
    cause: BaseException | None = field(default=None, repr=False, compare=False)

    @property
    def who(self) -> str:
        """For messages: plugin, distribution and version."""
        return f"plugin {self.name!r} ({self.distribution} {self.version})"


def cause_of(error: BaseException | None) -> str:
    """Kind and message of an exception, in one line."""
    return one_line(f"{type(error).__name__}: {error}").rstrip(": ")


def one_line(text: str) -> str:
    """A text without line breaks."""
    return " ".join(text.split())
