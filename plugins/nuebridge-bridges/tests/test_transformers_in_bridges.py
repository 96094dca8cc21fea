"""The Q-Former and the convolution and transformer bridge, against plain loops and the library's own class."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor, nn

from nuebridge.contracts import Bridge, Frames
from nuebridge.train.recompute import layers, recomputing
from nuebridge_bridges import ConvTransformerOptions, QFormerOptions
from nuebridge_bridges.attention import Attention, FeedForward
from nuebridge_bridges.conv_transformer import ConvTransformerBridge
from nuebridge_bridges.q_former import QFormerBridge, QFormerLayer

Build = Callable[..., Bridge]
FramesOf = Callable[..., Frames]


def linear(layer: nn.Linear, hidden: Tensor) -> Tensor:
    return hidden @ layer.weight.T + layer.bias


def normed(norm: nn.LayerNorm, hidden: Tensor) -> Tensor:
    mean, variance = hidden.mean(-1, keepdim=True), hidden.var(-1, keepdim=True, unbiased=False)
    return (hidden - mean) / (variance + norm.eps).sqrt() * norm.weight + norm.bias


def attended(attention: Attention, hidden: Tensor, context: Tensor) -> Tensor:
    """``[Q, H]`` reads ``[K, C]``, a head at a time."""
    query, key, value = (
        linear(attention.query, hidden),
        linear(attention.key, context),
        linear(attention.value, context),
    )
    size = query.shape[1] // attention.heads
    heads = []
    for begin in range(0, query.shape[1], size):
        part = slice(begin, begin + size)
        scores = query[:, part] @ key[:, part].T / math.sqrt(size)
        heads.append(scores.exp() / scores.exp().sum(1, keepdim=True) @ value[:, part])
    return linear(attention.out, torch.cat(heads, 1))


def fed(layer: FeedForward, hidden: Tensor) -> Tensor:
    hidden = linear(layer.up, hidden)
    return linear(layer.down, hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2))))


def q_former_by_hand(bridge: QFormerBridge, features: Tensor) -> Tensor:
    """A clip, ``[F, E]``, a window at a time."""
    positions = []
    for begin in range(0, len(features), bridge.options.window):
        frames = features[begin : begin + bridge.options.window]
        if bridge.input_norm is not None:
            frames = normed(bridge.input_norm, frames)
        queries = normed(bridge.query_norm, bridge.queries)
        for layer in bridge.layers:
            assert isinstance(layer, QFormerLayer)
            queries = normed(layer.self_attention_norm, queries + attended(layer.self_attention, queries, queries))
            queries = normed(layer.cross_attention_norm, queries + attended(layer.cross_attention, queries, frames))
            queries = normed(layer.feed_forward_norm, queries + fed(layer.feed_forward, queries))
        positions.append(linear(bridge.proj, queries))  # type: ignore[arg-type]
    return torch.cat(positions)


@pytest.mark.parametrize("name", ["q-former", "q-former-several"])
def test_q_former_is_what_a_loop_over_windows_gives(name: str, build: Build, frames_of: FramesOf) -> None:
    """Whole windows, a last one that is not full, and one frame alone."""
    bridge = build(name)
    assert isinstance(bridge, QFormerBridge)
    lengths = (31, 1, 10, 24, 30)
    frames = frames_of(*lengths)
    found = bridge(frames)
    window, queries = bridge.options.window, bridge.options.queries
    assert found.lengths.tolist() == [math.ceil(length / window) * queries for length in lengths]
    for row, length in enumerate(lengths):
        expected = q_former_by_hand(bridge, frames.features[row, :length])
        assert torch.allclose(found.features[row, : len(expected)], expected, atol=1e-5)


def test_q_former_has_the_layers_of_blip_2(build: Build, frames_of: FramesOf) -> None:
    """Whole windows give what the transformers library's class gives, which Granite Speech uses."""
    transformers = pytest.importorskip("transformers")
    bridge = build("q-former-several", layers=2)
    assert isinstance(bridge, QFormerBridge)
    config = transformers.Blip2QFormerConfig(
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        encoder_hidden_size=12,
        cross_attention_frequency=1,
    )
    library = transformers.Blip2QFormerModel(config).eval()
    ours = {"layernorm": bridge.query_norm}
    for i, layer in enumerate(bridge.layers):
        assert isinstance(layer, QFormerLayer)
        for name, attention, norm in (
            ("attention", layer.self_attention, layer.self_attention_norm),
            ("crossattention", layer.cross_attention, layer.cross_attention_norm),
        ):
            at = f"encoder.layer.{i}.{name}"
            ours |= {f"{at}.attention.{part}": getattr(attention, part) for part in ("query", "key", "value")}
            ours |= {f"{at}.output.dense": attention.out, f"{at}.output.LayerNorm": norm}
        ours[f"encoder.layer.{i}.intermediate_query.dense"] = layer.feed_forward.up
        ours[f"encoder.layer.{i}.output_query.dense"] = layer.feed_forward.down
        ours[f"encoder.layer.{i}.output_query.LayerNorm"] = layer.feed_forward_norm
    library.load_state_dict({f"{key}.{n}": p.data for key, m in ours.items() for n, p in m.named_parameters()})
    frames = frames_of(30, 12)
    with torch.no_grad():
        found = bridge(frames)
        for row, count in ((0, 5), (1, 2)):
            windows = frames.features[row, : count * 6].reshape(count, 6, 12)
            read = library(query_embeds=bridge.queries[None], encoder_hidden_states=windows).last_hidden_state
            expected = bridge.proj(read).flatten(0, 1)
            assert torch.allclose(found.features[row, : count * 3], expected, atol=1e-5)


def conv_transformer_by_hand(bridge: ConvTransformerBridge, features: Tensor) -> Tensor:
    """A clip, ``[F, E]``: windows one by one, then whole layers."""
    for conv in bridge.convs:
        assert isinstance(conv, nn.Conv1d)
        size, stride = conv.kernel_size[0], conv.stride[0]
        windows = [features[begin : begin + size] for begin in range(0, len(features) - size + 1, stride)]
        read = torch.stack([torch.einsum("oik,ki->o", conv.weight, window) + conv.bias for window in windows])
        features = F.gelu(read)
    for layer in bridge.layers:
        inner = normed(layer.attention_norm, features)
        features = features + attended(layer.attention, inner, inner)
        features = features + fed(layer.feed_forward, normed(layer.feed_forward_norm, features))
    return linear(bridge.proj, normed(bridge.norm, features))  # type: ignore[arg-type]


def test_conv_transformer_is_what_plain_formulas_give(build: Build, frames_of: FramesOf) -> None:
    bridge = build("conv-transformer")
    assert isinstance(bridge, ConvTransformerBridge)
    lengths = (31, bridge.receptive_field, 10, 24)
    frames = frames_of(*lengths)
    found = bridge(frames)
    for row, length in enumerate(lengths):
        expected = conv_transformer_by_hand(bridge, frames.features[row, :length])
        assert int(found.lengths[row]) == len(expected)
        assert torch.allclose(found.features[row, : len(expected)], expected, atol=1e-5)


@pytest.mark.parametrize("name", ["conv-transformer", "q-former-several"])
def test_dropout_is_for_training_alone(name: str, build: Build, frames_of: FramesOf) -> None:
    bridge, frames = build(name, dropout=0.3), frames_of(31, 20)
    assert torch.equal(bridge(frames).features, bridge(frames).features)
    bridge.train()
    first = bridge(frames).features
    assert not torch.equal(first, bridge(frames).features)
    torch.manual_seed(5)
    one = bridge(frames).features
    torch.manual_seed(5)
    assert torch.equal(bridge(frames).features, one)


@pytest.mark.parametrize("name", ["conv-transformer", "q-former"])
def test_layers_computed_again_give_the_same_gradients(name: str, build: Build, frames_of: FramesOf) -> None:
    gradients = []
    for again in (False, True):
        bridge = build(name, dropout=0.2).train()
        torch.manual_seed(3)
        with recomputing(layers(bridge) if again else []):
            bridge(frames_of(31, 20)).features.square().sum().backward()
        gradients.append([parameter.grad for parameter in bridge.parameters()])
    for kept, computed in zip(*gradients, strict=True):
        assert kept is not None and computed is not None and torch.allclose(kept, computed, atol=1e-6)


@pytest.mark.parametrize("model", [ConvTransformerOptions, QFormerOptions])
def test_heads_divide_the_width(model: type[ConvTransformerOptions] | type[QFormerOptions]) -> None:
    with pytest.raises(ValidationError, match="hidden_size 10 cannot be divided among 4 heads"):
        model(hidden_size=10, heads=4)


def test_options_of_convolutions() -> None:
    with pytest.raises(ValidationError, match="1 kernel sizes but 2 strides; give one each"):
        ConvTransformerOptions(kernel_sizes=(4,))
    with pytest.raises(ValidationError, match="at least 1 item"):
        ConvTransformerOptions(kernel_sizes=(), strides=())
