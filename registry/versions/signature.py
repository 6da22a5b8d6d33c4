"""The contract as an MLflow signature: columns in, columns out, parameters from the spec."""

from typing import Any

import numpy as np
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema

from registry.forecast import names
from registry.forecast.spec import ModelSpec

_COLUMN_TYPES = {
    names.UNIQUE_ID: DataType.string,
    names.DS: DataType.datetime,
    names.STEP: DataType.long,
    names.NOTES: DataType.string,
}
_PARAM_TYPES = {
    "long": DataType.long,
    "double": DataType.double,
    "string": DataType.string,
    "boolean": DataType.boolean,
}


def build(spec: ModelSpec) -> ModelSignature:
    """Signature of a model: its required columns; frame output; horizon, levels, seed, output and its options."""
    quantiles = [names.quantile_column(level) for level in spec.levels]
    return ModelSignature(
        inputs=Schema(
            [
                *map(_column, spec.columns),
                *(_column(name, required=False) for name in spec.optional),
            ]
        ),
        outputs=Schema(
            [
                *map(_column, (names.UNIQUE_ID, names.STEP, names.DS, names.MEAN, *quantiles)),
                _column(names.NOTES, required=False),
            ]
        ),
        params=ParamSchema(
            [
                ParamSpec("horizon", DataType.long, spec.max_horizon),
                ParamSpec(
                    "levels", DataType.double, np.array(spec.levels, dtype=np.float64), (-1,)
                ),
                ParamSpec("seed", DataType.long, 0),
                ParamSpec("output", DataType.string, names.OUTPUTS[0]),
                *(ParamSpec(o.name, _PARAM_TYPES[o.type], o.default) for o in spec.options),
            ]
        ),
    )


def metadata(spec: ModelSpec) -> dict[str, Any]:
    """What a signature cannot say of the history: which symbols, and whether they come together."""
    return {
        "universe": list(spec.universe) if spec.universe else None,
        "joint": spec.joint,
        "subset": spec.subset,
    }


def _column(name: str, *, required: bool = True) -> ColSpec:
    return ColSpec(_COLUMN_TYPES.get(name, DataType.double), name, required)
