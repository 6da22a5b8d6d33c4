"""Official folders: config.json and model.safetensors, in the layout of upstream's code."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from mlprojects.kronos.architecture import Predictor, Tokenizer
from mlprojects.kronos.shapes import CONFIG, WEIGHTS, PredictorConfig, TokenizerConfig
from registry.errors import BadConfig, Corrupt, NotFound

# Types of weights, by safetensors' names. All are computed in float32, as upstream does.
FLOATS = ("F32", "F16", "BF16", "F64")
WHOLE = ("I64",)  # type of the quantizer's buffers
META = torch.device("meta")  # tensors on it have a shape and no memory


def load_tokenizer(directory: Path) -> Tokenizer:
    """The tokenizer of an official folder, in eval mode. Raises NotFound, BadConfig, Corrupt."""
    config = TokenizerConfig.read(directory / CONFIG)
    header = _header(directory / WEIGHTS)
    _check_blocks(directory / WEIGHTS, header, config)
    with META:
        tokenizer = Tokenizer(config)
    _load(tokenizer, directory / WEIGHTS, header)
    return tokenizer


def load_predictor(directory: Path) -> Predictor:
    """The predictor of an official folder, in eval mode. Raises NotFound, BadConfig, Corrupt."""
    config = PredictorConfig.read(directory / CONFIG)
    header = _header(directory / WEIGHTS)
    _check_blocks(directory / WEIGHTS, header, config)
    with META:
        predictor = Predictor(config)
    _load(predictor, directory / WEIGHTS, header)
    return predictor


def save_official(module: Tokenizer | Predictor, directory: Path) -> None:
    """Write config.json and model.safetensors for upstream's `from_pretrained`."""
    directory.mkdir(parents=True, exist_ok=True)
    module.config.write(directory / CONFIG)
    tensors = {key: value.contiguous() for key, value in module.state_dict().items()}
    save_file(tensors, directory / WEIGHTS)


@dataclass(frozen=True)
class _Entry:
    """A tensor in the header of a safetensors file."""

    shape: tuple[int, ...]
    dtype: str  # such as F32


def _header(path: Path) -> Mapping[str, _Entry]:
    """Shapes and types of all tensors, by key; no tensor is read."""
    if not path.is_file():
        raise NotFound(f"no {path}; an official folder holds {CONFIG} and {WEIGHTS}")
    entries = {}
    try:
        with safe_open(path, "pt") as file:
            for key in file.keys():  # noqa: SIM118 (the file is no mapping)
                part = file.get_slice(key)
                entries[key] = _Entry(tuple(part.get_shape()), part.get_dtype())
    except (SafetensorError, OSError) as error:
        raise Corrupt(f"{path} cannot be read as safetensors") from error
    return entries


def _check_blocks(
    path: Path, header: Mapping[str, _Entry], config: TokenizerConfig | PredictorConfig
) -> None:
    """Compare the numbers of blocks first: the time to build a network grows with them."""
    for stack, expected in config.blocks.items():
        numbers = {key.split(".")[1] for key in header if key.startswith(f"{stack}.")}
        if len(numbers) != expected:
            raise BadConfig(
                f"{path} does not fit its {CONFIG}: {stack} has {len(numbers)} blocks, "
                f"expected {expected}",
                code="PAIRING",
            )


def _load(module: Tokenizer | Predictor, path: Path, header: Mapping[str, _Entry]) -> None:
    """Load the weights into a network on the meta device; keys and shapes must match exactly."""
    expected = module.state_dict()
    _check_header(path, header, expected)
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise Corrupt(f"{path} cannot be read as safetensors") from error
    loaded = {}
    for key, tensor in expected.items():
        # A copy: the file is mapped into memory, and bits may depend on where a tensor begins.
        loaded[key] = tensors[key].to(tensor.dtype, copy=True)
        # Infinity and NaN show in the extremes, in one pass.
        if not torch.isfinite(torch.stack(loaded[key].aminmax())).all():
            raise Corrupt(f"{path}: {key} holds a value that is not finite")
    module.load_state_dict(loaded, assign=True)
    module.eval()


def _check_header(path: Path, header: Mapping[str, _Entry], expected: Mapping[str, Tensor]) -> None:
    """Raise BadConfig unless keys, shapes and types are those of the network."""
    missing = sorted(set(expected) - set(header))
    unknown = sorted(set(header) - set(expected))
    if missing or unknown:
        raise BadConfig(
            f"{path} does not fit its {CONFIG}: lacks {missing[:3]}, has unknown {unknown[:3]}"
        )
    for key, tensor in expected.items():
        found, shape = header[key], tuple(tensor.shape)
        if found.shape != shape:
            raise BadConfig(
                f"{path}: {key} has shape {found.shape}, {CONFIG} says {shape}", code="PAIRING"
            )
        types = FLOATS if tensor.is_floating_point() else WHOLE
        if found.dtype not in types:
            raise BadConfig(
                f"{path}: {key} has type {found.dtype}, expected {' or '.join(types)}; "
                "ask the owner for weights that are not quantized"
            )
