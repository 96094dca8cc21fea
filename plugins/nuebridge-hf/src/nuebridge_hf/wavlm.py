"""WavLM: HuBERT's shape with gated relative positions in its attention."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel, WavLMModel

from nuebridge_hf.options import EncoderOptions
from nuebridge_hf.wav2vec_family import DEFAULT_SAMPLE_RATE, Wav2VecFamilyEncoder


class WavLmEncoder(Wav2VecFamilyEncoder):
    """WavLM (Chen et al., arXiv 2110.13900).

    The library computes its attention from the weights of the projections without calling them, so that LoRA in
    them would train and change nothing; here they are called. The frames are the same.
    """

    model_class = WavLMModel
    model_type = "wavlm"
    attention = None

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        normalize: bool = False,
        sample_rate: int = DEFAULT_SAMPLE_RATE,
        options: EncoderOptions | None = None,
    ) -> None:
        super().__init__(model, normalize=normalize, sample_rate=sample_rate, options=options)
        for layer in self.stack.layers:
            layer.attention.torch_multi_head_self_attention = partial(_attend, layer.attention)


def _attend(
    attention: Any,
    hidden: Tensor,
    attention_mask: Tensor | None,
    gated_position_bias: Tensor,
    output_attentions: bool = False,
) -> tuple[Tensor, None]:
    """Attention over ``hidden [B, F, E]`` by its projections. ``gated_position_bias [B * heads, F, F]``; the mask
    ``[B, F]`` is true at real frames."""
    batch, frames, _ = hidden.shape
    heads = (batch, frames, attention.num_heads, attention.head_dim)
    query, key, value = (
        projection(hidden).view(heads).transpose(1, 2)
        for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    bias = gated_position_bias.view(batch, attention.num_heads, frames, frames).to(query.dtype)
    if attention_mask is not None:
        bias = bias.masked_fill(~attention_mask.bool()[:, None, None, :], -torch.inf)
    dropout = attention.dropout if attention.training else 0.0
    attended = F.scaled_dot_product_attention(query, key, value, attn_mask=bias, dropout_p=dropout)
    return attention.out_proj(attended.transpose(1, 2).reshape(batch, frames, -1)), None
