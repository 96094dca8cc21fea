"""How a stage computes: in one process, in several that each hold the model, or in several that divide it.

    alone       this process has everything
    replicate   every rank has everything; DistributedDataParallel averages the gradients while they are computed
    shard       every rank has a share of every weight, gradient and optimiser state (FSDP2, ``fully_shard``);
                layers are put together where they compute

What a step does is the same in all three: it hands :meth:`Engine.backward` a function that gives a loss.
Whole weights and optimiser states, by the names of the parameters, are what checkpoints hold, so
that a run goes on under any strategy and with any number of ranks.
"""

from __future__ import annotations

import copy
import inspect
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from nuebridge.contracts import TextDecoder
from nuebridge.errors import TrainingError
from nuebridge.model import Integration
from nuebridge.train.config import Stage
from nuebridge.train.ranks import Ranks
from nuebridge.train.recompute import layer_lists
from nuebridge.train.trainable import add_adapters, trainable_groups, unfreeze


class Engine:
    """An integration and its optimiser for one stage. Raises TrainingError where nothing can be trained this way."""

    def __init__(self, integration: Integration, stage: Stage, ranks: Ranks) -> None:
        config = stage.config
        self.integration = integration
        self.ranks = ranks
        self.device = ranks.device(config.device)
        add_adapters(integration, config)
        integration.eval()
        self._calls: nn.Module = _Calls(integration)
        self._whole: Integration | None = None
        """Shard: an integration without weights, to be filled where whole ones are needed."""
        self._config = config
        if config.parallel.strategy == "shard":
            trainable_groups(integration, config)  # what is wrong with them is said before anything is moved
            self._whole = _emptied(integration)
            self._shard(self._calls)
        self.groups = trainable_groups(integration, config)
        # Fused: one pass over the weights, on CPUs and on GPUs.
        optimizer = config.optimizer
        self.optimizer = torch.optim.AdamW(self.groups, betas=optimizer.betas, eps=optimizer.epsilon, fused=True)
        self._replicas: DistributedDataParallel | None = None

    @property
    def same_count(self) -> bool:
        """True where all ranks must compute equally often."""
        return self._whole is not None

    def begin_step(self, step: int) -> None:
        """Freezes and unfreezes what is trained from some step of the stage on."""
        changed = unfreeze(self.optimizer.param_groups, step)
        if self._whole is None and self.ranks.count > 1 and (changed or self._replicas is None):
            self._replicas = self._replicated()

    def _replicated(self) -> DistributedDataParallel:
        # Without a parameter that is never used torch would warn that it looks for unused ones in vain.
        self._calls.spare = nn.Parameter(torch.zeros(1, device=self.device))
        # Buffers differ between ranks only where a part keeps statistics; the main rank's are saved.
        known = inspect.signature(DistributedDataParallel).parameters
        options: dict[str, Any] = {
            "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers": False
        }
        return DistributedDataParallel(
            self._calls,
            device_ids=None if self.device.type == "cpu" else [self.device],
            # What a part leaves unused in a step, such as layers that are dropped, is told from what it gave.
            find_unused_parameters=True,
            gradient_as_bucket_view=True,
            **options,
        )

    def backward(self, compute: Callable[[], tuple[Tensor, Tensor]], *, last: bool) -> Tensor:
        """Calls ``compute``, adds the gradients of the loss it gives and returns the other tensor, detached.

        Losses of all ranks are added up. ``last``: no further one is added in this step.
        """
        calls: nn.Module = self._calls
        waits: Any = nullcontext()
        if self._replicas is not None:
            calls = self._replicas
            waits = nullcontext() if last else self._replicas.no_sync()
        with waits, _reached_into():
            found: tuple[Tensor, Tensor] = calls(compute)
            loss, figures = found
            # Ranks average their gradients; what is minimised is the sum of what they give.
            (loss * self.ranks.count).backward()  # type: ignore[no-untyped-call]
        return figures.detach()

    def clip(self, max_norm: float) -> Tensor:
        """Scales the gradients down where their norm, which is returned, is above ``max_norm``."""
        return _full(nn.utils.clip_grad_norm_(self._parameters(), max_norm))

    def update(self) -> None:
        """Moves the weights and forgets the gradients."""
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    # --- whole weights and states --------------------------------------------------------------

    @contextmanager
    def whole(self, device: torch.device | str = "cpu") -> Iterator[Integration]:
        """The integration with whole weights, on the main rank; all ranks must come here.

        Where the model is divided, it is put together on ``device`` for the block, and other
        ranks have an integration that holds no weights.
        """
        if self._whole is None:
            yield self.integration
            return
        self._fill(self._whole, torch.device(device), keep=self.ranks.is_main)
        try:
            yield self._whole
        finally:
            _empty(self._whole)

    def close(self) -> Integration:
        """The integration with whole weights on every rank, in no way divided; the engine is of no more use."""
        self._replicas = None
        if self._whole is None:
            return self.integration
        self._fill(self._whole, torch.device("cpu"), keep=True)
        return self._whole

    def optimizer_state(self) -> dict[str, Any]:
        """What the optimiser knows, in whole tensors on the CPU; all ranks must come here.

        ``parameters``: the names of those it trains; ``state``: by name, for those whose training has begun.
        """
        names = self._names()
        state: dict[str, dict[str, Tensor]] = {}
        for parameter in self._parameters():
            kept = self.optimizer.state.get(parameter, {})
            if kept:
                state[names[parameter]] = {key: _full(value).cpu() for key, value in kept.items()}
        return {"parameters": [names[parameter] for parameter in self._parameters()], "state": state}

    def load_optimizer_state(self, saved: Mapping[str, Any], where: object) -> None:
        """Puts back what :meth:`optimizer_state` gave, under whatever strategy; rates stay as configured now.

        Raises TrainingError naming ``where`` it comes from, if other parameters were trained.
        """
        names = self._names()
        ours = [names[parameter] for parameter in self._parameters()]
        if saved.get("parameters") != ours:
            raise TrainingError(
                f"{where} was written while other parameters were trained ({_difference(saved, ours)}); resume with "
                "the parts it had, or start a new run from its integration"
            )
        state: dict[int, dict[str, Tensor]] = {}
        for index, parameter in enumerate(self._parameters()):
            kept = saved["state"].get(names[parameter])
            if kept is not None:
                state[index] = {
                    key: _like(parameter, value) if value.shape == parameter.shape else value
                    for key, value in kept.items()
                }
        self.optimizer.load_state_dict({"state": state, "param_groups": self.optimizer.state_dict()["param_groups"]})

    def _names(self) -> dict[nn.Parameter, str]:
        return {parameter: name for name, parameter in self.integration.named_parameters()}

    def _parameters(self) -> list[nn.Parameter]:
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    # --- dividing ------------------------------------------------------------------------------

    def take_in(self, part: nn.Module) -> None:
        """Moves a frozen part that is none of the integration's to where that is, divided as that is."""
        if self._whole is None:
            part.to(self.device)
            return
        self._shard(part)
        if isinstance(part, TextDecoder):
            register_fsdp_forward_method(part, "embed")  # the prompt calls it outside of forward

    def _shard(self, module: nn.Module) -> None:
        for name, parameter in module.named_parameters():
            if parameter.dim() == 0:
                raise TrainingError(
                    f"parallel.strategy: shard cannot divide {name}, a single number; use strategy: replicate"
                )
        half = self._config.precision == "bfloat16"
        offload = CPUOffloadPolicy(pin_memory=self.device.type != "cpu")
        options: dict[str, Any] = {
            "mesh": init_device_mesh(self.device.type, (self.ranks.count,)),
            # Autocast decides what is computed in which precision; waveforms and losses stay as they are.
            "mp_policy": MixedPrecisionPolicy(
                param_dtype=torch.bfloat16 if half else None,
                reduce_dtype=torch.float32,
                cast_forward_inputs=False,
            ),
            "offload_policy": offload if self._config.parallel.cpu_offload else OffloadPolicy(),
        }
        for part in module.integration.parts.values() if isinstance(module, _Calls) else [module]:
            for layer in _divisible(part):
                fully_shard(layer, **options)
        fully_shard(module, **options)

    @torch.no_grad()
    def _fill(self, whole: Integration, device: torch.device, *, keep: bool) -> None:
        ours = dict(self.integration.named_parameters())
        for name, parameter in whole.named_parameters():
            full = _full(ours[name])  # all ranks exchange what they have, whoever keeps it
            if keep:
                parameter.data = full.detach().to(device, copy=True)
        buffers = dict(self.integration.named_buffers())
        for name, buffer in whole.named_buffers():
            buffer.data = buffers[name].detach().to(device, copy=True)
        whole.training_history = self.integration.training_history


class _Calls(nn.Module):
    """A module that does what it is told: whatever a function computes with the integration is its forward pass."""

    def __init__(self, integration: Integration) -> None:
        super().__init__()
        self.integration = integration

    def forward(self, compute: Callable[[], tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        return compute()


@contextmanager
def _reached_into() -> Iterator[None]:
    """What torch says where a model uses the weights of a layer without calling it becomes one line."""
    try:
        yield
    except RuntimeError as error:
        if "mixed torch.Tensor and DTensor" not in str(error):
            raise
        raise TrainingError(
            "parallel.strategy: shard does not suit this model, which reaches into a layer without calling it; use "
            f"strategy: replicate ({str(error).splitlines()[0]})"
        ) from error


def _emptied(integration: Integration) -> Integration:
    """A copy without weights, in which parameters are shared where they are shared in the original."""
    memo: dict[int, Any] = {
        id(parameter): nn.Parameter(torch.empty(0, dtype=parameter.dtype), requires_grad=False)
        for parameter in integration.parameters()
    }
    return copy.deepcopy(integration, memo)


def _empty(integration: Integration) -> None:
    for parameter in integration.parameters():
        parameter.data = torch.empty(0, dtype=parameter.dtype)


def _divisible(module: nn.Module) -> list[nn.Module]:
    """The layers of a part that can be divided one by one.

    Those of its largest list: the layers of a network are called as such, while models reach into the modules of
    smaller lists. And of those the ones whose parameters belong to them alone.
    """
    found = max(layer_lists(module), key=lambda one: sum(p.numel() for m in one for p in m.parameters()), default=[])
    owners = Counter(id(parameter) for one in module.modules() for parameter in one.parameters(recurse=False))
    return [
        layer
        for layer in found
        if Counter(id(p) for one in layer.modules() for p in one.parameters(recurse=False)).items() <= owners.items()
    ]


def _full(tensor: Tensor) -> Tensor:
    if isinstance(tensor, DTensor):
        full: Tensor = tensor.full_tensor()
        return full
    return tensor


def _like(parameter: nn.Parameter, full: Tensor) -> Tensor:
    """A whole tensor divided as a parameter is."""
    if not isinstance(parameter, DTensor):
        return full
    divided = torch.zeros_like(parameter.detach(), dtype=full.dtype)
    assert isinstance(divided, DTensor)
    # Rows go to the ranks in equal shares, rounded up; the last ranks may have fewer, or none.
    share = -(-len(full) // parameter.device_mesh.size())
    begin = share * parameter.device_mesh.get_local_rank()
    divided.to_local().copy_(full[begin : begin + share])
    return divided


def _difference(saved: Mapping[str, Any], ours: list[str]) -> str:
    """What is trained only here or only there, in words."""
    theirs = saved.get("parameters")
    if not isinstance(theirs, list):
        return "it does not say which"
    new, gone = [n for n in ours if n not in theirs], [n for n in theirs if n not in ours]
    said = [f"{what}: {', '.join(names[:3])}" for what, names in (("only now", new), ("only then", gone)) if names]
    return "; ".join(said) or "in another order"
