"""Group norm with one group a channel over the valid frames of a padded batch.

The first layer of a group-norm front end averages over the whole clip, so padding changes every
frame of it. Here the statistics run over each clip's own frames. The layer sits at the highest
frame rate of the encoder, where its tensors are largest: hence the written-out gradient, which keeps
one tensor of the input's size alive instead of half a dozen.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def masked_group_norm(features: Tensor, lengths: Tensor | None, norm: nn.GroupNorm) -> Tensor:
    """``features [B, C, T]`` normalised per clip and channel over its first ``lengths [B]`` frames.

    ``lengths`` is None where nothing is padded. What is written past a length is finite and
    meaningless, and its gradient is not used.
    """
    if lengths is None:
        return torch.group_norm(features, norm.num_groups, norm.weight, norm.bias, norm.eps)
    result: Tensor = _MaskedGroupNorm.apply(features, tuple(lengths.tolist()), norm.weight, norm.bias, norm.eps)
    return result


class _MaskedGroupNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, lengths: tuple[int, ...], weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        mean = torch.empty(x.shape[:2], dtype=torch.float32, device=x.device)
        variance = torch.empty_like(mean)
        for row, length in enumerate(lengths):
            variance[row], mean[row] = torch.var_mean(x[row, :, :length].float(), dim=-1, correction=0)
        inverse_std = torch.rsqrt(variance + eps)
        scale = inverse_std * weight.float()  # [B, C]
        shift = bias.float() - mean * scale
        out = torch.addcmul(shift[..., None], x, scale[..., None]).to(x.dtype)
        ctx.save_for_backward(x, weight, mean, inverse_std)
        ctx.lengths = lengths
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, inverse_std = ctx.saved_tensors
        grad_sum = torch.empty_like(mean)  # sum of dy over a clip's frames, [B, C]
        grad_dot = torch.empty_like(mean)  # sum of dy * x
        for row, length in enumerate(ctx.lengths):
            dy, clip = grad[row, :, :length], x[row, :, :length]
            grad_sum[row] = dy.sum(-1, dtype=torch.float32)
            grad_dot[row] = torch.linalg.vecdot(dy.float(), clip.float())
        grad_dot = (grad_dot - mean * grad_sum) * inverse_std  # sum of dy * normalised x
        dx = None
        if ctx.needs_input_grad[0]:
            count = torch.tensor(ctx.lengths, dtype=torch.float32, device=x.device)[:, None]
            scale = weight.float() * inverse_std
            slope = -scale * inverse_std * grad_dot / count
            offset = -scale * grad_sum / count - slope * mean
            dx = torch.addcmul(offset[..., None], x, slope[..., None]).addcmul_(grad, scale[..., None]).to(x.dtype)
            for row, length in enumerate(ctx.lengths):
                dx[row, :, length:] = 0
        return dx, None, grad_dot.sum(0).to(weight.dtype), grad_sum.sum(0).to(weight.dtype), None
