"""The contract as an MLflow signature: columns in, columns out, parameters from the spec."""

from typing import Any

import numpy as np
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema

from registry import wire
from registry.contract import ModelSpec

_COLUMN_TYPES = {
    wire.UNIQUE_ID: DataType.string,
    wire.DS: DataType.datetime,
    wire.STEP: DataType.long,
    wire.NOTES: DataType.string,
}
_PARAM_TYPES = {
    "long": DataType.long,
    "double": DataType.double,
    "string": DataType.string,
    "boolean": DataType.boolean,
}


def build(spec: ModelSpec) -> ModelSignature:
    """Signature of a model: its required columns; frame output; horizon, levels, seed, output and its options."""
    quantiles = [wire.quantile_column(level) for level in spec.levels]
    return ModelSignature(
        inputs=Schema([*map(_column, spec.columns), *(_column(name, required=False) for name in spec.optional)]),
        outputs=Schema(
            [
                *map(_column, (wire.UNIQUE_ID, wire.STEP, wire.DS, wire.MEAN, *quantiles)),
                _column(wire.NOTES, required=False),
            ]
        ),
        params=ParamSchema(
            [
                ParamSpec("horizon", DataType.long, spec.max_horizon),
                ParamSpec("levels", DataType.double, np.array(spec.levels, dtype=np.float64), (-1,)),
                ParamSpec("seed", DataType.long, 0),
                ParamSpec("output", DataType.string, wire.OUTPUTS[0]),
                *(ParamSpec(o.name, _PARAM_TYPES[o.type], o.default) for o in spec.options),
            ]
        ),
    )


def metadata(spec: ModelSpec) -> dict[str, Any]:
    """What a signature cannot say of the history: which symbols, and whether they come together."""
    return {"universe": list(spec.universe) if spec.universe else None, "joint": spec.joint, "subset": spec.subset}


def _column(name: str, *, required: bool = True) -> ColSpec:
    return ColSpec(_COLUMN_TYPES.get(name, DataType.double), name, required)


def parameter_names(signature: Any) -> set[str]:
    """Names of the request parameters that a signature declares."""
    return {param.name for param in signature.params.params} if signature.params else set()
