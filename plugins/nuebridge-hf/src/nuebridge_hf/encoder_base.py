"""What all encoders of this plugin have in common: reading, saving, choosing layers, and randomness.

The networks are transformers' own. What a batch needs to give each clip the frames that it has alone is added by the
module of each family.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

import numpy as np
import torch
from pydantic import BaseModel
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from nuebridge.contracts import CtcWeights, ParameterGroup, SpeechEncoder, check_not_empty
from nuebridge.errors import CheckpointError, ConfigError, SizeMismatchError
from nuebridge_hf.ctc_checkpoints import read_ctc_weights
from nuebridge_hf.layers import LAYER_WEIGHTS_FILE, LayerReader
from nuebridge_hf.loading import (
    find_file,
    is_folder,
    load_model,
    outline_model,
    read_config,
    read_json,
    save_model,
    write_json,
)
from nuebridge_hf.options import LayerOptions

MASK_EMBEDDING = {r"masked_spec_embed$": "only masking during training reads it"}
HEADS = {
    r"^(lm_head|classifier|projector|layer_weights)\b": "the head of a fine-tuned recogniser or classifier",
    r"^(quantizer|project_q|project_hid)\.": "the pre-training head",
}
"""What the larger models that hold an encoder have beside it."""

E = TypeVar("E")


class LibraryEncoder(SpeechEncoder):
    """An encoder whose network is transformers' own.

    ``options.layer`` chooses the layer that frames are taken from (:mod:`nuebridge_hf.layers`). In training, dropout,
    masking and layer drop happen as the model's configuration says, drawn from torch's random state alone.
    """

    model_class: ClassVar[Any]
    model_type: ClassVar[str]
    options_class: ClassVar[type[LayerOptions]]
    attention: ClassVar[str | None] = "sdpa"
    """The implementation of attention that is asked for; None where the library has no choice of them."""
    max_samples: int | None = None
    """Samples of the longest clip it reads; None where nothing bounds it."""

    options: LayerOptions

    def __init__(self, model: PreTrainedModel, options: LayerOptions, *, norm: str | None) -> None:
        super().__init__()
        self.model: Any = model
        self.options = options
        self.layer_reader = LayerReader(options.layer, len(self.stack.layers), norm=norm)
        if getattr(self.model, "adapter", None) is not None:
            if not self.layer_reader.is_default:
                raise ConfigError(
                    "the checkpoint ends in an adapter that reads the last layer (add_adapter: true), so the option "
                    "layer cannot choose another; leave it out"
                )
            # One layer fewer would change the number of frames.
            self.model.adapter.layerdrop = -1.0

    @property
    def stack(self) -> Any:
        """The module that holds the transformer's layers."""
        return self.model.encoder

    @property
    def adapted_module(self) -> nn.Module:
        model: nn.Module = self.model
        return model

    @property
    def min_samples(self) -> int:
        """Samples of the shortest clip that gives a frame."""
        raise NotImplementedError

    def checked(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Waveforms as long as their longest clip, lengths and numbers of frames, all on the waveforms' device.

        Raises AudioTooShortError, and SizeMismatchError for a clip that is longer than the waveforms.
        """
        lengths = lengths.to(waveforms.device)
        frame_lengths = self.output_lengths(lengths)
        check_not_empty(lengths, frame_lengths, self.min_samples, "samples", "the speech encoder")
        longest = int(lengths.max())
        if longest > waveforms.shape[1]:
            raise SizeMismatchError(f"a clip of {longest} samples is said to be in waveforms of {waveforms.shape[1]}")
        # Padding that all clips share would cost time and count as padding later on.
        return waveforms[:, :longest], lengths, frame_lengths

    def masked_in_training(self, masking: Any, hidden: Tensor, mask: Tensor | None) -> Tensor:
        """``masking``, the library's own, of what is ``[B, F, ...]``; a clip shorter than one span stays as it is."""
        config = self.model.config
        if not getattr(config, "apply_spec_augment", True) or hidden.shape[1] < config.mask_time_length:
            return hidden
        with numpy_seeded_by_torch():
            masked: Tensor = masking(hidden, attention_mask=mask)
        return masked

    def groups(
        self, front_end: list[nn.Parameter], projection: list[nn.Parameter], head: list[nn.Parameter]
    ) -> list[ParameterGroup]:
        """``front_end``, ``projection``, ``layers.N``, ``head`` and ``layer_weights``; empty ones are left out."""
        if getattr(self.model, "adapter", None) is not None:
            head = [*head, *self.model.adapter.parameters()]
        groups = [
            ParameterGroup("front_end", tuple(front_end)),
            ParameterGroup("projection", tuple(projection)),
            *(ParameterGroup(f"layers.{i}", tuple(layer.parameters())) for i, layer in enumerate(self.stack.layers)),
            ParameterGroup("head", tuple(head)),
            ParameterGroup("layer_weights", tuple(self.layer_reader.parameters())),
        ]
        return [group for group in groups if group.parameters]

    @classmethod
    def _made_of(cls, model: PreTrainedModel, source: str, options: Any, revision: str | None) -> Self:
        """The part around a model, with what the checkpoint's preprocessor says."""
        raise NotImplementedError

    @classmethod
    def _config(cls, source: str, revision: str | None) -> PretrainedConfig:
        config = read_config(source, revision)
        if config.model_type != cls.model_type:
            raise CheckpointError(f"{source!r} holds a {config.model_type!r} model, not a {cls.model_type!r} one")
        return config

    @classmethod
    def _arguments(cls) -> dict[str, Any]:
        return {} if cls.attention is None else {"attn_implementation": cls.attention}

    @classmethod
    def outline(cls, source: str, options: BaseModel, *, revision: str | None = None) -> Self:
        assert isinstance(options, LayerOptions)
        config = cls._config(source, revision)
        model = outline_model(
            cls.model_class,
            config,
            source=source,
            revision=revision,
            allow_pickle=options.allow_pickle,
            **cls._arguments(),
        )
        return cls._made_of(model, source, options, revision)

    @classmethod
    def load(cls, source: str, options: BaseModel, *, revision: str | None = None) -> Self:
        assert isinstance(options, LayerOptions)
        config = cls._config(source, revision)
        model = cls._weights(config, source, options, revision)
        part = cls._made_of(model, source, options, revision)
        file = find_file(source, LAYER_WEIGHTS_FILE, revision)
        if part.layer_reader.weights is not None and file is not None:
            part.layer_reader.load(file)
        elif file is not None:
            warnings.warn(
                f"{source!r} has learned weights of layers, which the option layer: {options.layer} does not use; "
                "set it to weighted to use them",
                stacklevel=2,
            )
        return part

    @classmethod
    def _weights(
        cls, config: PretrainedConfig, source: str, options: LayerOptions, revision: str | None
    ) -> PreTrainedModel:
        harmless = dict(HEADS)
        if config.mask_time_prob == 0 and config.mask_feature_prob == 0:
            harmless |= MASK_EMBEDDING
        model, missing = load_model(
            cls.model_class,
            config,
            source=source,
            revision=revision,
            allow_pickle=options.allow_pickle,
            harmless=harmless,
            may_miss=MASK_EMBEDDING,
            **cls._arguments(),
        )
        fill_mask_embedding(model, missing, source)
        return model

    @classmethod
    def own_ctc_head(cls, source: str, options: BaseModel, *, revision: str | None = None) -> CtcWeights | None:
        assert isinstance(options, LayerOptions)
        found = read_ctc_weights(source, cls._config(source, revision), options, revision=revision)
        if found is not None and options.layer not in (None, -1):
            raise ConfigError(
                f"the CTC head of {source!r} reads the last layer, but the option layer is {options.layer}; leave it "
                "out, or use another CTC head"
            )
        return found

    def preprocessor(self) -> Mapping[str, Any]:
        """What is saved as preprocessor_config.json."""
        raise NotImplementedError

    def save(self, folder: Path) -> None:
        self.layer_reader.save(folder)
        save_model(self.model, folder)
        write_json(folder / "preprocessor_config.json", self.preprocessor())


def fill_mask_embedding(model: Any, missing: frozenset[str], source: str) -> None:
    """A checkpoint without the embedding that masked frames get: zero, not what happened to be drawn."""
    if any(name.endswith("masked_spec_embed") for name in missing):
        warnings.warn(f"{source!r} has no masked_spec_embed: masked frames are zero in training", stacklevel=3)
        with torch.no_grad():
            model.masked_spec_embed.zero_()


@contextmanager
def numpy_seeded_by_torch() -> Iterator[None]:
    """A block in which numpy's global state follows from torch's; afterwards it is what it was.

    The library draws masks from numpy: one state is to decide everything, so that a resumed training masks what an
    unbroken one does.
    """
    state = np.random.get_state()
    np.random.seed(int(torch.randint(2**31, (1,))))
    try:
        yield
    finally:
        np.random.set_state(state)


def read_preprocessor(source: str, revision: str | None) -> dict[str, Any] | None:
    """What preprocessor_config.json says, or its place in processor_config.json; None where there is neither."""
    data = read_json(source, "preprocessor_config.json", revision)
    if data is None:
        nested = (read_json(source, "processor_config.json", revision) or {}).get("feature_extractor")
        data = nested if isinstance(nested, dict) else None
    return data


def read_extractor(extractor_class: type[E], source: str, revision: str | None, **defaults: Any) -> E:
    """The library's own feature extractor of a checkpoint; with its defaults where the checkpoint has none to say."""
    data = read_preprocessor(source, revision)
    if data is None:
        if not is_folder(source):
            warnings.warn(
                f"no preprocessor_config.json was found for {source!r}: {extractor_class.__name__}'s own defaults are "
                "used. If it has one, download it",
                stacklevel=4,
            )
        data = {}
    try:
        return extractor_class(**(defaults | data))
    except (TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"the preprocessor_config.json of {source!r} cannot be used: {error}") from error


def rows_of(waveforms: Tensor, lengths: Tensor) -> list[np.ndarray[Any, Any]]:
    """The clips of a batch without their padding, for a feature extractor."""
    cpu = waveforms.detach().float().cpu()
    return [row[: int(length)].numpy() for row, length in zip(cpu, lengths.tolist(), strict=True)]
