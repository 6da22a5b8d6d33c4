"""Official folders: config.json and model.safetensors, in the layout of upstream's code."""

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
    """Write config.json and model.safetensors for upstream's `from_pretrained`."""
    directory.mkdir(parents=True, exist_ok=True)
    module.config.write(directory / CONFIG)
    tensors = {key: value.contiguous() for key, value in module.state_dict().items()}
    save_file(tensors, directory / WEIGHTS)


def _load(module: nn.Module, directory: Path) -> None:
    """Load the weights; keys and shapes must match exactly."""
    path = directory / WEIGHTS
    if not path.is_file():
        raise NotFound(f"no {path}; an official folder holds {CONFIG} and {WEIGHTS}")
    try:
        tensors: Mapping[str, Any] = load_file(path)
    except (SafetensorError, OSError) as error:
        raise Corrupt(f"{path} cannot be read as safetensors") from error
    expected = module.state_dict()
    missing = sorted(set(expected) - set(tensors))
    unknown = sorted(set(tensors) - set(expected))
    if missing or unknown:
        raise BadConfig(
            f"{path} does not fit its {CONFIG}: lacks {missing[:3]}, has unknown {unknown[:3]}"
        )
    for key, tensor in expected.items():
        if tensors[key].shape != tensor.shape:
            raise BadConfig(
                f"{path}: {key} has shape {tuple(tensors[key].shape)}, {CONFIG} says "
                f"{tuple(tensor.shape)}",
                code="PAIRING",
            )
        if not torch.isfinite(tensors[key]).all():
            raise Corrupt(f"{path}: {key} holds a value that is not finite")
    module.load_state_dict(tensors)
    module.eval()
