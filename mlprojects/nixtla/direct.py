"""A network's forward pass without the library around it: windows of scaled returns in, quantiles out."""

from collections.abc import Callable

import torch
from torch.nn.functional import gelu, interpolate, linear, max_pool1d, pad

from mlprojects.nixtla.networks import Channels, NHits, PatchTST, Returns, Unlevelled

Forward = Callable[[torch.Tensor], torch.Tensor]  # scaled windows [n, L] -> quantiles [n, H, Q], unsorted
Layer = tuple[torch.Tensor, torch.Tensor]  # weight [out, in], bias [out]

ALIGNED = 4  # floats of 16 bytes: the last bits of a product depend on where in memory a row begins


def forward_of(net: Returns) -> Forward:
    """What the network says of scaled windows [n, L]: of n series, or of all the series of a network of channels.

    The network is in eval mode. Networks of single series go straight through the weights: they are called for many
    chunks of rows, and calling their modules costs as much again.
    """
    if isinstance(net, Channels):
        return lambda z: net({"insample_y": z.T[None]}).reshape(net.h, len(z), -1).transpose(0, 1)
    return _patches(net) if isinstance(net, PatchTST) else _blocks(net)


def _blocks(net: Unlevelled) -> Forward:
    """N-BEATS and N-HiTS: each block forecasts from what the blocks before it have not explained."""
    blocks = [(_pool(block), _layers(net, block)) for block in net.blocks]

    def forward(z: torch.Tensor) -> torch.Tensor:
        residual, forecast = z.flip(1), torch.zeros(())
        for pool, (first, *middle, last) in blocks:
            x = residual if pool == 1 else max_pool1d(residual[:, None], pool, ceil_mode=True)[:, 0]
            x = linear(pad(x, (0, first[0].shape[1] - x.shape[1])), *first)
            for layer in middle:
                x = linear(x, *layer).relu_()
            theta = linear(x, *last)
            residual, forecast = residual - theta[:, : z.shape[1]], forecast + theta[:, z.shape[1] :]
        return forecast.reshape(len(z), net.h, -1)

    return forward


def _pool(block: torch.nn.Module) -> int:
    """Sessions that a block of N-HiTS takes the largest of."""
    return block.pooling_layer.kernel_size if hasattr(block, "pooling_layer") else 1


def _layers(net: Unlevelled, block: torch.nn.Module) -> list[Layer]:
    layers = [(m.weight.detach(), m.bias.detach()) for m in block.layers if isinstance(m, torch.nn.Linear)]
    if isinstance(net, NHits):
        layers[-1] = tuple(_interpolated(values, net) for values in layers[-1])
    *inner, (weight, bias) = layers
    return [*(_aligned(*layer) for layer in inner), (pad(weight, (0, -weight.shape[1] % ALIGNED)), bias)]


def _aligned(weight: torch.Tensor, bias: torch.Tensor) -> Layer:
    """A layer with as many zeros more that it takes and gives rows of aligned length."""
    out, into = (-size % ALIGNED for size in weight.shape)
    return pad(weight, (0, into, 0, out)), pad(bias, (0, out))


def _interpolated(values: torch.Tensor, net: NHits) -> torch.Tensor:
    """The last layer with N-HiTS' interpolation in it: rows [L + Q * knots, ...] as [L + H * Q, ...]."""
    backcast, knots = values.split([net.input_size, len(values) - net.input_size])
    knots = knots.unflatten(0, (net.loss.outputsize_multiplier, -1))  # [Q, knots, ...]
    weights = interpolate(torch.eye(knots.shape[1])[None], size=net.h, mode="linear")[0]  # [knots, H]
    return torch.cat([backcast, torch.einsum("kh,qk...->hq...", weights, knots).flatten(0, 1)])


def _patches(net: PatchTST) -> Forward:
    """PatchTST: attention among the patches of a window, scores added up over the layers."""
    model = net.model
    embed, layers = model.backbone.W_P.weight.detach(), [_encoder(layer) for layer in model.backbone.encoder.layers]
    position = (model.backbone.W_pos + model.backbone.W_P.bias).detach()
    heads = model.backbone.encoder.layers[0].self_attn.n_heads
    weight, bias = net.output.weight.detach(), net.output.bias.detach()  # of [width, P], flattened
    weight = weight.unflatten(1, (len(embed), -1)).transpose(1, 2).flatten(1)  # of [P, width]

    def forward(z: torch.Tensor) -> torch.Tensor:
        padded = torch.cat([z, z[:, -1:].expand(-1, model.stride)], dim=1)
        x = linear(padded.unfold(1, model.patch_len, model.stride), embed).add_(position)  # [n, P, width]
        scores = torch.zeros(())
        for attention, out, out_gain, inner, outer, outer_gain in layers:
            q, k, v = linear(x, *attention).unflatten(2, (3, heads, -1)).permute(2, 0, 3, 1, 4)  # [n, heads, P, width]
            scores = k @ q.mT + scores  # keys before queries: softmax over the last of so few is slow
            mixed = (scores.softmax(dim=2).mT @ v).transpose(1, 2).flatten(2)
            x = torch.addcmul(linear(mixed, *out), x, out_gain)
            x = torch.addcmul(linear(gelu(linear(x, *inner)), *outer), x, outer_gain)
        return linear(x.flatten(1), weight, bias).reshape(len(z), net.h, -1)

    return forward


def _encoder(layer: torch.nn.Module) -> tuple[Layer, Layer, torch.Tensor, Layer, Layer, torch.Tensor]:
    """A layer's query, key and value as one, its output and feed-forward layers with the norms' gain and shift in them,
    and the gains of what bypasses them."""
    attention, (inner, _, _, outer) = layer.self_attn, layer.ff
    scale = attention.sdp_attn.scale
    parts = (attention.W_Q, scale), (attention.W_K, 1.0), (attention.W_V, 1.0)
    qkv = torch.cat([m.weight * s for m, s in parts]).detach(), torch.cat([m.bias * s for m, s in parts]).detach()
    out, out_gain = _normed(attention.to_out[0], layer.norm_attn[1])
    outer, outer_gain = _normed(outer, layer.norm_ffn[1])
    return qkv, out, out_gain, (inner.weight.detach(), inner.bias.detach()), outer, outer_gain


def _normed(layer: torch.nn.Linear, norm: torch.nn.BatchNorm1d) -> tuple[Layer, torch.Tensor]:
    """The batch norm of (x + layer(y)) as layer'(y) + gain * x: layer', gain."""
    gain = (norm.weight / (norm.running_var + norm.eps).sqrt()).detach()
    shift = norm.bias.detach() - gain * norm.running_mean
    return (layer.weight.detach() * gain[:, None], layer.bias.detach() * gain + shift), gain
