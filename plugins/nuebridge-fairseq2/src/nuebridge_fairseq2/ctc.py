"""The CTC heads of fine-tuned models (family ``wav2vec2_asr``): rows of the checkpoint, symbols of its tokenizer.

The tokenizer is the SentencePiece model of single characters that an asset card names (``char_tokenizer``) or that the
option ``tokenizer`` points at. Row 0 is the blank: fairseq2 trains with torch's default.
"""

from __future__ import annotations

from pathlib import Path

from fairseq2.assets import get_asset_download_manager
from fairseq2.data.tokenizers.ref import resolve_tokenizer_reference
from fairseq2.data.tokenizers.sentencepiece import SentencePieceModel, load_sentencepiece_model
from pydantic import ValidationError

from nuebridge.contracts import CtcWeights
from nuebridge.errors import CheckpointError
from nuebridge.settings import CtcVocabulary
from nuebridge_fairseq2.loading import read_state
from nuebridge_fairseq2.options import Wav2Vec2Options
from nuebridge_fairseq2.sources import Found, told

_SPACE = "▁"
"""What SentencePiece writes for a space."""


def read_ctc_weights(found: Found, options: Wav2Vec2Options) -> CtcWeights | None:
    """The CTC head of a fine-tuned model, None for a pre-trained one.

    Raises CheckpointError where a head is there and nothing says what it spells.
    """
    if found.family != "wav2vec2_asr":
        return None
    model = _tokenizer(found, options.tokenizer)
    state = read_state(found, allow_pickle=options.allow_pickle)
    if not {"final_proj.weight", "final_proj.bias"} <= state.keys():
        raise CheckpointError(f"{found.name!r} lacks the weights of its CTC head (final_proj); it is damaged")
    weight, bias = state["final_proj.weight"].float(), state["final_proj.bias"].float()
    if len(bias) != model.vocabulary_size:
        raise CheckpointError(
            f"the CTC head of {found.name!r} has {len(bias)} rows, and its tokenizer {model.vocabulary_size} symbols; "
            "name the tokenizer that it was trained with"
        )
    return CtcWeights(_vocabulary(found.name, model), weight, bias)


def _tokenizer(found: Found, path: str | None) -> SentencePieceModel:
    with told(f"the tokenizer of {found.name!r} cannot be read"):
        if path is not None:
            file = Path(path).expanduser()
        else:
            card = resolve_tokenizer_reference(found.store, found.card)
            field, family = card.maybe_get_field("tokenizer"), card.maybe_get_field("tokenizer_family")
            if field is None or family is None or family.value != "char_tokenizer":
                raise CheckpointError(
                    f"{found.name!r} has a CTC head, but nothing says what it spells; set the option tokenizer to the "
                    "SentencePiece model of its characters"
                )
            uri = field.as_uri()
            file = uri.to_path() if uri.scheme == "file" else get_asset_download_manager().download_tokenizer(uri)
        if not file.is_file():
            raise CheckpointError(f"there is no tokenizer {str(file)!r}; check the path")
        return load_sentencepiece_model(file)


def _vocabulary(source: str, model: SentencePieceModel) -> CtcVocabulary:
    symbols = [model.index_to_token(index).replace(_SPACE, " ") for index in range(model.vocabulary_size)]
    special = (model.unk_idx, model.bos_idx, model.eos_idx, model.pad_idx)
    silent = [symbols[index] for index in dict.fromkeys(special) if index]  # row 0 is the blank, whatever it is called
    spelled = "".join(symbol for symbol in symbols[1:] if symbol not in silent)
    upper = spelled != spelled.lower() and spelled == spelled.upper()
    lower = spelled == spelled.lower() and spelled != spelled.upper()
    try:
        return CtcVocabulary(symbols=tuple(symbols[1:]), silent=tuple(silent), lowercase=lower, uppercase=upper)
    except ValidationError as error:
        raise CheckpointError(
            f"the tokenizer of {source!r} makes no CTC vocabulary: {error.errors()[0]['msg']}"
        ) from error
