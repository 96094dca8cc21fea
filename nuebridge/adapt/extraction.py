"""What a run changed of its base, as an adapter of the base."""

from __future__ import annotations

import torch

from nuebridge.errors import TrainingError
from nuebridge.lora import add_lora, lora_parameters, retrain
from nuebridge.model import Integration
from nuebridge.tensors import weight_hash
from nuebridge.train.config import TrainConfig
from nuebridge.train.trainable import ADAPTER


def extract(base: Integration, trained: Integration, config: TrainConfig, name: str) -> None:
    """Gives ``base``, which has no adapters, one of that name with all that sets ``trained`` apart from it.

    Raises TrainingError where that is more than an adapter holds: the base is not what was trained.
    """
    before = {part: weight_hash({"part": module}) for part, module in base.parts.items()}
    held = trained.adapters.get(ADAPTER)
    for part in base.parts:
        settings = getattr(config.parts, part)
        if settings.lora is not None:
            assert held is not None  # the run has put it there
            fresh = add_lora(base, part, held.lora[part], name=name)
            with torch.no_grad():
                for ours, theirs in zip(fresh, lora_parameters(trained.parts[part], ADAPTER), strict=True):
                    ours.copy_(theirs)
                    ours.requires_grad_(False)
        elif settings.train:
            retrain(base, part, name=name)
            base.parts[part].load_state_dict(trained.parts[part].state_dict())
    _check_rest(base, trained, before, config)
    base.adapters[name].training = [dict(entry) for entry in trained.training_history[len(base.training_history) :]]
    base.eval()


def _check_rest(base: Integration, trained: Integration, before: dict[str, str], config: TrainConfig) -> None:
    from nuebridge.lora import base_weights

    with base_weights(trained):
        for part, module in trained.parts.items():
            settings = getattr(config.parts, part)
            if not settings.train and weight_hash({"part": module}) != before[part]:
                raise TrainingError(
                    f"the {part} of {config.model} is not the one that the run in {config.output} began with; put that "
                    "model back, or adapt anew"
                )
