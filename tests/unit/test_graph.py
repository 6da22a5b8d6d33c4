"""graph: neighbours by hand, the network against its slow form, parts of the universe."""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import matplotlib.figure
import numpy as np
import numpy.testing as npt
import pandas as pd
import pytest
import torch
from torch import Tensor

from mlprojects.blocks import features
from mlprojects.graph import adjacency, model, picture
from mlprojects.graph.network import OWN, GraphGRU, LearnedGraph, Network, Shape, heard
from registry.errors import BadConfig, BadHistory
from registry.forecast import names
from registry.forecast.answer import forecast_of
from registry.forecast.arrays import Floats
from registry.forecast.checks import check_history
from registry.forecast.forecast import Forecast
from registry.forecast.spec import ModelSpec

SESSIONS = 6
LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)
UNIVERSE = ("A", "B", "C", "D", "E")
# Neighbours of A are B and C, of B A and C, of C A, B and D, of D C and E, of E only D.
WEIGHTS = torch.tensor(
    [
        [0.0, 2.0, 1.0, 0.0, 0.0],
        [2.0, 0.0, 2.0, 0.0, 0.0],
        [1.0, 2.0, 0.0, 1.0, 0.0],
        [0.0, 0.0, 1.0, 0.0, 3.0],
        [0.0, 0.0, 0.0, 3.0, 0.0],
    ]
)
ALL = torch.ones(5)


# --- neighbours -------------------------------------------------------------------------------

# Three orthogonal returns with mean 0 and equal length, so that correlations of sums are simple.
A, B, C = np.array([[1.0, 1, -1, -1], [1, -1, 1, -1], [1, -1, -1, 1]])
Y = np.stack([A, 3 * A + 4 * B, B, 12 * C - 5 * A])  # 3-4-5 and 5-12-13


def test_the_strongest_correlation_of_each_series_is_an_edge_of_both() -> None:
    expected = np.zeros((4, 4))
    expected[0, 1] = expected[1, 0] = 3 / 5
    expected[1, 2] = expected[2, 1] = 4 / 5
    expected[0, 3] = expected[3, 0] = 5 / 13  # of -5 / 13
    npt.assert_allclose(adjacency.correlation(Y, 1), expected, atol=1e-15)


def test_two_neighbours_each_bring_the_next_strongest_too() -> None:
    one_neighbour, two_neighbours = adjacency.correlation(Y, 1), adjacency.correlation(Y, 2)
    npt.assert_allclose(two_neighbours[1, 3], 3 * 5 / (5 * 13))
    npt.assert_allclose(two_neighbours, two_neighbours.T)
    two_neighbours[1, 3] = two_neighbours[3, 1] = 0
    npt.assert_allclose(two_neighbours, one_neighbour, atol=1e-15)


@pytest.mark.parametrize("k", [0, 4])
def test_more_neighbours_than_there_are_others_are_refused(k: int) -> None:
    with pytest.raises(BadConfig, match=rf"k is {k}, expected 1..3: a series has 3 others"):
        adjacency.correlation(Y, k)


def test_partial_correlation_of_a_precision_matrix() -> None:
    precision = np.array([[4.0, -1, 0], [-1, 1, 0.6], [0, 0.6, 9]])
    expected = [[0, 1 / 2, 0], [1 / 2, 0, -0.6 / 3], [0, -0.2, 0]]
    npt.assert_allclose(adjacency.partial_correlations(precision), expected, atol=1e-15)


def test_partial_correlations_are_found_again_in_returns_that_have_them() -> None:
    """A chain: each series depends on the next alone, though all of them correlate."""
    precision = np.array([[1.0, -0.4, 0, 0], [-0.4, 1, -0.4, 0], [0, -0.4, 1, 0.4], [0, 0, 0.4, 1]])
    rng = np.random.default_rng(0)
    y = rng.multivariate_normal(np.zeros(4), np.linalg.inv(precision), size=4000).T
    expected = np.abs(adjacency.partial_correlations(precision))
    npt.assert_allclose(adjacency.partial(0.01 * y), expected, atol=0.03)
    assert np.abs(np.corrcoef(y)[0, 2]) > 0.15


def test_returns_without_a_partial_correlation_are_refused() -> None:
    y = np.random.default_rng(0).normal(size=(5, 400))
    with pytest.raises(BadConfig, match="the graphical lasso finds no solution") as caught:
        adjacency.partial(np.vstack([y, y[0] + y[1]]))
    assert caught.value.code == "SINGULAR"


def test_series_of_one_sector_are_neighbours() -> None:
    npt.assert_array_equal(adjacency.sector(["x", "y", "x"]), [[0, 0, 1], [0, 0, 0], [1, 0, 0]])


def test_a_series_without_a_neighbour_is_named_or_hears_itself_when_that_is_asked_for() -> None:
    weights = adjacency.sector(["x", "y", "x"])
    with pytest.raises(
        BadConfig, match=r"^GE would have no neighbour with graph: sector; take another"
    ) as caught:
        adjacency.with_loops(weights, ["AAPL", "GE", "MSFT"], "sector", "refuse")
    assert caught.value.code == "ISOLATED"
    looped = adjacency.with_loops(weights, ["AAPL", "GE", "MSFT"], "sector", "loop")
    npt.assert_array_equal(looped, [[0, 0, 1], [0, 1, 0], [1, 0, 0]])


def test_a_series_that_never_moves_has_no_place_in_a_graph() -> None:
    still = np.vstack([Y, np.zeros(4)])
    with pytest.raises(BadHistory, match=r"^KO has the same return in every session") as caught:
        adjacency.check_moves(still, ["A", "B", "C", "D", "KO"])
    assert caught.value.code == "CONSTANT"


def test_what_is_heard_are_shares_of_the_present_neighbours() -> None:
    npt.assert_allclose(heard(WEIGHTS, ALL)[2], [1 / 4, 2 / 4, 0, 1 / 4, 0])
    without_b = heard(WEIGHTS, torch.tensor([1.0, 0, 1, 1, 1]))
    npt.assert_allclose(without_b[2], [1 / 2, 0, 0, 1 / 2, 0])
    npt.assert_array_equal(heard(WEIGHTS, torch.tensor([1.0, 1, 1, 0, 1]))[4], np.zeros(5))
    npt.assert_array_equal(heard(torch.eye(2), torch.zeros(2)), np.eye(2))  # a loop is always heard


def test_a_learned_graph_begins_near_equal_weights_and_its_rows_add_up_to_1() -> None:
    torch.manual_seed(0)
    weights = LearnedGraph(20, 8)().detach()
    npt.assert_allclose(weights.sum(dim=1), 1.0, rtol=1e-6)
    assert 0.5 / 20 < weights.min() < weights.max() < 2 / 20


# --- network ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def net() -> Network:
    """A network of random weights: its outputs differ between series and steps."""
    torch.manual_seed(3)
    net = Network(Shape(3, LEVELS, hidden=4, dropout=0.5))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(0.4 * torch.randn_like(parameter))
    return net.eval()


def inputs(series: int = 5, batch: int = 2) -> Tensor:
    return torch.randn(
        batch, SESSIONS, series, len(features.NAMES), generator=torch.Generator().manual_seed(1)
    )


def test_an_untrained_network_says_normal_quantiles() -> None:
    quantiles = Network(Shape(3, LEVELS, 4, 0.5)).eval()(inputs(), heard(WEIGHTS, ALL)).detach()
    assert quantiles.shape == (2, 5, 3, 5)
    npt.assert_allclose(quantiles[1, 2, 0], [-1.644854, -0.67449, 0, 0.67449, 1.644854], atol=1e-5)
    npt.assert_array_equal(quantiles, quantiles[:1, :1, :1].expand(2, 5, 3, 5))


def test_quantiles_never_cross(net: Network) -> None:
    quantiles = net(100 * inputs(batch=20), heard(WEIGHTS, ALL)).detach()
    assert (quantiles.diff(dim=-1) > 0).all()
    assert torch.isfinite(quantiles).all()


def test_the_recurrence_is_a_gru_whose_products_are_graph_convolutions() -> None:
    torch.manual_seed(0)
    cell = GraphGRU(3, 4)
    x = torch.randn(1, SESSIONS, 5, 3)
    shares = heard(WEIGHTS, ALL)
    with torch.no_grad():
        npt.assert_allclose(
            cell(x, shares)[0], slow_gru(cell, x[0].numpy(), shares.numpy()), atol=1e-6
        )


def slow_gru(cell: GraphGRU, x: Floats, shares: Floats) -> Floats:
    """The equations, session by session and series by series."""
    weights = {name: value.numpy() for name, value in cell.state_dict().items()}

    def convolved(name: str, values: Floats, i: int) -> Floats:
        message = sum(shares[i, j] * values[j] for j in range(len(values)))
        from_itself = weights[f"{name}.lin_root.weight"] @ values[i]
        return (
            weights[f"{name}.lin_rel.weight"] @ message
            + from_itself
            + weights.get(f"{name}.lin_rel.bias", 0.0)
        )

    def sigmoid(a: Floats) -> Floats:
        return 1 / (1 + np.exp(-a))

    state = np.zeros((x.shape[1], 4))
    for x_of_session in x:
        z, r, candidate = np.empty((3, *state.shape))
        for i in range(len(state)):
            into = convolved("input", x_of_session, i)
            z[i], r[i] = np.split(sigmoid(into[:8] + convolved("gates", state, i)), 2)
            candidate[i] = into[8:]
        for i in range(len(state)):
            candidate[i] = np.tanh(candidate[i] + convolved("candidate", r * state, i))
        state = z * state + (1 - z) * candidate
    return state


def test_a_learned_graph_learns_from_the_forecasts_over_it(net: Network) -> None:
    torch.manual_seed(0)
    graph = LearnedGraph(5, 8)
    net(inputs(), heard(graph(), ALL)).square().sum().backward()
    for embedding in (graph.source, graph.target):
        assert (embedding.grad.abs().sum(dim=1) > 0).all()


def test_the_order_of_the_series_does_not_matter(net: Network) -> None:
    order = [3, 0, 4, 2, 1]
    quantiles = net(inputs(), heard(WEIGHTS, ALL)).detach()
    permuted = net(inputs()[:, :, order], heard(WEIGHTS[order][:, order], ALL)).detach()
    npt.assert_allclose(permuted, quantiles[:, order], rtol=2e-5)


def test_missing_series_leave_the_network_of_the_others(net: Network) -> None:
    present = torch.tensor([1.0, 0, 1, 1, 0])
    places = [0, 2, 3]
    part = net(inputs()[:, :, places], heard(WEIGHTS[places][:, places], torch.ones(3))).detach()
    masked = net(inputs(), heard(WEIGHTS, present)).detach()[:, places]
    npt.assert_allclose(masked, part, rtol=2e-5)


def test_a_neighbour_is_heard_and_so_is_its_neighbour_but_nobody_without_edges(
    net: Network,
) -> None:
    x, changed = inputs(), inputs()
    changed[:, :, 4] += 1.0  # E: a neighbour of D, whose neighbour is C

    def series_that_differ(shares: Tensor) -> list[bool]:
        differ = net(x, shares) != net(changed, shares)
        return differ.any(dim=-1).any(dim=-1).any(dim=0).tolist()

    assert series_that_differ(heard(WEIGHTS, ALL)) == [True] * 5
    assert series_that_differ(torch.zeros(5, 5)) == [False, False, False, False, True]


def test_the_market_does_not_go_over_the_edges(net: Network) -> None:
    """Columns that are the same for all series do not pass through neighbours."""
    x, changed = inputs(), inputs()
    market = [i for i in range(len(features.NAMES)) if i not in OWN]
    changed[:, :, 4][..., market] += 1.0
    weekdays = {"monday", "tuesday", "wednesday", "thursday"}
    assert {features.NAMES[i].split("_")[0] for i in market} == {"market", "index"} | weekdays
    shares = heard(WEIGHTS, ALL)
    differ = (net(x, shares) != net(changed, shares)).any(dim=-1).any(dim=-1).any(dim=0)
    assert differ.tolist() == [False, False, False, False, True]


# --- forecaster -------------------------------------------------------------------------------


def forecaster(
    net: Network, weights: Tensor = WEIGHTS, universe: Sequence[str] = UNIVERSE
) -> model.GraphForecaster:
    spec = ModelSpec(
        "graph",
        "graph",
        min_context=features.WARMUP - 1 + SESSIONS,
        max_context=400,
        max_horizon=3,
        levels=LEVELS,
        columns=(*names.HISTORY, *names.MARKET),
        joint=True,
        universe=tuple(universe),
        subset=True,
    )
    return model.GraphForecaster(spec, net, weights)


@pytest.fixture(scope="module")
def history(panel: pd.DataFrame) -> pd.DataFrame:
    """Five stocks up to the end of 2017, under short names."""
    stocks = dict(zip(("AAPL", "JNJ", "JPM", "KO", "XOM"), UNIVERSE, strict=True))
    chosen = panel[panel[names.UNIQUE_ID].isin(stocks) & (panel[names.DS] <= "2017-12-29")]
    recent = chosen.groupby(names.UNIQUE_ID).tail(420)[[*names.HISTORY, *names.MARKET]]
    return recent.assign(unique_id=recent[names.UNIQUE_ID].map(stocks)).reset_index(drop=True)


def predict(
    graph_forecaster: model.GraphForecaster, frame: pd.DataFrame, horizon: int = 3
) -> Forecast:
    request = graph_forecaster.spec.request({"horizon": horizon})
    return forecast_of(graph_forecaster, check_history(frame, graph_forecaster.spec), request)


def of(history: pd.DataFrame, *symbols: str) -> pd.DataFrame:
    return history[history[names.UNIQUE_ID].isin(symbols)].reset_index(drop=True)


def test_a_part_of_the_universe_gets_what_its_own_graph_gives_and_is_told_what_is_missing(
    net: Network, history: pd.DataFrame
) -> None:
    places = [0, 2, 3]
    part = predict(forecaster(net), of(history, "A", "C", "D"))
    alone = predict(forecaster(net, WEIGHTS[places][:, places], "ACD"), of(history, "A", "C", "D"))
    npt.assert_allclose(part.quantiles, alone.quantiles, rtol=2e-5)
    # A misses 2/3 of its neighbour weight, C 2/4, D 3/4.
    note = "forecast without 2 of the 5 series of its graph; they carry 64% of the neighbour weight"
    assert part.notes == {"graph": note}
    assert alone.notes == {}


def test_nothing_is_said_of_a_missing_series_that_nobody_hears(
    net: Network, history: pd.DataFrame
) -> None:
    full = predict(forecaster(net), history)
    part = predict(forecaster(net), of(history, "D", "E", "C"))
    assert full.notes == {}
    assert "without 2 of the 5" in part.notes["graph"]
    unheard = WEIGHTS.clone()
    unheard[:, :2] = unheard[:2] = 0
    unheard[0, 1] = unheard[1, 0] = 1
    assert predict(forecaster(net, unheard), of(history, "C", "D", "E")).notes == {}


def test_without_edges_a_series_is_forecast_the_same_bits_whoever_is_there(
    net: Network, history: pd.DataFrame
) -> None:
    without_edges = forecaster(net, torch.zeros(5, 5))
    together, alone = predict(without_edges, history), predict(without_edges, of(history, "B"))
    npt.assert_array_equal(alone.quantiles[0], together.quantiles[1])
    assert alone.notes == {}


def test_forecasts_are_in_the_volatility_of_each_series(
    net: Network, history: pd.DataFrame
) -> None:
    """Half the returns of a series give, without edges, half its forecast and change no other."""
    without_edges = forecaster(net, torch.zeros(5, 5))
    is_b = history[names.UNIQUE_ID] == "B"
    halved = history.assign(y=history[names.Y].where(~is_b, history[names.Y] / 2))
    before, after = (
        predict(without_edges, history).quantiles,
        predict(without_edges, halved).quantiles,
    )
    npt.assert_allclose(after[1], before[1] / 2, rtol=2e-3)
    npt.assert_array_equal(after[[0, 2, 3, 4]], before[[0, 2, 3, 4]])


def test_series_need_the_same_last_sessions_and_may_begin_on_different_ones(
    net: Network, history: pd.DataFrame
) -> None:
    graph_forecaster = forecaster(net)
    rows = history[history[names.UNIQUE_ID] == "C"].index
    later = predict(graph_forecaster, history.drop(rows[:50]))
    npt.assert_allclose(later.quantiles, predict(graph_forecaster, history).quantiles, rtol=0.2)
    with pytest.raises(
        BadHistory, match=r"^series 3 of 5 has other sessions than the first among its last 6"
    ) as caught:
        predict(graph_forecaster, history.drop(rows[-3]))
    assert caught.value.code == "SESSIONS_DIFFER"
    predict(graph_forecaster, history.drop(rows[-SESSIONS - 1]))


def test_too_short_a_history_and_an_unknown_symbol_are_refused(
    net: Network, history: pd.DataFrame
) -> None:
    short = history.groupby(names.UNIQUE_ID).tail(features.WARMUP + SESSIONS - 2)
    with pytest.raises(BadHistory, match=f"needs {features.WARMUP + SESSIONS - 1}"):
        predict(forecaster(net), short)
    with pytest.raises(BadHistory, match="is none of the 5 that graph knows"):
        predict(forecaster(net), history.assign(unique_id="Z" + history[names.UNIQUE_ID]))


def test_saved_and_loaded_forecaster_forecasts_the_same_bits_in_every_thread(
    net: Network, history: pd.DataFrame, tmp_path: Path
) -> None:
    saved = forecaster(net)
    model.save(saved, tmp_path)
    (tmp_path / "spec.json").write_text(json.dumps(saved.spec.to_json()))
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "adjacency.safetensors", "config.json", "spec.json", "weights.safetensors",
    ]  # fmt: skip
    state = torch.random.get_rng_state()
    loaded = model.load(tmp_path)
    npt.assert_array_equal(torch.random.get_rng_state(), state)
    assert not loaded.net.training
    expected = predict(saved, history).quantiles
    with ThreadPoolExecutor(4) as pool:
        for quantiles in pool.map(lambda _: predict(loaded, history).quantiles, range(8)):
            npt.assert_array_equal(quantiles, expected)
    npt.assert_array_equal(predict(loaded, history, horizon=1).quantiles, expected[:, :1])


# --- picture ----------------------------------------------------------------------------------


def test_edges_are_listed_with_what_is_heard() -> None:
    table = picture.edges(WEIGHTS.numpy(), heard(WEIGHTS, ALL).numpy(), UNIVERSE)
    assert len(table) == 10
    third = table[table[names.UNIQUE_ID] == "C"]
    assert third["neighbour"].tolist() == ["B", "A", "D"]
    npt.assert_allclose(third[["weight", "share"]], [[2, 0.5], [1, 0.25], [1, 0.25]])


def test_the_heat_map_is_ordered_by_sector() -> None:
    sectors = ["tech", "banks", "tech", "banks", "oil"]
    figure = picture.heat_map(heard(WEIGHTS, ALL).numpy(), UNIVERSE, sectors, "title")
    assert isinstance(figure, matplotlib.figure.Figure)
    axis = figure.axes[0]
    order = [label.get_text() for label in axis.get_yticklabels()]
    assert order == ["B", "D", "E", "A", "C"]
    shares = axis.images[0].get_array()
    # Shares of B, D, E, A, C in the neighbour weight of C.
    npt.assert_allclose(shares[4].filled(0.0), [50, 25, 0, 25, 0])
    assert [text.get_text() for text in axis.texts] == ["banks", "oil", "tech"]
