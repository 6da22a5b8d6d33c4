"""NeuralForecast's networks, adapted to returns.

Windows are scaled, the last value is no level, and an untrained network forecasts EWMA volatility.
N-BEATS (arXiv 1905.10437), N-HiTS (2201.12886), PatchTST (2211.14730), iTransformer (2310.06625)
and StemGNN (2103.07719) come from neuralforecast (Apache-2.0).
"""

import logging
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from neuralforecast import models
from neuralforecast.losses.pytorch import MQLoss
from scipy.special import ndtri

from mlprojects.nixtla.scaling import ewma_scale
from registry.forecast.spec import ModelSpec

# Lightning's and NeuralForecast's loggers announce devices and seeds at every construction.
for _name in (
    "lightning.pytorch",
    "lightning.fabric",
    "lightning_fabric",
    "pytorch_lightning",
    "neuralforecast",
):
    logging.getLogger(_name).setLevel(logging.ERROR)

Batch = dict[str, torch.Tensor]


_Library: Any = object  # stands for the library's network, the other base of each class below


class Returns(_Library):  # type: ignore[misc]
    """A network whose windows are divided by their own EWMA volatility."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(scaler_type="standard", **kwargs)
        self.scaler.compute_statistics = self._scale

    def _scale(self, x: torch.Tensor, **_: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Shift 0 and EWMA scale [n, 1, ...] of the first L rows of windows [n, L + h, ...]."""
        scale = ewma_scale(x[:, : self.input_size])
        return torch.zeros_like(scale), scale

    @torch.no_grad()
    def start_at(self, quantiles: torch.Tensor) -> None:
        """Make the untrained network forecast these quantiles [Q] of the scaled return."""
        self.output.weight.zero_()  # [H * Q, width]
        self.output.bias.copy_(quantiles.repeat(self.h))


class Unlevelled(Returns):
    """A network without the last value, which NeuralForecast adds to the forecast.

    For returns, the last value is noise.
    """

    def forward(self, windows_batch: Batch) -> torch.Tensor:
        """Quantiles [n, H, Q] of scaled windows."""
        forecast: torch.Tensor = super().forward(windows_batch)
        return forecast - windows_batch["insample_y"][:, -1:]

    @torch.no_grad()
    def start_at(self, quantiles: torch.Tensor) -> None:
        """See Returns. The forecast is the sum over the blocks.

        The last layer of every block is [L + forecast, width].
        """
        outputs = [block.layers[-1] for block in self.blocks]
        for output in outputs:
            output.weight[self.input_size :] = 0
            output.bias[self.input_size :] = 0
        outputs[0].bias[self.input_size :] = self.laid_out(quantiles)


class Channels(Returns):
    """A network of all series together.

    NeuralForecast's network writes [H, Q, N], but its MQLoss reads [H, N, Q]. With more than one
    quantile, a series would get the outputs of other series. So the outputs are reordered here.
    """

    def forward(self, windows_batch: Batch) -> torch.Tensor:
        """Quantiles [n, H, N * Q] of scaled windows [n, L, N]; those of a series are neighbours."""
        forecast: torch.Tensor = super().forward(windows_batch)
        return forecast.reshape(*forecast.shape[:2], -1, self.n_series).transpose(2, 3).flatten(2)


class NBeats(Unlevelled, models.NBEATS):  # type: ignore[misc]
    """N-BEATS of generic blocks."""

    def laid_out(self, quantiles: torch.Tensor) -> torch.Tensor:
        """Quantiles [Q] for every step, [H * Q]."""
        return quantiles.repeat(self.h)


class NHits(Unlevelled, models.NHITS):  # type: ignore[misc]
    """N-HiTS: a block's forecast is interpolated between fewer knots than steps."""

    def laid_out(self, quantiles: torch.Tensor) -> torch.Tensor:
        """Quantiles [Q] for every knot of the first block, [Q * knots]."""
        rows = self.blocks[0].layers[-1].out_features - self.input_size
        return quantiles.repeat_interleave(rows // len(quantiles))


class PatchTST(Returns, models.PatchTST):  # type: ignore[misc]
    """PatchTST."""

    @property
    def output(self) -> torch.nn.Linear:
        linear: torch.nn.Linear = self.model.head.linear
        return linear


class ITransformer(Channels, models.iTransformer):  # type: ignore[misc]
    """iTransformer."""

    @property
    def output(self) -> torch.nn.Linear:
        linear: torch.nn.Linear = self.projector
        return linear


class StemGNN(Channels, models.StemGNN):  # type: ignore[misc]
    """StemGNN with a separate graph for each window.

    The library averages the attention over the windows of a batch. A forecast would then depend on
    the other windows.
    """

    @property
    def output(self) -> torch.nn.Linear:
        linear: torch.nn.Linear = self.fc[-1]
        return linear

    def latent_correlation_layer(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Chebyshev polynomials of the graph Laplacians [n, 4, N, N], and attention [n, N, N].

        The windows are [n, L, N].
        """
        hidden, _ = self.GRU(x.permute(2, 0, 1).contiguous())
        attention = self.self_graph_attention(hidden.permute(1, 0, 2).contiguous())
        degree = attention.sum(dim=2)
        attention = 0.5 * (attention + attention.mT)
        root = torch.diag_embed(1 / (degree.sqrt() + 1e-7))
        laplacian = root @ ((torch.diag_embed(degree) - attention) @ root)
        third = 2 * laplacian @ laplacian
        fourth = 2 * laplacian @ third - laplacian
        first = torch.zeros_like(laplacian)
        return torch.stack([first, laplacian, third, fourth], dim=1), attention


# --- building ---------------------------------------------------------------------------------

# Each function below translates the settings of one kind into the library's arguments.


def _nbeats(width: int, stacks: int) -> dict[str, Any]:
    """Generic stacks (identity basis, so that any horizon works), `width` units in every layer."""
    return {
        "stack_types": ["identity"] * stacks,
        "n_blocks": [1] * stacks,
        "mlp_units": [[width, width]] * 2,
    }


def _nhits(width: int, pools: Sequence[int], downsample: Sequence[int]) -> dict[str, Any]:
    return {
        "stack_types": ["identity"] * len(pools),
        "n_blocks": [1] * len(pools),
        "mlp_units": [[width, width]] * 2,
        "n_pool_kernel_size": list(pools),
        "n_freq_downsample": list(downsample),
    }


def _patchtst(
    width: int, heads: int, layers: int, patch: int, stride: int, dropout: float
) -> dict[str, Any]:
    """Without RevIN: windows are scaled already, and RevIN takes the last value as level."""
    return {
        "hidden_size": width, "n_heads": heads, "encoder_layers": layers,
        "linear_hidden_size": 2 * width, "patch_len": patch, "stride": stride,
        "dropout": dropout, "revin": False,
    }  # fmt: skip


def _itransformer(width: int, heads: int, layers: int, dropout: float) -> dict[str, Any]:
    """Without its normalisation: windows are scaled already."""
    return {
        "hidden_size": width, "n_heads": heads, "e_layers": layers, "d_ff": 2 * width,
        "dropout": dropout, "use_norm": False,
    }  # fmt: skip


def _stemgnn(multiplier: int) -> dict[str, Any]:
    """Without dropout of attention: a series that loses all of it has a degree of 0 as divisor."""
    return {"multi_layer": multiplier, "dropout_rate": 0.0}


KINDS: dict[str, tuple[Callable[..., Returns], Callable[..., dict[str, Any]]]] = {
    "nbeats": (NBeats, _nbeats),
    "nhits": (NHits, _nhits),
    "patchtst": (PatchTST, _patchtst),
    "itransformer": (ITransformer, _itransformer),
    "stemgnn": (StemGNN, _stemgnn),
}


def network(spec: ModelSpec, shape: Mapping[str, Any], **training: Any) -> Returns:
    """The untrained network of a shape, which holds its `kind` and the settings of that kind."""
    sizes = dict(shape)
    make, translate = KINDS[sizes.pop("kind")]
    if spec.universe is not None:
        training["n_series"] = len(spec.universe)
    with own_randomness():
        net = make(
            h=spec.max_horizon,
            input_size=spec.min_context,
            loss=MQLoss(quantiles=list(spec.levels)),
            **translate(**sizes),
            **training,
        )
    net.start_at(torch.tensor(ndtri(spec.levels), dtype=torch.float32))
    return net


@contextmanager
def own_randomness() -> Iterator[None]:
    """Restore the random generators and torch's deterministic mode at the end.

    Lightning and NeuralForecast seed every generator and turn on the deterministic mode.
    """
    python_state = random.getstate()
    numpy_state = np.random.get_state()
    deterministic = torch.are_deterministic_algorithms_enabled()
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)
            torch.use_deterministic_algorithms(deterministic)
