"""A model's contract as an MLflow signature: input columns, output columns, parameters."""

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
    """Signature of a model.

    Inputs: its required and optional columns. Outputs: the columns of a frame reply. Parameters:
    horizon, levels, seed, output and the model's options.
    """
    inputs = [_column(name) for name in spec.columns]
    inputs += [_column(name, required=False) for name in spec.optional]

    quantiles = [names.quantile_column(level) for level in spec.levels]
    reply = (names.UNIQUE_ID, names.STEP, names.DS, names.MEAN, *quantiles)
    outputs = [_column(name) for name in reply]
    outputs.append(_column(names.NOTES, required=False))

    levels = np.array(spec.levels, dtype=np.float64)
    params = [
        ParamSpec("horizon", DataType.long, spec.max_horizon),
        ParamSpec("levels", DataType.double, levels, (-1,)),
        ParamSpec("seed", DataType.long, 0),
        ParamSpec("output", DataType.string, names.OUTPUTS[0]),
    ]
    for option in spec.options:
        params.append(ParamSpec(option.name, _PARAM_TYPES[option.type], option.default))
    return ModelSignature(Schema(inputs), Schema(outputs), ParamSchema(params))


def metadata(spec: ModelSpec) -> dict[str, Any]:
    """Facts about the history that a signature cannot hold: universe, joint and subset."""
    return {
        "universe": list(spec.universe) if spec.universe else None,
        "joint": spec.joint,
        "subset": spec.subset,
    }


def _column(name: str, *, required: bool = True) -> ColSpec:
    return ColSpec(_COLUMN_TYPES.get(name, DataType.double), name, required)
