"""Shapes of tokenizers and predictors: their config.json, the official sizes, valid pairs."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

from registry.errors import BadConfig, NotFound

CONFIG, WEIGHTS = "config.json", "model.safetensors"
PREDICTOR, TOKENIZER = "predictor", "tokenizer"  # folders of a version's model
FIELDS = 6  # of a bar: open high low close volume amount
DEPENDENCY_HEADS = 4  # of the predictor's cross attention; n_heads does not change it
LARGEST_COUNT, LARGEST_LAYERS, LARGEST_BITS, LARGEST_WEIGHT = 1 << 16, 128, 16, 1e6


def _fits(kind: Any, name: str, value: Any) -> bool:
    """Whether `value` is valid for a key of a config.json: a bool, a share, a float or a count."""
    if kind is bool:
        return isinstance(value, bool)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    if kind is float and name.endswith("_dropout_p"):
        return 0 <= value < 1
    if kind is float:
        return abs(value) <= LARGEST_WEIGHT
    largest = LARGEST_COUNT
    if name.endswith("_layers"):
        largest = LARGEST_LAYERS
    if name.endswith("_bits"):
        largest = LARGEST_BITS
    return isinstance(value, int) and 1 <= value <= largest


@dataclass(frozen=True, kw_only=True)
class _Shape:
    """Keys of an official config.json."""

    @classmethod
    def read(cls, path: Path) -> Self:
        """The shape in a config.json. Raises NotFound, BadConfig."""
        try:
            values = json.loads(path.read_text())
        except FileNotFoundError as error:
            raise NotFound(f"no {path}; an official folder holds {CONFIG} and {WEIGHTS}") from error
        except (ValueError, RecursionError) as error:
            raise BadConfig(f"{path} is not JSON") from error
        keys = set(values) if isinstance(values, dict) else set()
        expected = {field.name for field in fields(cls)}
        if not isinstance(values, dict) or keys != expected:
            missing, unknown = sorted(expected - keys), sorted(keys - expected)
            raise BadConfig(f"{path} is no {cls.__name__}: missing {missing}, unknown {unknown}")
        for field in fields(cls):
            value = values[field.name]
            if not _fits(field.type, field.name, value):
                raise BadConfig(
                    f"{path}: {field.name} is {value!r}, not a valid value for {cls.__name__}"
                )
        try:
            return cls(**values)
        except BadConfig as error:
            raise BadConfig(f"{path}: {error.message}") from error

    def write(self, path: Path) -> None:
        """Write it as huggingface_hub does: sorted, indented by 2, no newline at the end."""
        path.write_text(json.dumps(asdict(self), sort_keys=True, indent=2))


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig(_Shape):
    """Shape of a tokenizer. n layers mean n - 1 blocks, because upstream counts the projection."""

    d_in: int = FIELDS
    d_model: int = 256
    n_heads: int = 4
    ff_dim: int = 512
    n_enc_layers: int = 4
    n_dec_layers: int = 4
    ffn_dropout_p: float = 0.0
    attn_dropout_p: float = 0.0
    resid_dropout_p: float = 0.0
    s1_bits: int = 10
    s2_bits: int = 10
    beta: float = 0.05
    gamma0: float = 1.0
    gamma: float = 1.1
    zeta: float = 0.05
    group_size: int = 4

    def __post_init__(self) -> None:
        _check_heads(self.d_model, self.n_heads)
        if self.d_in != FIELDS:
            raise BadConfig(f"d_in is {self.d_in}, expected {FIELDS}, the columns of a bar")
        if self.n_dec_layers < 2:
            raise BadConfig(f"n_dec_layers is {self.n_dec_layers}, expected 2 or more")
        bits = self.s1_bits + self.s2_bits
        if bits % self.group_size:
            raise BadConfig(
                f"group_size is {self.group_size}, expected a divisor of the {bits} bits"
            )

    @property
    def blocks(self) -> Mapping[str, int]:
        """Number of blocks of each stack, by the stack's name in the keys of the weights."""
        return {"encoder": self.n_enc_layers - 1, "decoder": self.n_dec_layers - 1}


@dataclass(frozen=True, kw_only=True)
class PredictorConfig(_Shape):
    """Shape of a predictor."""

    s1_bits: int = 10
    s2_bits: int = 10
    n_layers: int = 4
    d_model: int = 256
    n_heads: int = 4
    ff_dim: int = 512
    ffn_dropout_p: float = 0.2
    attn_dropout_p: float = 0.0
    resid_dropout_p: float = 0.2
    token_dropout_p: float = 0.0
    learn_te: bool = True

    def __post_init__(self) -> None:
        _check_heads(self.d_model, self.n_heads)
        if self.d_model % DEPENDENCY_HEADS:
            raise BadConfig(
                f"d_model is {self.d_model}, expected a multiple of {DEPENDENCY_HEADS}, "
                "the heads of the cross attention"
            )

    @property
    def blocks(self) -> Mapping[str, int]:
        """Number of blocks of the only stack, by its name in the keys of the weights."""
        return {"transformer": self.n_layers}


def _check_heads(d_model: int, n_heads: int) -> None:
    """Raise BadConfig unless heads have the same, even width: rotary positions turn pairs."""
    if d_model % (2 * n_heads):
        raise BadConfig(f"d_model is {d_model}, expected a multiple of 2 * n_heads = {2 * n_heads}")


@dataclass(frozen=True)
class Size:
    """An official predictor."""

    shape: PredictorConfig
    group_size: int  # of its tokenizer
    max_context: int  # bars in its window


_SMALL = PredictorConfig(
    n_layers=8,
    d_model=512,
    n_heads=8,
    ff_dim=1024,
    ffn_dropout_p=0.25,
    attn_dropout_p=0.1,
    resid_dropout_p=0.25,
    token_dropout_p=0.1,
)
_BASE = PredictorConfig(n_layers=12, d_model=832, n_heads=16, ff_dim=2048)
SIZES = {
    "mini": Size(PredictorConfig(), group_size=5, max_context=2048),
    "small": Size(_SMALL, group_size=4, max_context=512),
    "base": Size(_BASE, group_size=4, max_context=512),
}


def official_size(config: PredictorConfig) -> str | None:
    """Name of the official size with these layers, width, heads and feed-forward width, or None."""
    keys = ("n_layers", "d_model", "n_heads", "ff_dim")
    for name, size in SIZES.items():
        if all(getattr(config, key) == getattr(size.shape, key) for key in keys):
            return name
    return None


def check_pairing(tokenizer: TokenizerConfig, predictor: PredictorConfig) -> None:
    """Raise BadConfig unless the predictor was made for the tokens of this tokenizer."""
    tokenizer_bits = (tokenizer.s1_bits, tokenizer.s2_bits)
    predictor_bits = (predictor.s1_bits, predictor.s2_bits)
    if tokenizer_bits != predictor_bits:
        raise BadConfig(
            "tokenizer and predictor do not belong together: bits (s1, s2) are "
            f"{tokenizer_bits} and {predictor_bits}",
            code="PAIRING",
        )
    name = official_size(predictor)
    if name is None:
        return
    expected = (TokenizerConfig().d_model, SIZES[name].group_size)
    if (tokenizer.d_model, tokenizer.group_size) != expected:
        raise BadConfig(
            f"Kronos-{name} reads tokens of a tokenizer with group_size {expected[1]}, found "
            f"{tokenizer.group_size}: mini goes with Kronos-Tokenizer-2k, small and base with "
            "Kronos-Tokenizer-base",
            code="PAIRING",
        )
