"""The library network's forward pass in evaluation, straight through its weights: what serving runs.

Lim, Arik, Loeff and Pfister, Temporal Fusion Transformers for Interpretable Multi-horizon Time Series Forecasting, 2021
(arXiv 1912.09363), as pytorch-forecasting 1.8 builds it, for windows that are all as long as the context.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mlprojects.tft.folded import Attention, Gated, Residual, Selection, Weights, part
from mlprojects.tft.inputs import Inputs


class Direct:
    """Raw output of a trained network for windows [n]; the bits of a window depend on nothing but it and n."""

    def __init__(self, weights: Weights, arguments: Mapping[str, Any]) -> None:
        """`weights` and `arguments` (of the constructor) as the library names them."""
        at = arguments
        self.static = Selection(
            weights, "static_variable_selection", at["static_categoricals"], at["static_reals"]
        )
        self.past, self.future = (
            Selection(
                weights,
                f"{side}_variable_selection",
                at[f"time_varying_categoricals_{side}"],
                at[f"time_varying_reals_{side}"],
            )
            for side in ("encoder", "decoder")
        )
        self.contexts = [
            Residual.of(part(weights, f"static_context_{what}"))
            for what in (
                "variable_selection",
                "initial_hidden_lstm",
                "initial_cell_lstm",
                "enrichment",
            )
        ]
        self.encoder, self.decoder = (
            _lstm(part(weights, f"lstm_{side}")) for side in ("encoder", "decoder")
        )
        self.after_lstm = Gated.of(
            {f"glu.{k}": w for k, w in part(weights, "post_lstm_gate_encoder").items()}
            | {f"add_norm.{k}": w for k, w in part(weights, "post_lstm_add_norm_encoder").items()}
        )
        self.enrichment = Residual.of(part(weights, "static_enrichment"))
        self.attention = Attention(part(weights, "multihead_attn"), at["attention_head_size"])
        self.after_attention = Gated.of(part(weights, "post_attn_gate_norm"))
        self.feed_forward = Residual.of(part(weights, "pos_wise_ff"))
        self.before_output = Gated.of(part(weights, "pre_output_gate_norm"))
        self.output = weights["output_layer.weight"], weights["output_layer.bias"]

    def __call__(self, x: Inputs) -> Tensor:
        """What the output layer says, [n, H, Q]."""
        static = self.static(x.sector[:, None], x.state)
        choosing, hidden, cell, enriching = (context(static) for context in self.contexts)
        past = self._select(self.past, x.past_days, x.past, choosing)
        future = self._select(self.future, x.future_days, x.future, choosing)
        read, state = self.encoder(past, (hidden[None], cell[None]))
        written, _ = self.decoder(future, state)
        known = self.after_lstm(torch.cat([read, written], dim=1), torch.cat([past, future], dim=1))
        enriched = self.enrichment(known, enriching[:, None])
        asked = enriched[:, past.shape[1] :]
        out = self.feed_forward(self.after_attention(self.attention(asked, enriched), asked))
        weight, bias = self.output
        return F.linear(self.before_output(out, known[:, past.shape[1] :]), weight, bias)

    def _select(self, selection: Selection, days: Tensor, reals: Tensor, context: Tensor) -> Tensor:
        """Selected [n, T, H]; the static context is read once a window."""
        steps = reals.shape[1]
        read = selection.added(context).repeat_interleave(steps, dim=0)
        chosen = selection(days.flatten(0, 1), reals.flatten(0, 1), read)
        selected: Tensor = chosen.unflatten(0, (-1, steps))
        return selected


def _lstm(w: Weights) -> nn.LSTM:
    width, size = w["weight_ih_l0"].shape
    lstm = nn.LSTM(size, width // 4, batch_first=True)
    lstm.load_state_dict({k: v.float() for k, v in w.items()})
    return lstm.eval().requires_grad_(False)
