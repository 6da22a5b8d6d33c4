"""Parts of the network with their weights folded for evaluation; dropout is gone.

Three things make them faster than the library's modules, and none changes what is computed beyond rounding: the
networks of all variables run as one batched product; linear layers without anything between them are one matrix; what
follows from a category alone is a table. Equations are those of Lim et al. 2021 (arXiv 1912.09363).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

Weights = Mapping[str, Tensor]
UNITS = 4  # hidden units are filled up to a multiple with idle ones: MKL's products of 5 to 11 units have bits that
# depend on where in the batch a row is


def part(weights: Weights, prefix: str) -> dict[str, Tensor]:
    """Weights of one module, by their names within it, in double precision: they are multiplied with each other."""
    return {
        name[len(prefix) + 1 :]: w.double()
        for name, w in weights.items()
        if name.startswith(f"{prefix}.")
    }


def interpolation(size: int, to: int) -> Tensor:
    """Matrix [size, to] of the linear interpolation with aligned corners, by which the library resizes a vector."""
    eye = torch.eye(size, dtype=torch.float64)
    return (
        eye
        if size == to
        else F.interpolate(eye[:, None], to, mode="linear", align_corners=True)[:, 0]
    )


def resample_norm(x: Tensor, w: Weights, to: int) -> Tensor:
    """The library's ResampleNorm, [..., size] to [..., to]."""
    resized = x @ interpolation(x.shape[-1], to)
    return F.layer_norm(2 * w["mask"].sigmoid() * resized, (to,), w["norm.weight"], w["norm.bias"])


@dataclass(frozen=True)
class Gated:
    """Gated linear unit, skip connection, layer normalisation; what comes before it linearly is in its matrix."""

    value: tuple[Tensor, Tensor]  # weight [H, in] and bias [H]
    gate: tuple[Tensor, Tensor]
    norm: tuple[Tensor, Tensor]  # scale [H] and shift [H]

    @classmethod
    def of(cls, w: Weights, before: tuple[Tensor, Tensor] | None = None) -> "Gated":
        weight, bias = w["glu.fc.weight"], w["glu.fc.bias"]
        if before is not None:
            weight, bias = weight @ before[0], weight @ before[1] + bias
        value, gate = zip(weight.float().chunk(2), bias.float().chunk(2), strict=True)
        return cls(
            value, gate, (w["add_norm.norm.weight"].float(), w["add_norm.norm.bias"].float())
        )

    def __call__(self, x: Tensor, skip: Tensor) -> Tensor:
        gated = F.linear(x, *self.value).mul_(
            F.linear(x, *self.gate).sigmoid_()
        )  # F.glu is several times slower
        return F.layer_norm(gated.add_(skip), self.norm[0].shape, *self.norm)


@dataclass(frozen=True)
class Residual:
    """Gated residual network of equal input and output size (equations 2 to 5), with or without a context."""

    weight: Tensor
    bias: Tensor
    context: Tensor | None
    gated: Gated

    @classmethod
    def of(cls, w: Weights) -> "Residual":
        context = w.get("context.weight")
        gated = Gated.of(part(w, "gate_norm"), (w["fc2.weight"], w["fc2.bias"]))
        return cls(
            w["fc1.weight"].float(),
            w["fc1.bias"].float(),
            None if context is None else context.float(),
            gated,
        )

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
        slope, offset = (
            torch.stack([s[k].reshape(-1) for s in scalers]) for k in ("weight", "bias")
        )  # [V, c]
        tables = [
            part(weights, f"input_embeddings.embeddings.{name}")["weight"] for name in categories
        ]
        nets = [part(w, f"single_variable_grns.{name}") for name in reals]
        width = nets[0]["gate_norm.add_norm.norm.weight"].shape[0]
        norms = [part(w, f"single_variable_grns.{name}") for name in categories]
        self.outputs = [
            resample_norm(t, n, width).float() for t, n in zip(tables, norms, strict=True)
        ]  # [C, H] each
        self._fold_variables(nets, slope, offset, width)
        self._fold_weights(part(w, "flattened_grn"), tables, slope, offset)

    def _fold_variables(
        self, nets: list[dict[str, Tensor]], slope: Tensor, offset: Tensor, width: int
    ) -> None:
        """A number's embedding is linear in it, and so are its first layer and its skip connection."""

        def stacked(name: str) -> Tensor:
            return torch.stack([net[name] for net in nets])

        self.first = torch.einsum("vdc,vc->vd", stacked("fc1.weight"), slope).float()[
            :, None
        ]  # [V, 1, c]
        self.first_bias = (
            torch.einsum("vdc,vc->vd", stacked("fc1.weight"), offset) + stacked("fc1.bias")
        ).float()[:, None]
        gate, after = stacked("gate_norm.glu.fc.weight"), stacked("fc2.weight")
        bias = torch.einsum("vgc,vc->vg", gate, stacked("fc2.bias")) + stacked(
            "gate_norm.glu.fc.bias"
        )
        self.value, self.gate = (  # bias [V, 1, H] and weight [V, c, H]
            (b[:, None].contiguous(), w.contiguous())
            for b, w in zip(
                bias.float().chunk(2, dim=1), (gate @ after).mT.float().chunk(2, dim=2), strict=True
            )
        )
        resize = interpolation(slope.shape[1], width)
        scale = 2 * stacked("resample_norm.mask").sigmoid()
        self.skip, self.skip_bias = (
            (x @ resize * scale).float()[:, None] for x in (slope, offset)
        )  # [V, 1, H]
        self.norms = [
            stacked(f"{norm}.{what}").float()[:, None]
            for norm in ("resample_norm.norm", "gate_norm.add_norm.norm")
            for what in ("weight", "bias")
        ]

    def _fold_weights(
        self, w: Weights, tables: list[Tensor], slope: Tensor, offset: Tensor
    ) -> None:
        """The network of the weights reads all embeddings side by side: of each category a table, of a number a row."""
        sizes = [t.shape[1] for t in tables] + [slope.shape[1]] * len(slope)
        count = len(sizes)
        idle = -w["fc1.weight"].shape[0] % UNITS
        first, first_bias = F.pad(w["fc1.weight"].T, (0, idle)), F.pad(w["fc1.bias"], (0, idle))
        self.hidden = len(first_bias)
        resize = interpolation(sum(sizes), count) * (2 * w["resample_norm.mask"].sigmoid())
        read = torch.cat([first, resize], dim=1).split(sizes)  # [size, hidden + K + V] each
        numbers = torch.stack(read[len(tables) :])
        self.read_tables = [(t @ r).float() for t, r in zip(tables, read, strict=False)]
        self.read = torch.einsum("vc,vco->vo", slope, numbers).float()
        constant = torch.einsum("vc,vco->o", offset, numbers)
        constant[: self.hidden] += first_bias
        self.read_bias = constant.float()
        self.context = (
            F.pad(w["context.weight"], (0, 0, 0, idle)).float() if "context.weight" in w else None
        )
        self.skip_norm = (
            w["resample_norm.norm.weight"].float(),
            w["resample_norm.norm.bias"].float(),
        )
        self.weigh = Gated.of(
            part(w, "gate_norm"), (F.pad(w["fc2.weight"], (0, idle)), w["fc2.bias"])
        )

    def __call__(self, categories: Tensor, reals: Tensor, context: Tensor | None = None) -> Tensor:
        """Selected [n, H] of categories [n, K] and numbers [n, V]; `context` [n, hidden] is what the static context
        adds to the first layer of the weights' network."""
        weights = self._weights(categories, reals, context)
        x = reals.T[:, :, None]  # [V, n, 1]
        hidden = F.elu(torch.addcmul(self.first_bias, x, self.first))
        value, gate = (
            torch.baddbmm(bias, hidden, weight) for bias, weight in (self.value, self.gate)
        )
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
        """What a static context [n, H] adds to the first layer of the weights' network, [n, hidden]."""
        if self.context is None:
            raise KeyError("context.weight: this selection reads no static context")
        return F.linear(static, self.context)

    def _weights(self, categories: Tensor, reals: Tensor, context: Tensor | None) -> Tensor:
        read = torch.addmm(self.read_bias, reals, self.read)
        for k, table in enumerate(self.read_tables):
            read = read + table[categories[:, k]]
        hidden, skip = read[:, : self.hidden], read[:, self.hidden :]
        if context is not None:
            hidden = hidden + context
        skip = F.layer_norm(skip, skip.shape[1:], *self.skip_norm)
        return (
            self.weigh(F.elu(hidden), skip).T.contiguous().softmax(dim=0)
        )  # along rows of 7 it is far slower


class Attention:
    """Interpretable multi-head attention (equations 13 to 16): heads share their values and are averaged."""

    def __init__(self, w: Weights, heads: int) -> None:
        def joined(side: str, what: str) -> Tensor:
            return torch.cat([w[f"{side}_layers.{i}.{what}"] for i in range(heads)])

        scale = w["v_layer.weight"].shape[0] ** -0.5
        self.heads = heads
        self.query = (joined("q", "weight") * scale).float(), (joined("q", "bias") * scale).float()
        self.key = joined("k", "weight").float(), joined("k", "bias").float()
        values = w["w_h.weight"] / heads
        self.value = (values @ w["v_layer.weight"]).float(), (values @ w["v_layer.bias"]).float()

    def __call__(self, asked: Tensor, known: Tensor) -> Tensor:
        """[n, T, H] of queries [n, T, H], the last T of all steps [n, L + T, H]. A step attends to those before it."""
        steps = asked.shape[1]
        q, k = (
            F.linear(x, *w).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for x, w in ((asked, self.query), (known, self.key))
        )
        later = torch.ones(steps, steps, dtype=torch.bool).triu()  # and not to itself
        scores = q @ k.mT  # [n, heads, T, L + T]
        scores[..., -steps:].masked_fill_(later, -torch.inf)
        attended: Tensor = scores.softmax(dim=-1).sum(dim=1) @ F.linear(known, *self.value)
        return attended
