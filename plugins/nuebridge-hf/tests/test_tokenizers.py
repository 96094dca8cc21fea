"""Token ids are the SentencePiece library's own, special tokens are read as such, files are kept as they are."""

from __future__ import annotations

import json

import pytest
import sentencepiece

from nuebridge.errors import CheckpointError
from nuebridge_hf.tokenizers import SentencePieceTokenizer, TransformersTokenizer, load_tokenizer


@pytest.fixture
def copied(reference, tmp_path):
    """The reference tokenizer's files in a folder that may be changed."""
    for name in ("spiece.model", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((reference / name).read_bytes())
    return tmp_path


def change(folder, **fields):
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


def test_ids_and_texts_are_those_of_the_reference(reference):
    tokenizer = load_tokenizer(str(reference))
    assert isinstance(tokenizer, SentencePieceTokenizer)
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(reference / "spiece.model"))
    for case in json.loads((reference / "golden.json").read_text())["text"]:
        assert tokenizer.encode(case["text"]) == case["ids"] == pieces.encode(case["text"])
        assert tokenizer.decode(case["ids"]) == case["decoded"]


def test_special_tokens_are_read_in_text_and_left_out_of_it(reference):
    tokenizer = load_tokenizer(str(reference))
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 3)
    ids = tokenizer.encode("<s>今日は[SEP]良い</s>")
    assert (ids[0], ids[-1]) == (1, 2) and 5 in ids
    assert [i for i in ids if i not in (1, 2, 5)] == [*tokenizer.encode("今日は"), *tokenizer.encode("良い")]
    assert tokenizer.decode([3, *ids, 0, 6]) == "今日は良い"
    assert [tokenizer.token(i) for i in (1, 5)] == ["<s>", "[SEP]"]
    assert tokenizer.encode("") == []


def test_sentinels_and_added_tokens_have_their_ids(copied):
    change(copied, extra_ids=2, pad_token={"content": "<fill>", "special": True})
    (copied / "added_tokens.json").write_text('{"<fill>": 400}')
    tokenizer = load_tokenizer(str(copied))
    assert tokenizer.encode("<extra_id_0><extra_id_1><fill>") == [379, 378, 400]
    assert tokenizer.pad_token_id == 400 and tokenizer.is_special(379)
    assert tokenizer.token(400) == "<fill>"


def test_a_special_token_without_an_id_is_an_error(copied):
    change(copied, pad_token="<fill>")
    with pytest.raises(CheckpointError, match="'<fill>', which its SentencePiece model does not hold"):
        load_tokenizer(str(copied))


def test_damaged_files_are_an_error_in_one_line(copied):
    model = (copied / "spiece.model").read_bytes()
    (copied / "spiece.model").write_bytes(model[:1000])
    with pytest.raises(CheckpointError, match="damaged"):
        load_tokenizer(str(copied))
    (copied / "spiece.model").unlink()
    with pytest.raises(CheckpointError, match="cannot be loaded|no tokenizer") as caught:
        load_tokenizer(str(copied))
    assert "\n" not in str(caught.value)


def test_a_tokenizer_json_beside_the_pieces_is_not_believed(copied, tokenizer):
    """transformers 5 writes one that reads the pieces wrongly."""
    tokenizer.backend_tokenizer.save(str(copied / "tokenizer.json"))
    assert load_tokenizer(str(copied)).encode("<s>") == [1]
    assert isinstance(load_tokenizer(str(copied)), SentencePieceTokenizer)


def test_llamas_pieces_are_read_where_there_is_no_tokenizer_json(copied, tokenizer):
    (copied / "spiece.model").rename(copied / "tokenizer.model")
    change(copied, tokenizer_class="LlamaTokenizer")
    assert isinstance(load_tokenizer(str(copied)), SentencePieceTokenizer)
    tokenizer.backend_tokenizer.save(str(copied / "tokenizer.json"))
    assert isinstance(load_tokenizer(str(copied)), TransformersTokenizer)


def test_files_are_kept_byte_for_byte(reference, tmp_path):
    load_tokenizer(str(reference)).save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["spiece.model", "tokenizer_config.json"]
    for path in tmp_path.iterdir():
        assert path.read_bytes() == (reference / path.name).read_bytes()


def test_tokenizers_of_transformers(tokenizer, tmp_path, digests):
    wrapped = TransformersTokenizer(tokenizer)
    assert wrapped.encode("HI</s>") == [43, 44, 2]
    assert wrapped.decode([1, 43, 44, 2]) == "HI"
    assert (wrapped.token(2), wrapped.is_special(2), wrapped.is_special(43)) == ("</s>", True, False)
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
    wrapped.save(folders[0])
    loaded = load_tokenizer(str(folders[0]))
    assert loaded.encode("HI</s>") == [43, 44, 2]
    assert (loaded.bos_token_id, loaded.eos_token_id, loaded.pad_token_id) == (1, 2, 0)
    loaded.save(folders[1])
    assert digests(folders[0]) == digests(folders[1])


def test_spaces_before_punctuation_survive(tokenizer, tmp_path):
    tokenizer.clean_up_tokenization_spaces = True
    wrapped = TransformersTokenizer(tokenizer)
    assert wrapped.decode(wrapped.encode("A , B .")) == "A , B ."
