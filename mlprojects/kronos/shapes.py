"""Shapes of tokenizers and predictors: their config.json, the official sizes, what belongs together."""

import json
import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

from registry.errors import BadConfig, NotFound

CONFIG, WEIGHTS = "config.json", "model.safetensors"
PREDICTOR, TOKENIZER = "predictor", "tokenizer"  # folders of a version's model
FIELDS = 6  # of a bar: open high low close volume amount


def _fits(kind: Any, name: str, value: Any) -> bool:
    """Whether a value of a config.json is of its kind: true or false, a share, another number, a count."""
    if kind is bool:
        return isinstance(value, bool)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    if kind is float:
        return 0 <= value < 1 if name.endswith("_dropout_p") else math.isfinite(value)
    return (
        isinstance(value, int)
        and 1 <= value <= 1 << 16
        and (not name.endswith("_bits") or value <= 16)
    )


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
        except ValueError as error:
            raise BadConfig(f"{path} is not JSON") from error
        known = {f.name for f in fields(cls)}
        if not isinstance(values, dict) or set(values) != known:
            found = set(values) if isinstance(values, dict) else set()
            raise BadConfig(
                f"{path} is no {cls.__name__}: missing {sorted(known - found)}, unknown {sorted(found - known)}"
            )
        shape = cls(**values)
        wrong = [f.name for f in fields(cls) if not _fits(f.type, f.name, getattr(shape, f.name))]
        if wrong:
            raise BadConfig(
                f"{path}: {wrong[0]} is {getattr(shape, wrong[0])!r}, which no {cls.__name__} can have"
            )
        return shape

    def write(self, path: Path) -> None:
        """As huggingface_hub writes it: sorted, indented by 2, no newline at the end."""
        path.write_text(json.dumps(asdict(self), sort_keys=True, indent=2))


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig(_Shape):
    """Shape of a tokenizer. Of n layers, n - 1 are built: upstream counts the projection."""

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


@dataclass(frozen=True)
class Size:
    """An official predictor: its shape, the group size of the tokenizer it was made for, bars in its window."""

    shape: PredictorConfig
    group_size: int
    max_context: int


SIZES = {
    "mini": Size(PredictorConfig(), 5, 2048),
    "small": Size(
        PredictorConfig(
            n_layers=8, d_model=512, n_heads=8, ff_dim=1024, ffn_dropout_p=0.25, attn_dropout_p=0.1,
            resid_dropout_p=0.25, token_dropout_p=0.1,
        ), 4, 512,
    ),
    "base": Size(PredictorConfig(n_layers=12, d_model=832, n_heads=16, ff_dim=2048), 4, 512),
}  # fmt: skip


def official_size(config: PredictorConfig) -> str | None:
    """Name of the official size with this many layers of this width."""
    for name, size in SIZES.items():
        if all(
            getattr(config, key) == getattr(size.shape, key)
            for key in ("n_layers", "d_model", "n_heads", "ff_dim")
        ):
            return name
    return None


def check_pairing(tokenizer: TokenizerConfig, predictor: PredictorConfig) -> None:
    """Raise BadConfig unless the predictor was made for the tokens of this tokenizer."""
    theirs, ours = (tokenizer.s1_bits, tokenizer.s2_bits), (predictor.s1_bits, predictor.s2_bits)
    if theirs != ours:
        raise BadConfig(
            f"tokenizer and predictor do not belong together: bits (s1, s2) are {theirs} and {ours}",
            code="PAIRING",
        )
    name = official_size(predictor)
    if name and (tokenizer.d_model, tokenizer.group_size) != (
        TokenizerConfig().d_model,
        SIZES[name].group_size,
    ):
        raise BadConfig(
            f"Kronos-{name} reads tokens of a tokenizer with group_size {SIZES[name].group_size}, found "
            f"{tokenizer.group_size}: mini goes with Kronos-Tokenizer-2k, small and base with Kronos-Tokenizer-base",
            code="PAIRING",
        )
