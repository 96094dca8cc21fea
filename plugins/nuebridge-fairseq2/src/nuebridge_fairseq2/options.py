"""The options that a registry entry may set for the parts of this plugin. Nothing heavy is imported here."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from nuebridge.settings import Settings


class EncoderOptions(Settings):
    """What both encoders take."""

    allow_pickle: bool = False
    """Read weights from pickle files (``*.pt``, as most of fairseq2's checkpoints are).

    They are read with torch's restricted unpickler even then, which makes tensors and plain values only.
    """
    card: str | None = None
    """Name of the asset card, where the source is a folder of several."""
    arch: str | None = None
    """Architecture of a plain checkpoint, one that no asset card describes, in fairseq2's words."""
    config: dict[str, Any] = Field(default_factory=dict)
    """Fields of fairseq2's model configuration that differ from the architecture's, for a plain checkpoint."""

    @model_validator(mode="after")
    def _plain(self) -> EncoderOptions:
        if self.config and self.arch is None:
            raise ValueError("config goes with arch, which it changes; a checkpoint with a card has it there")
        if self.card is not None and self.arch is not None:
            raise ValueError("card and arch do not go together: a card names its architecture")
        return self


class Wav2Vec2Options(EncoderOptions):
    """Options of the wav2vec 2.0 encoder."""

    family: Literal["wav2vec2", "wav2vec2_asr"] | None = None
    """Layout of a plain checkpoint: as pre-trained, or fine-tuned with CTC."""
    normalize: bool | None = None
    """Scale every clip to zero mean and unit variance. None: where the front end has layer norms, as those models were
    trained (large_lv60k, XLS-R, Omnilingual ASR); not where it has a group norm."""

    tokenizer: str | None = None
    """Path of the SentencePiece model with the symbols of the checkpoint's CTC head, where no card names it."""

    @model_validator(mode="after")
    def _together(self) -> Wav2Vec2Options:
        if (self.family is None) != (self.arch is None):
            raise ValueError("family and arch go together: they say how a plain checkpoint is laid out")
        return self


class W2vBertOptions(EncoderOptions):
    """Options of the w2v-BERT encoder."""
