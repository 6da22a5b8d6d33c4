"""pytorch-forecasting's TemporalFusionTransformer, for training and for interpretation."""

import warnings
from typing import Any

import torch
from pytorch_forecasting import QuantileLoss, TemporalFusionTransformer
from torch import Tensor, nn

from mlprojects.blocks import head
from mlprojects.tft.inputs import CALENDAR, OBSERVED, STATE, STEP, DataParameters, Inputs
from registry.forecast import names

EMBEDDING = {names.SECTOR: 4, "weekday": 3, "month": 4}  # size of each embedding


def arguments(
    data: DataParameters,
    *,
    width: int,
    inner: int,
    heads: int,
    dropout: float,
    context: int,
    levels: int,
) -> dict[str, Any]:
    """Arguments of the library's constructor, ready for JSON.

    The library calls `width` hidden_size and `inner` hidden_continuous_size.
    """
    sizes = {names.SECTOR: len(data.sectors), **CALENDAR}
    past, future = [*OBSERVED, *data.covariates, STEP], [STEP]
    return {
        "hidden_size": width,
        "hidden_continuous_size": inner,
        "attention_head_size": heads,
        "dropout": dropout,
        "max_encoder_length": context,
        "output_size": levels,
        "static_categoricals": [names.SECTOR],
        "static_reals": list(STATE),
        "time_varying_categoricals_encoder": list(CALENDAR),
        "time_varying_categoricals_decoder": list(CALENDAR),
        "time_varying_reals_encoder": past,
        "time_varying_reals_decoder": future,
        "x_categoricals": list(sizes),
        "x_reals": [*past, *STATE],
        "embedding_sizes": {name: [size, EMBEDDING[name]] for name, size in sizes.items()},
    }


class QuantileHead:
    """The library's output transformer: quantiles that cannot cross, in units of target_scale."""

    def __init__(self, levels: tuple[float, ...]) -> None:
        self.levels = levels

    def __call__(self, out: dict[str, Tensor]) -> Tensor:
        return head.spread(out["prediction"], self.levels) * out["target_scale"][:, 1, None, None]


def build(arguments: dict[str, Any], levels: tuple[float, ...]) -> TemporalFusionTransformer:
    """An untrained network; it forecasts EWMA volatility x normal quantiles for any input.

    The median's row of the output layer stays zero, so that the median is the same constant share
    of the volatility for every window and step. A network of this size would only fit noise there.
    """
    with warnings.catch_warnings():
        # This warning is about the library's checkpoints, which we do not use.
        warnings.filterwarnings("ignore", message="Attribute .* is an instance of `nn.Module`")
        net = TemporalFusionTransformer(
            **arguments,
            loss=QuantileLoss(list(levels)),
            logging_metrics=nn.ModuleList(),
            output_transformer=QuantileHead(levels),
        )
    learnt = torch.ones(len(levels), 1)
    learnt[head.centre(levels)] = 0
    net.output_layer.weight.register_hook(lambda gradient: gradient * learnt)
    with torch.no_grad():
        net.output_layer.weight.zero_()
        net.output_layer.bias.copy_(head.normal_start(levels))
    return net


def library(x: Inputs) -> dict[str, Tensor]:
    """Windows in the library's form: static variables repeated at every step; the scale is 1."""
    n, length, steps = len(x.sector), x.past.shape[1], x.future.shape[1]

    def repeated(static: Tensor, times: int) -> Tensor:
        return static[:, None].expand(-1, times, *static.shape[1:])

    # The decoder skips variables that are observed only later.
    skipped = x.future.new_zeros(n, steps, x.past.shape[2] - x.future.shape[2])
    return {
        "encoder_cat": torch.cat([repeated(x.sector[:, None], length), x.past_days], dim=2),
        "decoder_cat": torch.cat([repeated(x.sector[:, None], steps), x.future_days], dim=2),
        "encoder_cont": torch.cat([x.past, repeated(x.state, length)], dim=2),
        "decoder_cont": torch.cat([skipped, x.future, repeated(x.state, steps)], dim=2),
        "encoder_lengths": torch.full((n,), length),
        "decoder_lengths": torch.full((n,), steps),
        "target_scale": torch.tensor([0.0, 1.0]).expand(n, 2),
    }


def weights(net: TemporalFusionTransformer) -> dict[str, Tensor]:
    """Every weight once, although several modules of the library share some."""
    return {name: w.detach().clone() for name, w in net.named_parameters()}
