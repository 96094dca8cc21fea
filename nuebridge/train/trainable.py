"""What of an integration is trained: parts, parameter groups of parts, LoRA, and a learning rate for each."""

from __future__ import annotations

import fnmatch
import logging
from typing import Any

from torch import nn

from nuebridge.contracts import Part
from nuebridge.errors import TrainingError
from nuebridge.lora import add_lora, lora_parameters, without_lora
from nuebridge.model import Integration
from nuebridge.settings import LoraSettings
from nuebridge.train.config import PartConfig, TrainConfig

log = logging.getLogger(__name__)

ADAPTER = "lora"
"""Name of the adapter that ``parts.X.lora`` trains."""


def add_adapters(integration: Integration, config: TrainConfig) -> None:
    """Puts LoRA where the configuration asks for it and the integration has none yet.

    Raises TrainingError where it has LoRA of other settings, or one that does not work at full weight,
    and ConfigError where a part takes none.
    """
    for name in integration.parts:
        settings: LoraSettings | None = getattr(config.parts, name).lora
        if settings is None:
            continue
        adapter = integration.adapters.get(ADAPTER)
        if adapter is None or name not in adapter.lora:
            add_lora(integration, name, settings, name=ADAPTER, seed=config.seed)
            continue
        has = adapter.lora[name]
        for key in ("r", "lora_alpha", "lora_dropout"):
            if getattr(has, key) != getattr(settings, key):
                raise TrainingError(
                    f"parts.{name}.lora.{key} is {getattr(settings, key)}, but the {name} has LoRA already, with "
                    f"{getattr(has, key)}; give the same, or merge the adapter first"
                )
        if adapter.weight != 1:
            raise TrainingError(
                f"the adapter {ADAPTER!r} that is to be trained has weight {adapter.weight}; give it weight 1"
            )


def trainable_groups(integration: Integration, config: TrainConfig) -> list[dict[str, Any]]:
    """Freezes and unfreezes as the configuration says; returns the optimiser's parameter groups.

    Raises TrainingError for a pattern that matches nothing, and where nothing is left to train.
    """
    groups: list[dict[str, Any]] = []
    for name, part in integration.parts.items():
        settings: PartConfig = getattr(config.parts, name)
        with without_lora(part):
            chosen = _chosen(name, part, settings.train)
        if chosen and part.frozen_because is not None:
            raise TrainingError(
                f"parts.{name}.train: the {name} cannot be trained, since {part.frozen_because}; set it to false, and "
                f"parts.{name}.lora to train LoRA beside it"
            )
        if name == "ctc_head" and chosen and config.losses.ctc == 0 and not integration.bridge.needs_ctc:
            log.warning("losses.ctc is 0: the CTC head is left as it is")
            chosen = []
        if settings.lora is not None:
            chosen = [*chosen, *lora_parameters(part, ADAPTER)]
        for parameter in part.parameters():
            parameter.requires_grad_(False)
        for parameter in chosen:
            parameter.requires_grad_(True)
        unused = config.losses.text == 0 and name in ("bridge", "decoder")
        if chosen and unused:
            raise TrainingError(f"parts.{name} is to be trained, but losses.text is 0: set parts.{name}.train to false")
        for decay, parameters in (
            (config.optimizer.weight_decay, [p for p in chosen if p.dim() > 1]),
            (0.0, [p for p in chosen if p.dim() <= 1]),
        ):
            if parameters:
                groups.append(
                    {
                        "params": parameters,
                        "part": name,
                        "from_step": settings.from_step,
                        "lr": settings.learning_rate,
                        "peak_learning_rate": settings.learning_rate,
                        "weight_decay": decay,
                    }
                )
    if not groups:
        raise TrainingError("every part is frozen: nothing is left to train")
    first = min(groups, key=lambda group: int(group["from_step"]))
    if first["from_step"] > 0:
        raise TrainingError(
            f"nothing is trained before step {first['from_step']}; set parts.{first['part']}.from_step to 0"
        )
    return groups


def _chosen(name: str, part: Part, patterns: bool | tuple[str, ...]) -> list[nn.Parameter]:
    if isinstance(patterns, bool):
        return list(part.parameters()) if patterns else []
    available = part.parameter_groups()
    for pattern in patterns:
        if not any(fnmatch.fnmatchcase(group.name, pattern) for group in available):
            names = ", ".join(group.name for group in available)
            raise TrainingError(f"parts.{name}.train: no parameter group matches {pattern!r}; there are: {names}")
    return [
        parameter
        for group in available
        if any(fnmatch.fnmatchcase(group.name, pattern) for pattern in patterns)
        for parameter in group.parameters
    ]


def unfreeze(groups: list[dict[str, Any]], step: int) -> bool:
    """Freezes and unfreezes the groups as it should be at a step; True where that changed anything."""
    changed = False
    for group in groups:
        wanted = step >= group["from_step"]
        for parameter in group["params"]:
            changed = changed or parameter.requires_grad != wanted
            parameter.requires_grad_(wanted)
    return changed


def set_training_mode(integration: Integration) -> None:
    """Parts with something to train go into train mode, frozen ones into eval mode."""
    for part in integration.parts.values():
        wanted = any(parameter.requires_grad for parameter in part.parameters())
        if part.training != wanted:  # going through all its modules takes time
            part.train(wanted)
