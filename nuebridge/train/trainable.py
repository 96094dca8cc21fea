"""What of an integration is trained: parts, parameter groups of parts, and a learning rate for each."""

from __future__ import annotations

import fnmatch
import logging
from typing import Any

from torch import nn

from nuebridge.contracts import Part
from nuebridge.errors import TrainingError
from nuebridge.model import Integration
from nuebridge.train.config import PartConfig, TrainConfig

log = logging.getLogger(__name__)


def trainable_groups(integration: Integration, config: TrainConfig) -> list[dict[str, Any]]:
    """Freezes and unfreezes as the configuration says; returns the optimiser's parameter groups.

    Raises TrainingError for a pattern that matches nothing, and where nothing is left to train.
    """
    groups: list[dict[str, Any]] = []
    for name, part in integration.parts.items():
        settings: PartConfig = getattr(config.parts, name)
        chosen = _chosen(name, part, settings.train)
        if name == "ctc_head" and chosen and config.losses.ctc == 0 and not integration.bridge.needs_ctc:
            log.warning("losses.ctc is 0: the CTC head is left as it is")
            chosen = []
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
                        "lr": settings.learning_rate,
                        "peak_learning_rate": settings.learning_rate,
                        "weight_decay": decay,
                    }
                )
    if not groups:
        raise TrainingError("every part is frozen: nothing is left to train")
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


def set_training_mode(integration: Integration) -> None:
    """Parts with something to train go into train mode, frozen ones into eval mode."""
    for part in integration.parts.values():
        part.train(any(parameter.requires_grad for parameter in part.parameters()))
