"""Parts of the network for evaluation: weights are folded together, dropout is left out.

Three things make them faster than the library's modules; results differ by rounding only:
the networks of all variables run as one batched product, linear layers with nothing between them
become one matrix, and whatever depends on a category alone is a table.
Equations are those of Lim et al. 2021 (arXiv 1912.09363).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

Weights = Mapping[str, Tensor]
# Hidden units are padded with idle ones to a multiple of this: in MKL's products of 5 to 11 units,
# the bits of a row depend on its place in the batch.
UNITS = 4


def part(weights: Weights, prefix: str) -> dict[str, Tensor]:
    """Weights of one module by their names in it; in double precision, because they get folded."""
    return {
        name[len(prefix) + 1 :]: w.double()
        for name, w in weights.items()
        if name.startswith(f"{prefix}.")
    }


def interpolation(size: int, to: int) -> Tensor:
    """Matrix [size, to] of linear interpolation with aligned corners: the library's resizing."""
    eye = torch.eye(size, dtype=torch.float64)
    if size == to:
        return eye
    return F.interpolate(eye[:, None], to, mode="linear", align_corners=True)[:, 0]


def resample_norm(x: Tensor, w: Weights, to: int) -> Tensor:
    """The library's ResampleNorm, [..., size] to [..., to]."""
    resized = x @ interpolation(x.shape[-1], to)
    return F.layer_norm(2 * w["mask"].sigmoid() * resized, (to,), w["norm.weight"], w["norm.bias"])


@dataclass(frozen=True)
class Gated:
    """Gated linear unit, skip connection, layer normalisation.

    A linear layer before the unit is folded into the unit's matrix.
    """

    value: tuple[Tensor, Tensor]  # weight [H, in] and bias [H]
    gate: tuple[Tensor, Tensor]
    norm: tuple[Tensor, Tensor]  # scale [H] and shift [H]

    @classmethod
    def of(cls, w: Weights, before: tuple[Tensor, Tensor] | None = None) -> "Gated":
        weight, bias = w["glu.fc.weight"], w["glu.fc.bias"]
        if before is not None:
            weight, bias = weight @ before[0], weight @ before[1] + bias
        value, gate = zip(weight.float().chunk(2), bias.float().chunk(2), strict=True)
        norm = w["add_norm.norm.weight"].float(), w["add_norm.norm.bias"].float()
        return cls(value, gate, norm)

    def __call__(self, x: Tensor, skip: Tensor) -> Tensor:
        value = F.linear(x, *self.value)
        gate = F.linear(x, *self.gate)
        gated = value.mul_(gate.sigmoid_())  # F.glu is several times slower
        return F.layer_norm(gated.add_(skip), self.norm[0].shape, *self.norm)


@dataclass(frozen=True)
class Residual:
    """Gated residual network (equations 2 to 5) of equal input and output size.

    The context is optional.
    """

    weight: Tensor
    bias: Tensor
    context: Tensor | None
    gated: Gated

    @classmethod
    def of(cls, w: Weights) -> "Residual":
        context = w.get("context.weight")
        if context is not None:
            context = context.float()
        gated = Gated.of(part(w, "gate_norm"), (w["fc2.weight"], w["fc2.bias"]))
        return cls(w["fc1.weight"].float(), w["fc1.bias"].float(), context, gated)

    def __call__(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        hidden = F.linear(x, self.weight, self.bias)
        if self.context is not None and context is not None:
            hidden = hidden + F.linear(context, self.context)
        return self.gated(F.elu(hidden), x)


class Selection:
    """Variable selection network (equations 6 to 8): K categories, then V numbers."""

    def __init__(
        self, weights: Weights, prefix: str, categories: Sequence[str], reals: Sequence[str]
    ) -> None:
        w = part(weights, prefix)
        scalers = [part(weights, f"prescalers.{name}") for name in reals]
        slope = torch.stack([scaler["weight"].reshape(-1) for scaler in scalers])  # [V, c]
        offset = torch.stack([scaler["bias"].reshape(-1) for scaler in scalers])  # [V, c]
        tables = [
            part(weights, f"input_embeddings.embeddings.{name}")["weight"] for name in categories
        ]
        nets = [part(w, f"single_variable_grns.{name}") for name in reals]
        width = nets[0]["gate_norm.add_norm.norm.weight"].shape[0]
        norms = [part(w, f"single_variable_grns.{name}") for name in categories]
        self.outputs = [
            resample_norm(table, norm, width).float()
            for table, norm in zip(tables, norms, strict=True)
        ]  # [C, H] each
        self._fold_variables(nets, slope, offset, width)
        self._fold_weights(part(w, "flattened_grn"), tables, slope, offset)

    def _fold_variables(
        self, nets: list[dict[str, Tensor]], slope: Tensor, offset: Tensor, width: int
    ) -> None:
        """Fold the networks of the numbers.

        A number's embedding is linear in the number, so its first layer and its skip connection are
        linear, too.
        """

        def stacked(name: str) -> Tensor:
            return torch.stack([net[name] for net in nets])

        first, second = stacked("fc1.weight"), stacked("fc2.weight")
        self.first = torch.einsum("vdc,vc->vd", first, slope).float()[:, None]  # [V, 1, c]
        first_bias = torch.einsum("vdc,vc->vd", first, offset) + stacked("fc1.bias")
        self.first_bias = first_bias.float()[:, None]
        glu, glu_bias = stacked("gate_norm.glu.fc.weight"), stacked("gate_norm.glu.fc.bias")
        bias = torch.einsum("vgc,vc->vg", glu, stacked("fc2.bias")) + glu_bias
        value_bias, gate_bias = bias.float().chunk(2, dim=1)
        value_weight, gate_weight = (glu @ second).mT.float().chunk(2, dim=2)
        # Each is a bias [V, 1, H] and a weight [V, c, H].
        self.value = value_bias[:, None].contiguous(), value_weight.contiguous()
        self.gate = gate_bias[:, None].contiguous(), gate_weight.contiguous()
        resize = interpolation(slope.shape[1], width)
        scale = 2 * stacked("resample_norm.mask").sigmoid()
        self.skip = (slope @ resize * scale).float()[:, None]  # [V, 1, H]
        self.skip_bias = (offset @ resize * scale).float()[:, None]
        self.norms = [
            stacked(f"{norm}.{parameter}").float()[:, None]
            for norm in ("resample_norm.norm", "gate_norm.add_norm.norm")
            for parameter in ("weight", "bias")
        ]

    def _fold_weights(
        self, w: Weights, tables: list[Tensor], slope: Tensor, offset: Tensor
    ) -> None:
        """Fold the network of the selection weights.

        It reads all embeddings side by side: a category becomes a table, a number a row.
        """
        sizes = [table.shape[1] for table in tables] + [slope.shape[1]] * len(slope)
        count = len(sizes)
        idle = -w["fc1.weight"].shape[0] % UNITS
        first = F.pad(w["fc1.weight"].T, (0, idle))
        first_bias = F.pad(w["fc1.bias"], (0, idle))
        self.hidden = len(first_bias)
        resize = interpolation(sum(sizes), count) * (2 * w["resample_norm.mask"].sigmoid())
        parts = torch.cat([first, resize], dim=1).split(sizes)  # [size, hidden + K + V] each
        self.read_tables = [
            (table @ matrix).float() for table, matrix in zip(tables, parts, strict=False)
        ]
        numbers = torch.stack(parts[len(tables) :])
        self.read = torch.einsum("vc,vco->vo", slope, numbers).float()
        constant = torch.einsum("vc,vco->o", offset, numbers)
        constant[: self.hidden] += first_bias
        self.read_bias = constant.float()
        self.context = None
        if "context.weight" in w:
            self.context = F.pad(w["context.weight"], (0, 0, 0, idle)).float()
        norm = "resample_norm.norm"
        self.skip_norm = w[f"{norm}.weight"].float(), w[f"{norm}.bias"].float()
        second = F.pad(w["fc2.weight"], (0, idle))
        self.weigh = Gated.of(part(w, "gate_norm"), (second, w["fc2.bias"]))

    def __call__(self, categories: Tensor, reals: Tensor, context: Tensor | None = None) -> Tensor:
        """Selected [n, H] of categories [n, K] and numbers [n, V].

        `context` [n, hidden] comes from `added`.
        """
        weights = self._weights(categories, reals, context)
        x = reals.T[:, :, None]  # [V, n, 1]
        hidden = F.elu(torch.addcmul(self.first_bias, x, self.first))
        value_bias, value_weight = self.value
        gate_bias, gate_weight = self.gate
        value = torch.baddbmm(value_bias, hidden, value_weight)
        gate = torch.baddbmm(gate_bias, hidden, gate_weight)
        gated = value.mul_(gate.sigmoid_())
        skip_scale, skip_shift, scale, shift = self.norms
        size = skip_scale.shape[-1:]
        skip = F.layer_norm(torch.addcmul(self.skip_bias, x, self.skip), size)
        out = F.layer_norm(gated + torch.addcmul(skip_shift, skip, skip_scale), size)
        out = torch.addcmul(shift, out, scale)  # [V, n, H]
        count = len(self.outputs)
        selected = (out * weights[count:, :, None]).sum(dim=0)
        for k, table in enumerate(self.outputs):
            selected.addcmul_(weights[k, :, None], table[categories[:, k]])
        return selected

    def added(self, static: Tensor) -> Tensor:
        """What a static context [n, H] adds to the weights' first layer, [n, hidden]."""
        if self.context is None:
            raise KeyError("context.weight: this selection reads no static context")
        return F.linear(static, self.context)

    def _weights(self, categories: Tensor, reals: Tensor, context: Tensor | None) -> Tensor:
        """Selection weights [K + V, n]."""
        linear = torch.addmm(self.read_bias, reals, self.read)  # [n, hidden + K + V]
        for k, table in enumerate(self.read_tables):
            linear = linear + table[categories[:, k]]
        hidden, skip = linear[:, : self.hidden], linear[:, self.hidden :]
        if context is not None:
            hidden = hidden + context
        skip = F.layer_norm(skip, skip.shape[1:], *self.skip_norm)
        logits = self.weigh(F.elu(hidden), skip).T.contiguous()
        return logits.softmax(dim=0)  # along rows of 7 it is far slower


class Attention:
    """Interpretable multi-head attention (equations 13 to 16).

    Heads share their values, and their results are averaged.
    """

    def __init__(self, w: Weights, heads: int) -> None:
        def joined(side: str, parameter: str) -> Tensor:
            return torch.cat([w[f"{side}_layers.{i}.{parameter}"] for i in range(heads)])

        scale = w["v_layer.weight"].shape[0] ** -0.5
        self.heads = heads
        self.query = (joined("q", "weight") * scale).float(), (joined("q", "bias") * scale).float()
        self.key = joined("k", "weight").float(), joined("k", "bias").float()
        values = w["w_h.weight"] / heads
        self.value = (values @ w["v_layer.weight"]).float(), (values @ w["v_layer.bias"]).float()

    def __call__(self, queries: Tensor, sequence: Tensor) -> Tensor:
        """Attended [n, T, H] of queries [n, T, H] over a sequence [n, L + T, H].

        Queries are the last T steps of the sequence. A step attends to earlier steps only.
        """
        steps = queries.shape[1]
        q = F.linear(queries, *self.query).unflatten(2, (self.heads, -1)).transpose(1, 2)
        k = F.linear(sequence, *self.key).unflatten(2, (self.heads, -1)).transpose(1, 2)
        not_earlier = torch.ones(steps, steps, dtype=torch.bool).triu()
        scores = q @ k.mT  # [n, heads, T, L + T]
        scores[..., -steps:].masked_fill_(not_earlier, -torch.inf)
        summed = scores.softmax(dim=-1).sum(dim=1)
        attended: Tensor = summed @ F.linear(sequence, *self.value)
        return attended
