"""Why fairseq2's language models are not offered as text decoders. Where one of these fails, they might be."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fairseq2.models.llama import get_llama_model_hub
from fairseq2.models.qwen import get_qwen_model_hub
from fairseq2.nn import BatchLayout, IncrementalStateBag


@pytest.fixture(params=["llama3_2_1b", "qwen25_1_5b"])
def model(request: pytest.FixtureRequest) -> Any:
    hub: Any = get_llama_model_hub() if request.param.startswith("llama") else get_qwen_model_hub()
    config = hub.get_arch_config(request.param)
    config.model_dim, config.num_layers, config.num_attn_heads, config.num_key_value_heads = 16, 2, 2, 1
    config.vocab_size, config.max_seq_len, config.ffn_inner_dim = 32, 64, 32
    if request.param.startswith("llama"):
        config.pad_idx = None
    torch.manual_seed(0)
    return hub.create_new_model(config).eval()


def test_embeddings_can_be_read_and_cached_for_rows_of_one_length(model: Any) -> None:
    embeddings = torch.randn(2, 7, 16)
    bag = IncrementalStateBag(16)
    with torch.no_grad():
        whole = model.decoder(embeddings, BatchLayout.of(embeddings))
        model.decoder(embeddings[:, :6], BatchLayout.of(embeddings[:, :6]), state_bag=bag)
        bag.increment_step_nr(6)
        last = model.decoder(embeddings[:, 6:], BatchLayout.of(embeddings[:, 6:]), state_bag=bag)
    torch.testing.assert_close(last[:, 0], whole[:, 6], atol=1e-5, rtol=0)


def test_a_cache_takes_no_padded_prompts(model: Any) -> None:
    """Prompts of different lengths, as clips of different lengths give them."""
    embeddings = torch.randn(2, 7, 16)
    with pytest.raises(ValueError, match="must not be a padded batch"):
        model.decoder(embeddings, BatchLayout.of(embeddings, [7, 4]), state_bag=IncrementalStateBag(16))


def test_a_cache_takes_no_packed_prompts(model: Any) -> None:
    embeddings = torch.randn(11, 16)
    with pytest.raises(ValueError, match="must not be a packed batch"):
        model.decoder(embeddings, BatchLayout.of(embeddings, [7, 4], packed=True), state_bag=IncrementalStateBag(16))


def test_a_layout_knows_no_padding_on_the_left() -> None:
    layout = BatchLayout((2, 7), [7, 4])
    assert layout.position_indices[1].tolist() == [0, 1, 2, 3, -1, -1, -1]
