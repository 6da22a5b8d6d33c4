"""A network's forward pass without the library: scaled windows in, quantiles out.

Windows come as passes [P, R, L] (blocks/passes.py): P passes of R rows of L sessions. Every matrix
product is one batched product over the passes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import gelu, interpolate, max_pool1d, pad

from mlprojects.blocks.passes import product
from mlprojects.nixtla.networks import Channels, NHits, PatchTST, Unlevelled

Forward = Callable[[Tensor], Tensor]  # passes [P, R, L] -> quantiles [P, R, H * Q], not sorted
Layer = tuple[Tensor, Tensor]  # weight [in, out], bias [out]

ALIGNED = 4  # floats in 16 bytes; a row's start in memory changes the last bits of a product


def forward_of(net: Any) -> Forward:
    """The forward pass of a network (networks.Returns) in eval mode.

    A network of channels takes one pass, whose rows are all of its series. A network of single
    series uses the weights directly: calling its modules would cost as much again.
    """
    if isinstance(net, Channels):
        return lambda z: _channels(net, z)
    return _patches(net) if isinstance(net, PatchTST) else _blocks(net)


def _channels(net: Channels, z: Tensor) -> Tensor:
    """Quantiles [1, N, H * Q] of one pass [1, N, L] of all series."""
    out: Tensor = net({"insample_y": z.mT})  # [1, H, N * Q]
    by_series: Tensor = out.unflatten(2, (z.shape[1], -1)).transpose(1, 2).flatten(2)
    return by_series


# --- N-BEATS and N-HiTS -----------------------------------------------------------------------


@dataclass(frozen=True)
class Block:
    """Layers of a block; its input is the largest of every `pool` sessions of the residual."""

    pool: int
    hidden: list[Layer]  # each followed by a ReLU
    forecast: Layer
    backcast: Layer  # the part that the block explains, with the sign changed


def _blocks(net: Unlevelled) -> Forward:
    """Each block forecasts from the residual of the blocks before it."""
    blocks = [_block(net, block) for block in net.blocks]
    biases = sum((block.forecast[1] for block in blocks[1:]), start=blocks[0].forecast[1])
    *inner, last = blocks

    def hidden(block: Block, residual: Tensor) -> Tensor:
        x = residual if block.pool == 1 else max_pool1d(residual, block.pool, ceil_mode=True)
        x = _filled(x, block.hidden[0][0].shape[0])
        for layer in block.hidden:
            x = product(x, *layer).relu_()
        return x

    def forward(z: Tensor) -> Tensor:
        residual, forecast = z.flip(2), biases
        for block in inner:
            x = hidden(block, residual)
            forecast = product(x, block.forecast[0], forecast)
            residual = product(x, block.backcast[0], residual + block.backcast[1])
        return product(hidden(last, residual), last.forecast[0], forecast)

    return forward


def _filled(x: Tensor, width: int) -> Tensor:
    """x, filled up with zeros to a width."""
    return x if x.shape[-1] == width else pad(x, (0, width - x.shape[-1]))


def _block(net: Unlevelled, block: Any) -> Block:
    """The layers of a block, folded in double precision: the first two have nothing in between."""
    layers = [_transposed(module) for module in block.layers if isinstance(module, torch.nn.Linear)]
    first, second, *others, (weight, bias) = layers
    if isinstance(net, NHits):
        weight, bias = _interpolated(weight, net), _interpolated(bias, net)
    folded = first[0] @ second[0], first[1] @ second[0] + second[1]
    weight = pad(weight, (0, 0, 0, -weight.shape[0] % ALIGNED))
    sizes = [net.input_size, len(bias) - net.input_size]
    backcast, forecast = weight.split(sizes, dim=1)
    backcast_bias, forecast_bias = bias.split(sizes)
    return Block(
        pool=block.pooling_layer.kernel_size if hasattr(block, "pooling_layer") else 1,
        hidden=[_aligned(*layer) for layer in (folded, *others)],
        forecast=_single(forecast, forecast_bias),
        backcast=_single(-backcast, -backcast_bias),
    )


def _transposed(layer: torch.nn.Linear) -> Layer:
    return layer.weight.detach().double().T, layer.bias.detach().double()


def _aligned(weight: Tensor, bias: Tensor) -> Layer:
    """A layer whose input and output rows have an aligned length, filled up with zeros."""
    more_in, more_out = (-size % ALIGNED for size in weight.shape)
    return _single(pad(weight, (0, more_out, 0, more_in)), pad(bias, (0, more_out)))


def _single(weight: Tensor, bias: Tensor) -> Layer:
    return weight.float().contiguous(), bias.float().contiguous()


def _interpolated(values: Tensor, net: NHits) -> Tensor:
    """The last layer with N-HiTS' interpolation in it: [..., L + Q * knots] to [..., L + H * Q]."""
    backcast, knots = values.split([net.input_size, values.shape[-1] - net.input_size], dim=-1)
    knots = knots.unflatten(-1, (net.loss.outputsize_multiplier, -1))  # [..., Q, knots]
    steps = torch.eye(knots.shape[-1], dtype=values.dtype)
    weights = interpolate(steps[None], size=net.h, mode="linear")[0]  # [knots, H]
    forecast = torch.einsum("...qk,kh->...hq", knots, weights).flatten(-2)
    return torch.cat([backcast, forecast], dim=-1)


# --- PatchTST ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Encoder:
    """An encoder layer: attention, feed-forward; each norm is folded into the layer before it."""

    attention: Layer  # query, key and value as one
    out: Layer
    out_gain: Tensor  # factor of the input that bypasses the attention
    inner: Layer
    outer: Layer
    outer_gain: Tensor


def _patches(net: PatchTST) -> Forward:
    """Attention among the patches of a window; scores add up over the layers."""
    model = net.model
    backbone = model.backbone
    embed = backbone.W_P.weight.detach().T.contiguous()  # [patch, width]
    position = (backbone.W_pos + backbone.W_P.bias).detach()  # [T, width]
    layers = [_encoder(layer) for layer in backbone.encoder.layers]
    heads = backbone.encoder.layers[0].self_attn.n_heads
    weight = net.output.weight.detach().unflatten(1, (embed.shape[1], -1))  # of [width, T]
    output = weight.transpose(1, 2).flatten(1).T.contiguous(), net.output.bias.detach()
    no_bias = torch.zeros(embed.shape[1])

    def forward(z: Tensor) -> Tensor:
        count, rows, _ = z.shape

        def linear(x: Tensor, layer: Layer) -> Tensor:
            """A layer on every patch of x [n, T, in], pass by pass."""
            return product(x.reshape(count, -1, x.shape[2]), *layer).view(len(x), x.shape[1], -1)

        windows = z.flatten(0, 1)  # [n, L]
        padded = torch.cat([windows, windows[:, -1:].expand(-1, model.stride)], dim=1)
        patches = padded.unfold(1, model.patch_len, model.stride)
        x = linear(patches, (embed, no_bias)).add_(position)  # [n, T, width]
        scores = torch.zeros(())
        for layer in layers:
            parts = linear(x, layer.attention).unflatten(2, (3, heads, -1))
            q, k, v = parts.permute(2, 0, 3, 1, 4)  # [n, heads, T, width]
            # Keys before queries: softmax over a last dimension of so few patches is slow.
            scores = k @ q.mT + scores
            mixed = (scores.softmax(dim=2).mT @ v).transpose(1, 2).flatten(2)
            x = torch.addcmul(linear(mixed, layer.out), x, layer.out_gain)
            hidden = gelu(linear(x, layer.inner))
            x = torch.addcmul(linear(hidden, layer.outer), x, layer.outer_gain)
        return product(x.view(count, rows, -1), *output)

    return forward


def _encoder(layer: Any) -> Encoder:
    attention, (inner, _, _, outer) = layer.self_attn, layer.ff
    scaled = (attention.W_Q, attention.sdp_attn.scale), (attention.W_K, 1.0), (attention.W_V, 1.0)
    weight = torch.cat([module.weight * scale for module, scale in scaled]).detach()
    bias = torch.cat([module.bias * scale for module, scale in scaled]).detach()
    out, out_gain = _normed(attention.to_out[0], layer.norm_attn[1])
    inner_layer = inner.weight.detach().T.contiguous(), inner.bias.detach()
    outer_layer, outer_gain = _normed(outer, layer.norm_ffn[1])
    attention_layer = weight.T.contiguous(), bias
    return Encoder(attention_layer, out, out_gain, inner_layer, outer_layer, outer_gain)


def _normed(layer: torch.nn.Linear, norm: Any) -> tuple[Layer, Tensor]:
    """layer' and gain, such that norm(x + layer(y)) = layer'(y) + gain x; norm is a BatchNorm1d."""
    gain = (norm.weight / (norm.running_var + norm.eps).sqrt()).detach()
    shift = norm.bias.detach() - gain * norm.running_mean
    weight = layer.weight.detach() * gain[:, None]
    return (weight.T.contiguous(), layer.bias.detach() * gain + shift), gain
