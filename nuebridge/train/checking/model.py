"""What a check looks at in the integration: whether it opens, and what of it each stage trains."""

from __future__ import annotations

import copy

from nuebridge.checkpoint import outline
from nuebridge.compose import Workshop
from nuebridge.errors import NuebridgeError
from nuebridge.model import Integration
from nuebridge.train.checking.report import PartRow, Report, in_bytes
from nuebridge.train.config import PartConfig, PartsConfig, Stage, TrainConfig
from nuebridge.train.trainable import add_adapters, trainable_groups

UNTRAINED = PartConfig(train=False)
NOTHING_LEFT = "every part is frozen"
"""What is said where a part alone is not to be trained after all."""


def open_model(report: Report, source: str, workshop: Workshop) -> Integration | None:
    """The outline of the integration; what is wrong with it is reported."""
    try:
        integration = outline(source, workshop)
    except NuebridgeError as error:
        report.add("error", "model", str(error))
        return None
    loaded = [
        (name, sum(p.numel() for p in part.parameters()))
        for name, part in integration.parts.items()
        if not any(parameter.is_meta for parameter in part.parameters())
    ]
    said = "its weights were not read"
    if loaded:
        names = ", ".join(f"{name} ({in_bytes(4 * count)})" for name, count in loaded)
        said = f"loaded, since their plugin cannot tell without: {names}"
    report.add("ok", "model", f"{source}: {said}")
    return integration


def set_up(report: Report, integration: Integration, stage: Stage) -> Integration | None:
    """A copy of the outline with what a stage trains marked as such; None where a part cannot be trained as asked."""
    marked = copy.deepcopy(integration)
    fault = _fault(marked, stage.config)
    if fault is None:
        _rows(report, marked, stage)
        return marked
    # One part at a time, so that what is wrong with one does not hide what is wrong with another.
    found = []
    for name in integration.parts:
        own: PartConfig = getattr(stage.config.parts, name)
        others = {other: UNTRAINED for other in PartsConfig.model_fields if other != name}
        alone = stage.config.parts.model_copy(update={**others, name: own.model_copy(update={"from_step": 0})})
        if own.is_trained:
            found.append(_fault(copy.deepcopy(integration), stage.config.model_copy(update={"parts": alone})))
    told = [said for said in found if said is not None and not said.startswith(NOTHING_LEFT)]
    for said in told if fault in told else [*told, fault]:
        report.add("error", "parts", said)
    return None


def _fault(integration: Integration, config: TrainConfig) -> str | None:
    """Marks what is trained; what keeps it from being trained."""
    try:
        add_adapters(integration, config)
        trainable_groups(integration, config)
    except NuebridgeError as error:
        return str(error)
    return None


def _rows(report: Report, integration: Integration, stage: Stage) -> None:
    for name, part in integration.parts.items():
        settings: PartConfig = getattr(stage.config.parts, name)
        trained = sum(p.numel() for p in part.parameters() if p.requires_grad)
        info = integration.part_info.get(name)
        report.parts.append(
            PartRow(
                stage.name,
                name,
                "" if info is None else info.component,
                sum(p.numel() for p in part.parameters()),
                trained,
                _how(settings) if trained else "frozen",
                settings.learning_rate if trained else None,
                settings.from_step if trained else 0,
            )
        )


def _how(settings: PartConfig) -> str:
    ways = []
    if settings.train is True:
        ways.append("all")
    elif settings.train:
        ways.append(", ".join(settings.train))
    if settings.lora is not None:
        ways.append(f"LoRA r {settings.lora.r}")
    return " + ".join(ways)
