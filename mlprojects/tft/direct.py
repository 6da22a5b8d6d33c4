"""Forward pass of a trained library network, straight from its weights; serving runs this.

Lim, Arik, Loeff and Pfister, Temporal Fusion Transformers for Interpretable Multi-horizon Time
Series Forecasting, 2021 (arXiv 1912.09363), as pytorch-forecasting 1.8 builds it. The network is in
evaluation mode, and every window is as long as the context.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mlprojects.tft.folded import Attention, Gated, Residual, Selection, Weights, part
from mlprojects.tft.inputs import Inputs

CONTEXTS = ("variable_selection", "initial_hidden_lstm", "initial_cell_lstm", "enrichment")


class Direct:
    """Raw output of a trained network for n windows.

    The bits of a window's output depend on that window and on n, not on the other windows.
    """

    def __init__(self, weights: Weights, arguments: Mapping[str, Any]) -> None:
        """`weights` and `arguments` (of the constructor) have the library's names."""
        self.static = Selection(
            weights,
            "static_variable_selection",
            arguments["static_categoricals"],
            arguments["static_reals"],
        )
        self.past = Selection(
            weights,
            "encoder_variable_selection",
            arguments["time_varying_categoricals_encoder"],
            arguments["time_varying_reals_encoder"],
        )
        self.future = Selection(
            weights,
            "decoder_variable_selection",
            arguments["time_varying_categoricals_decoder"],
            arguments["time_varying_reals_decoder"],
        )
        self.contexts = [Residual.of(part(weights, f"static_context_{name}")) for name in CONTEXTS]
        self.encoder = _lstm(part(weights, "lstm_encoder"))
        self.decoder = _lstm(part(weights, "lstm_decoder"))
        gate = part(weights, "post_lstm_gate_encoder")
        norm = part(weights, "post_lstm_add_norm_encoder")
        after_lstm = {f"glu.{name}": w for name, w in gate.items()}
        after_lstm |= {f"add_norm.{name}": w for name, w in norm.items()}
        self.after_lstm = Gated.of(after_lstm)
        self.enrichment = Residual.of(part(weights, "static_enrichment"))
        heads = arguments["attention_head_size"]
        self.attention = Attention(part(weights, "multihead_attn"), heads)
        self.after_attention = Gated.of(part(weights, "post_attn_gate_norm"))
        self.feed_forward = Residual.of(part(weights, "pos_wise_ff"))
        self.before_output = Gated.of(part(weights, "pre_output_gate_norm"))
        self.output = weights["output_layer.weight"], weights["output_layer.bias"]

    def __call__(self, x: Inputs) -> Tensor:
        """Numbers of the output layer, [n, H, Q]."""
        static = self.static(x.sector[:, None], x.state)
        for_selection, hidden, cell, for_enrichment = [context(static) for context in self.contexts]
        past = self._select(self.past, x.past_days, x.past, for_selection)
        future = self._select(self.future, x.future_days, x.future, for_selection)
        length = past.shape[1]
        encoded, state = self.encoder(past, (hidden[None], cell[None]))
        decoded, _ = self.decoder(future, state)
        selected = torch.cat([past, future], dim=1)
        temporal = self.after_lstm(torch.cat([encoded, decoded], dim=1), selected)
        enriched = self.enrichment(temporal, for_enrichment[:, None])
        queries = enriched[:, length:]
        attended = self.after_attention(self.attention(queries, enriched), queries)
        out = self.before_output(self.feed_forward(attended), temporal[:, length:])
        weight, bias = self.output
        return F.linear(out, weight, bias)

    def _select(self, selection: Selection, days: Tensor, reals: Tensor, context: Tensor) -> Tensor:
        """Selected [n, T, H]; what the static context adds is computed once a window."""
        steps = reals.shape[1]
        added = selection.added(context).repeat_interleave(steps, dim=0)
        flat = selection(days.flatten(0, 1), reals.flatten(0, 1), added)
        selected: Tensor = flat.unflatten(0, (-1, steps))
        return selected


def _lstm(w: Weights) -> nn.LSTM:
    width, size = w["weight_ih_l0"].shape
    lstm = nn.LSTM(size, width // 4, batch_first=True)
    lstm.load_state_dict({k: v.float() for k, v in w.items()})
    return lstm.eval().requires_grad_(False)
