"""Kronos: the official shapes and files, and the sampler against the plain loop."""

import hashlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import kronos_reference
import numpy as np
import numpy.testing as npt
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.utils._python_dispatch import TorchDispatchMode

from mlprojects.kronos import folded, model
from mlprojects.kronos import sampler as sampler_module
from mlprojects.kronos.architecture import STAMPS, FixedEmbedding, Predictor, Tokenizer
from mlprojects.kronos.folders import load_predictor, load_tokenizer, save_official
from mlprojects.kronos.sampler import Draw, Sampled, Sampler, pick, scales
from mlprojects.kronos.shapes import (
    SIZES,
    PredictorConfig,
    TokenizerConfig,
    check_pairing,
    official_size,
)
from registry.errors import BadConfig, BadHistory, BadParameter, Corrupt, KronosError, NotFound

TINY_TOKENIZER = TokenizerConfig(d_model=32, ff_dim=48, n_enc_layers=3, n_dec_layers=3)
TINY = PredictorConfig(d_model=32, ff_dim=48, n_layers=3)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def randomized(module: Any, seed: int) -> Any:
    """Weights wide enough that tokens differ from path to path."""
    draw = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.15 if parameter.ndim > 1 else 0.3, generator=draw)
    return module.eval()


def pair(dtype: torch.dtype = torch.float32) -> tuple[Tokenizer, Predictor]:
    tokenizer = randomized(Tokenizer(TINY_TOKENIZER), 0)
    predictor = randomized(Predictor(TINY), 1)
    return tokenizer.to(dtype), predictor.to(dtype)


def bars_of(n: int, length: int) -> np.ndarray:
    """Possible bars [n, length, 6]."""
    draw = np.random.default_rng(3)
    close = 100 * np.exp(np.cumsum(draw.normal(0, 0.02, (n, length)), axis=1))
    opened = close * np.exp(draw.normal(0, 0.005, close.shape))
    volume = draw.lognormal(10, 1, close.shape)
    high, low = np.maximum(opened, close) * 1.01, np.minimum(opened, close) * 0.99
    return np.stack([opened, high, low, close, volume, close * volume], axis=2)


def stamps_of(n: int, length: int) -> np.ndarray:
    days = np.arange(14_000, 14_000 + length)
    return np.broadcast_to(model.stamps(days), (n, length, len(STAMPS))).copy()


def both(
    dtype: torch.dtype, n: int, paths: int, length: int, steps: int, window: int, draw: Draw
) -> tuple[Sampled, tuple[np.ndarray, np.ndarray]]:
    """Results of the sampler and of the plain loop."""
    tokenizer, predictor = pair(dtype)
    bars, stamps, keys = bars_of(n, length), stamps_of(n, length + steps), list(range(40, 40 + n))
    fast = Sampler(tokenizer, predictor, max_context=window).sample(
        bars, stamps, keys, paths, draw, overflow="exact"
    )
    slow = kronos_reference.sample(
        tokenizer, predictor, bars, stamps, keys, paths, max_context=window,
        temperature=draw.temperature, top_k=draw.top_k, top_p=draw.top_p,
    )  # fmt: skip
    return fast, slow


# --- official shapes and files ------------------------------------------------------------------


def test_official_sizes_have_the_published_numbers_of_parameters_and_keys() -> None:
    """README of shiyu-coder/Kronos; keys counted in the official checkpoints (facts)."""
    expected = {"mini": (4_108_032, 80), "small": (24_741_376, 136), "base": (102_310_592, 192)}
    for name, (parameters, keys) in expected.items():
        with torch.device("meta"):
            predictor = Predictor(SIZES[name].shape)
        assert sum(p.numel() for p in predictor.parameters()) == parameters
        assert len(predictor.state_dict()) == keys
    tokenizer = Tokenizer(TokenizerConfig())
    assert sum(p.numel() for p in tokenizer.parameters()) == 3_958_042
    assert len(tokenizer.state_dict()) == 96


def test_files_are_laid_out_as_the_official_ones(tmp_path: Path) -> None:
    """sha256 of config.json as published by a third party; sizes of the official weights."""
    save_official(Predictor(SIZES["mini"].shape), tmp_path / "mini")
    save_official(Tokenizer(TokenizerConfig(group_size=5)), tmp_path / "2k")
    save_official(Tokenizer(TokenizerConfig(group_size=4)), tmp_path / "base")
    configs = {"mini": "70daca2c", "2k": "0b30a443", "base": "2366e7cc"}
    for name, shape in (("small", SIZES["small"].shape), ("kronos-base", SIZES["base"].shape)):
        (tmp_path / name).mkdir()
        shape.write(tmp_path / name / "config.json")
    for name, digest in (configs | {"small": "5e0f6a60", "kronos-base": "77ebc303"}).items():
        config = (tmp_path / name / "config.json").read_bytes()
        assert hashlib.sha256(config).hexdigest()[:8] == digest
    for name, size in (("mini", 16_440_776), ("2k", 15_842_376), ("base", 15_842_368)):
        assert (tmp_path / name / "model.safetensors").stat().st_size == size
    assert set(load_file(tmp_path / "base" / "model.safetensors")) >= {
        "tokenizer.bsq.basis",
        "tokenizer.bsq.group_basis",
        "encoder.2.self_attn.rotary.inv_freq",
        "quant_embed.bias",
        "post_quant_embed_pre.weight",
        "decoder.0.ffn.w3.weight",
    }
    assert set(load_file(tmp_path / "mini" / "model.safetensors")) >= {
        "embedding.emb_s1.weight",
        "embedding.fusion_proj.bias",
        "time_emb.minute_embed.weight",
        "norm.weight",
        "transformer.3.self_attn.rotary.inv_freq",
        "dep_layer.cross_attn.rotary.inv_freq",
        "head.proj_s2.weight",
    }


def test_what_is_saved_is_loaded_strictly(tmp_path: Path) -> None:
    tokenizer, predictor = pair()
    save_official(tokenizer, tmp_path / "t")
    save_official(predictor, tmp_path / "p")
    for module, again in (
        (tokenizer, load_tokenizer(tmp_path / "t")),
        (predictor, load_predictor(tmp_path / "p")),
    ):
        assert not again.training
        for key, value in module.state_dict().items():
            assert torch.equal(value, again.state_dict()[key]), key


def test_a_missing_an_unknown_and_a_misshapen_weight_are_refused(tmp_path: Path) -> None:
    _, predictor = pair()
    save_official(predictor, tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    for change, message in (
        ({"norm.weight": None}, "norm.weight"),
        ({"surprise": torch.ones(1)}, "surprise"),
        ({"norm.weight": torch.ones(3)}, r"norm.weight has shape \(3,\), config.json says \(32,\)"),
    ):
        changed = {key: value for key, value in (weights | change).items() if value is not None}
        save_file(changed, tmp_path / "model.safetensors")
        with pytest.raises(BadConfig, match=message):
            load_predictor(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"not weights at all")
    with pytest.raises(Corrupt, match="cannot be read as safetensors"):
        load_predictor(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(NotFound, match=r"model\.safetensors"):
        load_predictor(tmp_path)


def config_of(folder: Path, **changes: Any) -> None:
    """Change keys of a folder's config.json."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_layers": 128}, "transformer has 3 blocks, expected 128"),
        ({"d_model": 1 << 14}, r"has shape \(1024, 32\), config.json says \(1024, 16384\)"),
        ({"s1_bits": 16}, r"has shape \(1024, 32\), config.json says \(65536, 32\)"),
    ],
    ids=str,
)
def test_weights_are_compared_with_their_config_before_a_network_is_made(
    tmp_path: Path, change: dict[str, int], message: str
) -> None:
    """A network in memory would draw its first weights."""
    save_official(pair()[1], tmp_path)
    config_of(tmp_path, **change)
    before = torch.get_rng_state()
    with pytest.raises(BadConfig, match=message) as caught:
        load_predictor(tmp_path)
    assert caught.value.code == "PAIRING"
    assert torch.equal(torch.get_rng_state(), before)


def test_blocks_of_a_tokenizer_are_counted_too(tmp_path: Path) -> None:
    save_official(pair()[0], tmp_path)
    config_of(tmp_path, n_dec_layers=5)
    with pytest.raises(BadConfig, match="decoder has 2 blocks, expected 4"):
        load_tokenizer(tmp_path)


def test_a_load_makes_every_tensor_and_draws_no_random_number(tmp_path: Path) -> None:
    tokenizer, predictor = pair()
    save_official(tokenizer, tmp_path / "t")
    save_official(predictor, tmp_path / "p")
    before = torch.get_rng_state()
    loaded = (load_tokenizer(tmp_path / "t"), load_predictor(tmp_path / "p"))
    assert torch.equal(torch.get_rng_state(), before)
    for module in loaded:
        tensors = [*module.parameters(), *module.buffers()]
        assert not any(tensor.is_meta for tensor in tensors)
        assert all(parameter.requires_grad for parameter in module.parameters())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_other_float_weights_are_computed_in_float32(tmp_path: Path, dtype: torch.dtype) -> None:
    predictor = pair()[1].to(dtype)
    save_official(predictor, tmp_path)
    loaded = load_predictor(tmp_path).state_dict()
    for key, weight in predictor.state_dict().items():
        assert loaded[key].dtype == torch.float32
        assert torch.equal(loaded[key], weight.float()), key


@pytest.mark.parametrize(
    ("dtype", "name"),
    [
        (torch.int8, "I8"),
        (torch.bool, "BOOL"),
        (torch.complex64, "C64"),
        (torch.float8_e4m3fn, "F8_E4M3"),
        (torch.int64, "I64"),
    ],
    ids=str,
)
def test_weights_of_other_types_are_refused(tmp_path: Path, dtype: torch.dtype, name: str) -> None:
    save_official(pair()[1], tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights["head.proj_s1.weight"] = weights["head.proj_s1.weight"].to(dtype)
    save_file(weights, tmp_path / "model.safetensors")
    message = f"head.proj_s1.weight has type {name}, expected F32 or F16 or BF16 or F64"
    with pytest.raises(BadConfig, match=message):
        load_predictor(tmp_path)


def test_a_weight_beyond_float32_is_not_finite(tmp_path: Path) -> None:
    save_official(pair()[1], tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights["norm.weight"] = torch.full_like(weights["norm.weight"], 1e300, dtype=torch.float64)
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(Corrupt, match=r"norm.weight holds a value that is not finite"):
        load_predictor(tmp_path)


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        (PredictorConfig, {"n_heads": 5}, r"d_model is 256, expected a multiple of 2 \* n_heads"),
        (TokenizerConfig, {"n_heads": 5}, r"d_model is 256, expected a multiple of 2 \* n_heads"),
        (PredictorConfig, {"d_model": 12}, "expected a multiple of 2 .* = 8"),  # heads of width 3
        (PredictorConfig, {"d_model": 6, "n_heads": 3}, "expected a multiple of 4, the heads"),
        (TokenizerConfig, {"d_in": 7}, "d_in is 7, expected 6, the columns of a bar"),
        (TokenizerConfig, {"n_dec_layers": 1}, "n_dec_layers is 1, expected 2 or more"),
        (TokenizerConfig, {"group_size": 3}, "group_size is 3, expected a divisor of the 20 bits"),
        (TokenizerConfig, {"beta": 10**400}, "beta is 1"),
        # A file of 240 kB can name that many blocks, and a network of them takes minutes.
        (PredictorConfig, {"n_layers": 3000}, "n_layers is 3000, not a valid value"),
    ],
    ids=str,
)
def test_a_shape_that_no_network_can_have_is_refused(
    tmp_path: Path,
    kind: type[PredictorConfig | TokenizerConfig],
    change: dict[str, int],
    message: str,
) -> None:
    kind().write(tmp_path / "config.json")
    config_of(tmp_path, **change)
    with pytest.raises(BadConfig, match=f"config.json: .*{message}"):
        kind.read(tmp_path / "config.json")


def test_a_config_that_is_nested_without_end_is_not_json(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("[" * 100_000)
    with pytest.raises(BadConfig, match=r"config.json is not JSON"):
        PredictorConfig.read(tmp_path / "config.json")


def test_an_unknown_or_missing_key_of_a_config_is_named(tmp_path: Path) -> None:
    save_official(pair()[1], tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["colour"] = config.pop("n_heads")
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(BadConfig, match=r"missing \['n_heads'\], unknown \['colour'\]"):
        load_predictor(tmp_path)


def test_a_wrong_pairing_is_refused() -> None:
    base, two_k = TokenizerConfig(group_size=4), TokenizerConfig(group_size=5)
    check_pairing(two_k, SIZES["mini"].shape)
    check_pairing(base, SIZES["small"].shape)
    with pytest.raises(BadConfig, match="mini goes with Kronos-Tokenizer-2k") as caught:
        check_pairing(base, SIZES["mini"].shape)
    assert caught.value.code == "PAIRING"
    with pytest.raises(BadConfig, match="group_size 4, found 5"):
        check_pairing(two_k, SIZES["base"].shape)
    with pytest.raises(BadConfig, match=r"\(10, 10\) and \(8, 10\)"):
        check_pairing(base, replace(TINY, s1_bits=8))
    assert official_size(TINY) is None


def test_tokenizer_is_causal_and_its_bits_are_little_endian() -> None:
    tokenizer, _ = pair()
    x = torch.from_numpy(bars_of(1, 20)).float()
    x = (x - x.mean(1)) / x.std(1)
    later = x.clone()
    later[:, 12:] += 3
    for tokens, later_tokens in zip(tokenizer.encode(x), tokenizer.encode(later), strict=True):
        assert torch.equal(tokens[:, :12], later_tokens[:, :12])
        assert not torch.equal(tokens, later_tokens)
    code = tokenizer.codes(torch.tensor([1]), torch.tensor([2]))[0] * tokenizer.bits**0.5
    assert code.gt(0).nonzero().flatten().tolist() == [0, 11]  # bit 0 of s1, bit 1 of s2


def test_neither_head_sees_a_later_token() -> None:
    """Upstream's s2 head sees the future in validation; here training and validation are causal."""
    _, predictor = pair(torch.float64)
    tokens = torch.randint(1024, (2, 1, 16), generator=torch.Generator().manual_seed(0))
    changed = tokens.clone()
    changed[:, :, 10:] = (changed[:, :, 10:] + 7) % 1024
    stamps = torch.from_numpy(stamps_of(1, 16))
    for mode in (predictor.train(), predictor.eval()):
        before, after = (
            mode(mode.hidden(s1, s2, stamps), s1.roll(-1, dims=1)) for s1, s2 in (tokens, changed)
        )
        for logits, changed_logits in zip(before, after, strict=True):
            npt.assert_allclose(
                logits[:, :9].detach(), changed_logits[:, :9].detach(), rtol=0, atol=1e-12
            )
            assert not torch.allclose(logits[:, 11:], changed_logits[:, 11:])


def test_the_last_position_is_asked_the_same_in_training_and_in_sampling() -> None:
    _, predictor = pair(torch.float64)
    s1, s2 = torch.randint(1024, (2, 3, 12), generator=torch.Generator().manual_seed(0))
    h = predictor.hidden(s1, s2, torch.from_numpy(stamps_of(3, 12)))
    s1_logits, s2_logits = predictor(h, s1)
    npt.assert_allclose(
        predictor.s1_logits(h).detach(), s1_logits[:, -1].detach(), rtol=0, atol=1e-12
    )
    npt.assert_allclose(
        predictor.s2_logits(h, s1[:, -1]).detach(), s2_logits[:, -1].detach(), rtol=0, atol=1e-12
    )


# --- sampler ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["fp64", "fp32"])
@pytest.mark.parametrize(
    "draw", [Draw(), Draw(0.0), Draw(0.7, 20, 0.8), Draw(1.0, 0, 0.9), Draw(1.3, 5)], ids=str
)
@pytest.mark.parametrize(
    ("n", "paths", "length", "steps", "window"),
    [
        (1, 1, 24, 6, 64),
        (2, 3, 24, 8, 64),
        (3, 5, 24, 5, 64),
        (2, 3, 30, 20, 32),
        (1, 1, 40, 8, 32),
        (1, 4, 20, 15, 16),
    ],
    ids=["one", "batch", "paths", "sliding", "longer-than-window", "mostly-sampled"],
)
def test_tokens_are_those_of_the_plain_loop(
    dtype: torch.dtype, draw: Draw, n: int, paths: int, length: int, steps: int, window: int
) -> None:
    fast, (bars, tokens) = both(dtype, n, paths, length, steps, window, draw)
    npt.assert_array_equal(fast.tokens, tokens)
    # In the units of the network: a small amount is the difference of two large numbers.
    _, deviation = scales(bars_of(n, length))
    error = (fast.bars - bars) / deviation[:, None]
    npt.assert_allclose(error, 0, atol=1e-5 if dtype == torch.float32 else 1e-11)
    if draw.temperature:
        assert paths == 1 or len(np.unique(fast.tokens[0, :, -1], axis=0)) > 1


@pytest.mark.parametrize("steps", [1, 3, 8])
def test_truncating_is_the_plain_loop_on_the_shorter_history(steps: int) -> None:
    """The history is cut first, so the scale is that of the remaining bars.

    Bars are equal too: whatever the horizon, no bar of the history leaves the decoder's window.
    """
    tokenizer, predictor = pair(torch.float64)
    bars, stamps, keys = bars_of(2, 50), stamps_of(2, 50 + steps), [1, 2]
    fast = Sampler(tokenizer, predictor, max_context=32).sample(
        bars, stamps, keys, 3, Draw(), room=8
    )
    assert fast.used == 32 - 8
    slow, tokens = kronos_reference.sample(
        tokenizer,
        predictor,
        bars[:, -24:],
        stamps[:, -24 - steps :],
        keys,
        3,
        max_context=32,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
    )
    npt.assert_array_equal(fast.tokens, tokens)
    npt.assert_allclose(fast.bars, slow, rtol=1e-9)


def test_a_path_depends_on_its_key_and_its_index_alone() -> None:
    sampler = Sampler(*pair(), max_context=64)
    bars, stamps, keys = bars_of(16, 24), stamps_of(16, 30), list(range(16))
    for paths, group in ((3, 1), (2, model.ROWS // 2), (3, model.ROWS // 3), (8, model.ROWS // 8)):
        together = sampler.sample(bars, stamps, keys, paths, Draw(), group=group)
        for i in range(16):
            alone = sampler.sample(
                bars[i : i + 1], stamps[i : i + 1], keys[i : i + 1], paths, Draw(), group=group
            )
            npt.assert_array_equal(alone.bars[0], together.bars[i])  # bits
    more = sampler.sample(bars[:1], stamps[:1], keys[:1], 5, Draw())
    npt.assert_array_equal(
        more.tokens[:, :3], sampler.sample(bars[:1], stamps[:1], keys[:1], 3, Draw()).tokens
    )
    shorter = sampler.sample(bars[:1], stamps[:1, :-2], keys[:1], 5, Draw())
    npt.assert_array_equal(shorter.tokens, more.tokens[:, :, :4])


def test_many_paths_are_drawn_in_parts_and_are_the_same_paths(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sampler = Sampler(*pair(), max_context=64)
    arguments = (bars_of(2, 24), stamps_of(2, 30), [5, 6], 10, Draw())
    at_once = sampler.sample(*arguments)
    monkeypatch.setattr(sampler_module, "PASS_PATHS", 4)
    monkeypatch.setattr(folded, "SCORES", 1 << 12)
    npt.assert_array_equal(sampler.sample(*arguments).tokens, at_once.tokens)


def test_eight_threads_draw_the_same_bits() -> None:
    sampler = Sampler(*pair(), max_context=64)
    bars, stamps = bars_of(16, 24), stamps_of(16, 30)

    def sample(i: int) -> np.ndarray:
        return sampler.sample(bars[i : i + 1], stamps[i : i + 1], [i], 4, Draw()).bars

    alone = [sample(i) for i in range(16)]
    with ThreadPoolExecutor(8) as pool:
        for expected, drawn in zip(alone, pool.map(sample, range(16)), strict=True):
            npt.assert_array_equal(drawn, expected)


def test_bfloat16_products_change_few_tokens() -> None:
    tokenizer, predictor = pair()
    arguments = (bars_of(2, 24), stamps_of(2, 30), [5, 6], 50, Draw())
    exact = Sampler(tokenizer, predictor, max_context=64).sample(*arguments)
    rounded = Sampler(tokenizer, predictor, max_context=64, products=torch.bfloat16).sample(
        *arguments
    )
    share = (exact.tokens[:, :, 0] == rounded.tokens[:, :, 0]).mean()  # later ones follow from it
    assert 0.9 < share < 1.0


def test_sampling_exactly_ignores_room_for_more_steps() -> None:
    """Also for bars: the decoder has the window of the plain loop."""
    tokenizer, predictor = pair()
    bars, stamps, keys = bars_of(2, 30), stamps_of(2, 35), [1, 2]
    fast = Sampler(tokenizer, predictor, max_context=32).sample(
        bars, stamps, keys, 3, Draw(), overflow="exact", room=20
    )
    slow, tokens = kronos_reference.sample(
        tokenizer,
        predictor,
        bars,
        stamps,
        keys,
        3,
        max_context=32,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
    )
    npt.assert_array_equal(fast.tokens, tokens)
    npt.assert_allclose(fast.bars, slow, rtol=1e-4, atol=1e-3)


class CountedOperations(TorchDispatchMode):
    """Counts the operations that torch starts."""

    def __init__(self) -> None:
        super().__init__()
        self.number = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.number += 1
        return func(*args, **(kwargs or {}))


def test_a_step_of_one_path_starts_few_operations() -> None:
    """Starting them takes a large part of a step's time; it took 322 of them."""
    sampler = Sampler(*pair(), max_context=64)
    numbers = []
    for steps in (5, 6):
        with CountedOperations() as counted:
            sampler.sample(bars_of(1, 24), stamps_of(1, 24 + steps), [1], 1, Draw(top_p=0.9))
        numbers.append(counted.number)
    assert numbers[1] - numbers[0] <= 240  # of three blocks


def test_heads_of_different_sizes_and_a_clip_are_those_of_the_plain_loop() -> None:
    tokenizer = randomized(Tokenizer(replace(TINY_TOKENIZER, s1_bits=6, s2_bits=10)), 0)
    predictor = randomized(Predictor(replace(TINY, s1_bits=6, s2_bits=10, learn_te=False)), 1)
    bars, stamps, keys = bars_of(2, 30), stamps_of(2, 35), [1, 2]
    fast = Sampler(tokenizer, predictor, max_context=64, clip=0.7).sample(
        bars, stamps, keys, 3, Draw()
    )
    _, tokens = kronos_reference.sample(
        tokenizer,
        predictor,
        bars,
        stamps,
        keys,
        3,
        max_context=64,
        clip=0.7,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
    )
    npt.assert_array_equal(fast.tokens, tokens)


def test_fixed_time_embedding_is_the_table_of_sinusoids() -> None:
    """Vaswani et al. 2017, section 3.5: sin and cos of position / 10000^(2i / d), side by side."""
    table = FixedEmbedding(8, 6)(torch.arange(8))
    i = np.arange(0, 6, 2)
    angle = np.arange(8)[:, None] / 10_000 ** (i / 6)
    npt.assert_allclose(table[:, 0::2], np.sin(angle), atol=1e-6)
    npt.assert_allclose(table[:, 1::2], np.cos(angle), atol=1e-6)


def test_more_steps_than_the_window_allows_are_refused() -> None:
    sampler = Sampler(*pair(), max_context=32)
    message = r"32 steps were asked for; a window of 32 bars allows 1\.\.31"
    with pytest.raises(BadParameter, match=message):
        sampler.sample(bars_of(1, 24), stamps_of(1, 24 + 32), [1], 1, Draw())


def test_a_column_that_does_not_move_is_scaled_to_zero_however_large() -> None:
    """In float64, equal numbers minus their mean leave a rest, which a tiny deviation would scale
    up to 1."""
    bars = bars_of(1, 50)
    bars[..., 5] = 4_812_345_678_901.7
    mean, deviation = scales(bars)
    npt.assert_array_equal((bars - mean)[..., 5], 0.0)
    npt.assert_allclose(mean[..., :5], bars.mean(axis=1, keepdims=True)[..., :5], rtol=1e-12)
    npt.assert_allclose(
        deviation[..., :5], bars.std(axis=1, keepdims=True)[..., :5] + 1e-5, rtol=1e-9
    )


def test_a_series_that_stands_still_where_it_is_looked_at_is_refused() -> None:
    bars = bars_of(2, 50)
    bars[1, 20:, :4] = 7.0
    message = "1 of 2 series have a constant close in the last 24 bars"
    with pytest.raises(BadHistory, match=message) as caught:
        Sampler(*pair(), max_context=32).sample(bars, stamps_of(2, 58), [1, 2], 3, Draw())
    assert caught.value.code == "CONSTANT"


# --- overflow ---------------------------------------------------------------------------------


def swollen(module: Any, name: str, value: float, entry: int = 0) -> Any:
    """The network with one weight of a finite but absurd size, as one flipped bit makes it."""
    with torch.no_grad():
        module.get_parameter(name).flatten()[entry] = value
    return module


@pytest.mark.parametrize("products", [None, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("draw", [Draw(), Draw(0.0), Draw(0.7, 20, 0.8)], ids=str)
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("head.proj_s1.bias", torch.inf),
        ("head.proj_s1.bias", -torch.inf),
        ("head.proj_s2.bias", torch.inf),
        ("head.proj_s2.weight", -torch.inf),
        ("transformer.1.self_attn.v_proj.bias", 1e30),  # the last norm's squares overflow
        ("dep_layer.cross_attn.out_proj.bias", 1e30),  # those of the norm before s2 do
        ("norm.weight", torch.nan),
    ],
)
def test_numbers_of_the_predictor_that_are_not_finite_are_an_error(
    products: torch.dtype | None, draw: Draw, name: str, value: float
) -> None:
    tokenizer, predictor = pair()
    sampler = Sampler(tokenizer, swollen(predictor, name, value), max_context=64, products=products)
    with pytest.raises(KronosError, match="hidden rows or logits that are not finite") as caught:
        sampler.sample(bars_of(2, 24), stamps_of(2, 28), [1, 2], 3, draw)
    assert caught.value.code == "NETWORK_OVERFLOW"


def test_logits_that_overflow_only_in_a_late_step_or_by_their_temperature_are_an_error() -> None:
    """The embedding of one drawn token is absurd: the step after it reads it."""
    tokenizer, predictor = pair()
    arguments = (bars_of(1, 24), stamps_of(1, 30), [1], 3)
    exact = Sampler(tokenizer, predictor, max_context=64)
    tokens = exact.sample(*arguments, Draw()).tokens[0, :, :, 0]
    late = set(tokens[:, 3]) - set(tokens[:, :3].flatten()) - set(exact_history(tokenizer))
    width = predictor.config.d_model
    name = "embedding.emb_s1.weight"
    broken = swollen(predictor, name, 1e36, entry=int(late.pop()) * width)
    with pytest.raises(KronosError, match="not finite"):
        Sampler(tokenizer, broken, max_context=64).sample(*arguments, Draw())
    tokenizer, predictor = pair()
    large = swollen(predictor, "head.proj_s1.bias", 1e34)
    Sampler(tokenizer, large, max_context=64).sample(*arguments, Draw(1.0))
    with pytest.raises(KronosError, match="not finite"):
        Sampler(tokenizer, large, max_context=64).sample(*arguments, Draw(1e-5))


def exact_history(tokenizer: Tokenizer) -> list[int]:
    """s1 of the history of `bars_of(1, 24)`."""
    bars = bars_of(1, 24)
    mean, deviation = scales(bars)
    s1, _ = tokenizer.encode(torch.from_numpy((bars - mean) / deviation).float())
    return s1.flatten().tolist()


@pytest.mark.parametrize(
    ("name", "value", "numbers"),
    [
        ("quant_embed.bias", 3e38, "tokens of the history"),
        ("quant_embed.bias", torch.nan, "tokens of the history"),
        ("encoder.0.ffn.w1.weight", torch.inf, "tokens of the history"),
        ("head.bias", torch.inf, "decoded bars"),
        ("decoder.0.self_attn.v_proj.bias", torch.nan, "decoded bars"),
    ],
)
def test_numbers_of_the_tokenizer_that_are_not_finite_are_an_error(
    name: str, value: float, numbers: str
) -> None:
    tokenizer, predictor = pair()
    sampler = Sampler(swollen(tokenizer, name, value), predictor, max_context=64)
    with pytest.raises(KronosError, match=f"{numbers} that are not finite") as caught:
        sampler.sample(bars_of(2, 24), stamps_of(2, 28), [1, 2], 3, Draw())
    assert caught.value.code == "NETWORK_OVERFLOW"


# --- drawing ------------------------------------------------------------------------------------

P = torch.tensor([[0.4, 0.3, 0.2, 0.1]], dtype=torch.float64)


def shares(draw: Draw) -> list[float]:
    """How often each token wins 40,000 races."""
    race = torch.empty(40_000, 4, dtype=torch.float64).exponential_(
        generator=torch.Generator().manual_seed(0)
    )
    winners = pick(P.log().expand(40_000, -1), race.numpy(), draw)
    return (torch.bincount(winners, minlength=4) / 40_000).tolist()


@pytest.mark.parametrize(
    ("draw", "expected"),
    [
        (Draw(), [0.4, 0.3, 0.2, 0.1]),
        (Draw(temperature=0.5), [16 / 30, 9 / 30, 4 / 30, 1 / 30]),  # squares
        (Draw(top_k=2), [4 / 7, 3 / 7, 0, 0]),
        (Draw(top_p=0.65), [4 / 7, 3 / 7, 0, 0]),  # 0.4 is too little, 0.7 reaches it
        (Draw(top_p=0.75), [4 / 9, 3 / 9, 2 / 9, 0]),
        # Of 9/9, 4/9 is too little and 7/9 reaches it.
        (Draw(top_k=3, top_p=0.5), [4 / 7, 3 / 7, 0, 0]),
        # Of 7/7, 4/7 reaches it; 0.4 of 1 would not.
        (Draw(top_k=2, top_p=0.5), [1, 0, 0, 0]),
        (Draw(top_p=0.01), [1, 0, 0, 0]),
        (Draw(temperature=0.0), [1, 0, 0, 0]),
        (Draw(temperature=1e-40), [1, 0, 0, 0]),
    ],
    ids=str,
)
def test_temperature_top_k_and_top_p_combine_as_documented(
    draw: Draw, expected: list[float]
) -> None:
    npt.assert_allclose(shares(draw), expected, rtol=0, atol=0.01)
    npt.assert_array_equal(np.array(shares(draw)) == 0, np.array(expected) == 0)


@pytest.mark.parametrize(
    "draw", [Draw(0.7, 20, 0.8), Draw(1.0, 0, 0.9), Draw(1.3, 5), Draw(top_p=0.05)], ids=str
)
def test_winners_are_those_among_sorted_probabilities(draw: Draw) -> None:
    """Also where tokens are equally likely: those as likely as the last one stay."""
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(500, 64, generator=generator, dtype=torch.float64).mul(2).round().div(2)
    race = torch.empty_like(logits).exponential_(generator=generator)
    p = torch.softmax(logits / draw.temperature, dim=1)
    ordered = p.sort(dim=1, descending=True).values[:, : draw.top_k or 64]
    before = ordered.cumsum(dim=1) - ordered
    needed = before < draw.top_p * ordered.sum(dim=1, keepdim=True)
    least = torch.where(needed, ordered, torch.inf).min(dim=1, keepdim=True).values
    expected = (torch.where(p >= least, p, 0) / race).argmax(dim=1)
    assert torch.equal(pick(logits, race.numpy(), draw), expected)


def test_drawing_from_logits_that_are_not_numbers_ends() -> None:
    race = np.ones((2, 4), np.float32)
    assert len(pick(torch.full((2, 4), torch.nan), race, Draw(top_k=2, top_p=0.9))) == 2
