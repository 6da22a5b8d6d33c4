"""Official folders: config.json and model.safetensors, as upstream's `from_pretrained` reads and writes them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from mlprojects.kronos.architecture import Predictor, Tokenizer
from mlprojects.kronos.shapes import CONFIG, WEIGHTS, PredictorConfig, TokenizerConfig
from registry.errors import BadConfig, Corrupt, NotFound


def load_tokenizer(directory: Path) -> Tokenizer:
    """The tokenizer of an official folder, in eval mode. Raises NotFound, BadConfig, Corrupt."""
    tokenizer = Tokenizer(TokenizerConfig.read(directory / CONFIG))
    _load(tokenizer, directory)
    return tokenizer


def load_predictor(directory: Path) -> Predictor:
    """The predictor of an official folder, in eval mode. Raises NotFound, BadConfig, Corrupt."""
    predictor = Predictor(PredictorConfig.read(directory / CONFIG))
    _load(predictor, directory)
    return predictor


def save_official(module: Tokenizer | Predictor, directory: Path) -> None:
    """Write config.json and model.safetensors as upstream's `from_pretrained` reads them."""
    directory.mkdir(parents=True, exist_ok=True)
    module.config.write(directory / CONFIG)
    save_file(
        {key: value.contiguous() for key, value in module.state_dict().items()}, directory / WEIGHTS
    )


def _load(module: nn.Module, directory: Path) -> None:
    """Every key, no other, every shape."""
    path = directory / WEIGHTS
    if not path.is_file():
        raise NotFound(f"no {path}; an official folder holds {CONFIG} and {WEIGHTS}")
    try:
        found: Mapping[str, Any] = load_file(path)
    except (SafetensorError, OSError) as error:
        raise Corrupt(f"{path} cannot be read as safetensors") from error
    expected = module.state_dict()
    missing, unknown = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    if missing or unknown:
        raise BadConfig(
            f"{path} does not fit its {CONFIG}: lacks {missing[:3]}, has unknown {unknown[:3]}"
        )
    for key, tensor in expected.items():
        if found[key].shape != tensor.shape:
            raise BadConfig(
                f"{path}: {key} has shape {tuple(found[key].shape)}, {CONFIG} says {tuple(tensor.shape)}",
                code="PAIRING",
            )
        if not torch.isfinite(found[key]).all():
            raise Corrupt(f"{path}: {key} holds a value that is not finite")
    module.load_state_dict(found)
    module.eval()
