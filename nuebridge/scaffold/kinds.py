"""What a new package can offer, one kind for each hook, and what each brings along."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

TORCH = "torch>=2.9"


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One kind of component that a new package may have."""

    hook: str
    """The hook that offers it."""
    record: str
    """The class in :mod:`nuebridge.hookspecs` that the hook returns."""
    component: str
    """The component's own name, with ``$plugin`` for the plugin's."""
    summary: str
    """What the package's README says of it."""
    files: tuple[str, ...]
    """Templates below ``templates/`` that become files of the package's module."""
    tests: tuple[str, ...]
    """Templates below ``templates/tests/``."""
    requires: tuple[str, ...] = ()
    """What it imports besides nuebridge, as pyproject.toml says it."""
    brings: tuple[str, ...] = ()
    """Kinds that it needs to be of use, or to be tested."""
    typing_imports: tuple[str, ...] = ()
    """What its hook's annotations name: ``module.Name``; imported for type checkers alone."""


_EXAMPLES = ("collections.abc.Callable", "collections.abc.Mapping", "pathlib.Path")

KINDS: Mapping[str, Kind] = {
    "encoder": Kind(
        hook="nuebridge_speech_encoders",
        record="SpeechEncoderComponent",
        component="log-mel",
        summary="a speech encoder: log-mel frames, a linear layer and a residual one",
        files=("sources.py", "encoder.py"),
        tests=("test_encoder.py",),
        requires=("pydantic>=2.11,<3", TORCH),
        typing_imports=(*_EXAMPLES, "nuebridge.contracts.SpeechEncoder"),
    ),
    "bridge": Kind(
        hook="nuebridge_bridges",
        record="BridgeComponent",
        component="gated-linear",
        summary="a bridge: neighbouring frames side by side and a gated linear layer",
        files=("options.py", "bridge.py"),
        tests=("test_bridge.py",),
        requires=("pydantic>=2.11,<3", TORCH),
        typing_imports=("nuebridge.contracts.Bridge",),
    ),
    "decoder": Kind(
        hook="nuebridge_text_decoders",
        record="TextDecoderComponent",
        component="byte-gru",
        summary="a text decoder: a GRU over the bytes of a text",
        files=("sources.py", "decoder.py"),
        tests=("test_decoder.py",),
        requires=("pydantic>=2.11,<3", TORCH),
        typing_imports=(*_EXAMPLES, "nuebridge.contracts.TextDecoder"),
    ),
    "checkpoint-format": Kind(
        hook="nuebridge_checkpoint_formats",
        record="CheckpointFormat",
        component="flat",
        summary="a checkpoint format: folders with all parts in one file of weights load as they are",
        files=("checkpoint_format.py",),
        tests=("conftest.py", "test_checkpoint_format.py"),
        requires=(TORCH,),
        brings=("encoder", "bridge", "decoder"),
        typing_imports=(
            *_EXAMPLES,
            "typing.Any",
            "nuebridge.model.Integration",
            "nuebridge.plugins.PluginManager",
        ),
    ),
    "registry-file": Kind(
        hook="nuebridge_registry_files",
        record="RegistryFile",
        component="registry",
        summary="a registry file: names for what comes with the package",
        files=("registry.yaml",),
        tests=("test_registry_file.py",),
    ),
    "command": Kind(
        hook="nuebridge_cli_commands",
        record="CliCommand",
        component="$plugin-loudness",
        summary="a command: how long and how loud recordings are",
        files=("command.py",),
        tests=("test_command.py",),
        requires=("numpy>=2.0", "typer>=0.19.2"),
        typing_imports=("collections.abc.Callable",),
    ),
    "bench-baseline": Kind(
        hook="nuebridge_bench_baselines",
        record="BenchBaseline",
        component="plain-loop",
        summary="a baseline for `nuebridge bench train`: a plain PyTorch training loop",
        files=("baseline.py",),
        tests=("conftest.py", "test_baseline.py"),
        requires=(TORCH,),
        brings=("encoder", "bridge", "decoder"),
        typing_imports=("collections.abc.Callable", "nuebridge.bench.TrainingWork"),
    ),
}
"""By the name of the option that asks for it, in the order of the hooks."""
