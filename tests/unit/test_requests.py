"""Bodies of requests: every form gives the same table, and what cannot be read is refused."""

import functools
import inspect
import io
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.pyfunc import PyFuncModel, scoring_server
from mlflow.types import ColSpec, Schema
from pyarrow.parquet import write_table

from registry.errors import BadHistory, BadParameter
from registry.forecast.checks import check_history
from registry.forecast.spec import ModelSpec
from registry.versions import handover, requests
from registry.versions.pyfunc import ForecastModel

SPEC = ModelSpec("model", "family", 3, 5, 2, optional=("volume",))


def history() -> pd.DataFrame:
    """Names that readers of CSV take for a number and for a missing value, and long numbers."""
    days = ["2022-12-23", "2022-12-27", "2022-12-28"]
    y = np.random.default_rng(1).normal(0, 0.01, 6)
    columns = {"unique_id": ["007"] * 3 + ["NA"] * 3, "ds": days * 2, "y": y}
    return pd.DataFrame({**columns, "volume": [1, 2, 3, 4, 5, 6]})


def split(**others: Any) -> dict[str, Any]:
    rows = history().to_numpy(dtype=object).tolist()
    return {"columns": list(history()), "data": rows, **others}


def parquet(frame: pd.DataFrame) -> bytes:
    body = io.BytesIO()
    frame.to_parquet(body)
    return body.getvalue()


def bodies() -> dict[str, requests.Parts]:
    """The parts of each form of the same request."""
    frame = history()
    records, columns = frame.to_dict("records"), frame.to_dict("list")
    forms = {
        "dataframe_split": split(),
        "dataframe_records": records,
        "inputs": columns,
        "instances": records,
    }
    parts = {}
    for form, data in forms.items():
        body = {form: data, "params": {"horizon": 2}}
        parts[form] = requests.from_json(json.dumps(body).encode())
    typed = frame.assign(unique_id=frame["unique_id"].astype("category"))
    parts["csv"] = requests.from_csv(frame.to_csv(index=False).encode())
    parts["csv with an index"] = requests.from_csv(frame.to_csv().encode())
    parts["parquet"] = requests.from_parquet(parquet(typed))
    return parts


def test_every_form_of_a_request_holds_the_same_history_to_the_last_bit() -> None:
    expected = check_history(history(), SPEC)
    assert expected.ids == ("007", "NA")
    parts = bodies()
    for form, (table, _) in parts.items():
        checked = check_history(table, SPEC)
        assert checked.ids == expected.ids, form
        assert checked.ds.tolist() == expected.ds.tolist(), form
        for name, values in expected.columns.items():
            assert checked.columns[name].tolist() == values.tolist(), form
    of_json = [parameters for form, (_, parameters) in parts.items() if form in requests.FORMS]
    assert of_json == [{"horizon": 2}] * 4
    assert parts["csv"][1] is parts["parquet"][1] is None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"inputs": "\xff"}',
        b"[" * 100_000,
        b'{"inputs": ' + b"1" * 5000 + b"}",
        b"[]",
        b"{}",
        b'{"inputs": {}, "instances": []}',
        b'{"inputs": 5}',
        b'{"inputs": null}',
        b'{"inputs": {"unique_id": "A", "y": 1}}',
        b'{"inputs": {"unique_id": ["A"], "y": [1, 2]}}',
        b'{"dataframe_records": {"a": 1}}',
        b'{"dataframe_split": []}',
        b'{"dataframe_split": {"columns": ["y"]}}',
        b'{"dataframe_split": {"columns": ["y"], "data": [[1, 2]]}}',
        b'{"dataframe_split": {"columns": ["y"], "data": [[1]], "rows": 1}}',
    ],
    ids=lambda body: body[:40].decode(errors="replace"),
)
def test_a_body_of_json_without_a_table_is_refused(body: bytes) -> None:
    with pytest.raises(BadHistory, match=r"^the request holds no table: ") as caught:
        requests.from_json(body)
    assert caught.value.code == "NOT_A_TABLE"


@pytest.mark.parametrize(
    "body", [b"", b"unique_id,ds,y\nA,2022-12-28,0.1\nA\n", b"unique_id\n\xff\n", b"\x00\x01"]
)
def test_a_body_that_is_no_csv_or_parquet_is_refused(body: bytes) -> None:
    for reader, kind in ((requests.from_csv, "CSV"), (requests.from_parquet, "Parquet")):
        with pytest.raises(BadHistory, match=f"the body is not {kind} that can be read") as caught:
            reader(body)
        assert caught.value.code == "NOT_A_TABLE"


@pytest.mark.parametrize(
    ("row", "code"),
    [
        ("A,2022-12-28,true", "NOT_A_NUMBER"),
        ("A,2022-12-28,NA", "NOT_A_NUMBER"),
        ("A,2022-12-28,", "NON_FINITE"),
        ("A,2022-12-28,1e400", "NON_FINITE"),
        (",2022-12-28,0.1", "BAD_SYMBOL"),
        ("A,1672185600000,0.1", "BAD_TIMESTAMP"),
    ],
)
def test_a_cell_of_csv_that_is_no_name_date_or_number_is_refused(row: str, code: str) -> None:
    table, _ = requests.from_csv(f"unique_id,ds,y\n{row}\n".encode())
    with pytest.raises(BadHistory) as caught:
        check_history(table, replace(SPEC, min_context=1))
    assert caught.value.code == code


def test_a_column_of_csv_has_one_type_however_long_it_is() -> None:
    """Arrow reads blocks of a megabyte, each with types of its own."""
    body = "unique_id,ds,y\n" + "A,2022-12-28,0\n" * 100_000 + "A,2022-12-28,0.5\n"
    table, _ = requests.from_csv(body.encode())
    assert table["y"].dtype == np.float64
    assert table["y"].iloc[-1] == 0.5


# --- MLflow -----------------------------------------------------------------------------------


class Other:
    """A model of somebody else, with MLflow's signature."""

    def predict(self, data: pd.DataFrame) -> pd.DataFrame:
        return data


def other_model() -> PyFuncModel:
    schema = Schema([ColSpec("double", "y")])
    return PyFuncModel(Model(signature=ModelSignature(schema)), Other())


def test_models_of_others_are_called_by_mlflow_as_before() -> None:
    handover.install(ForecastModel)
    model = other_model()
    schema = model.metadata.get_input_schema()
    body = b'{"inputs": {"y": [1, true]}}'
    reply = scoring_server.invocations(body, "application/json", model, schema)
    assert reply.response == '{"predictions": [{"y": 1.0}, {"y": 1.0}]}'
    with pytest.raises(MlflowException, match="Can not safely convert int64 to float64"):
        model.predict(pd.DataFrame({"y": [2, 3]}))


def test_functions_of_another_mlflow_stay_as_they_are_and_a_warning_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def invocations(request: Any, model: Any) -> Any:
        return model.predict(request)

    predict = inspect.unwrap(PyFuncModel._predict)
    monkeypatch.setattr(PyFuncModel, "_predict", predict)
    monkeypatch.setattr(scoring_server, "invocations", invocations)
    handover.install(ForecastModel)
    assert (PyFuncModel._predict, scoring_server.invocations) == (predict, invocations)
    assert "this MLflow casts requests before they are checked" in caplog.text


def test_a_second_installation_wraps_nothing_again() -> None:
    handover.install(ForecastModel)
    before = PyFuncModel._predict, scoring_server.invocations
    handover.install(ForecastModel)
    assert (PyFuncModel._predict, scoring_server.invocations) == before


def test_a_wrapper_of_somebody_else_is_not_taken_for_ours(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Tracing tools wrap MLflow's functions in the same way, with functools.wraps."""
    original = inspect.unwrap(PyFuncModel._predict)

    @functools.wraps(original)
    def traced(*arguments: Any, **options: Any) -> Any:
        return original(*arguments, **options)

    monkeypatch.setattr(PyFuncModel, "_predict", traced)
    monkeypatch.setattr(scoring_server, "invocations", inspect.unwrap(scoring_server.invocations))
    handover.install(ForecastModel)
    assert PyFuncModel._predict is not traced
    assert PyFuncModel._predict.__wrapped__ is traced
    assert caplog.text == ""


def test_a_key_beside_the_table_and_params_is_refused() -> None:
    body = json.dumps({"inputs": {"y": [0.1]}, "parms": {"horizon": 1}}).encode()
    with pytest.raises(BadParameter, match="a parameter belongs into params") as caught:
        requests.from_json(body)
    assert caught.value.code == "UNKNOWN_PARAM"


def test_a_number_beyond_float64_is_refused() -> None:
    huge = {"columns": ["unique_id", "ds", "y"], "data": [["A", "2022-12-28", 10**400]]}
    with pytest.raises(BadHistory, match="do not fit its columns") as caught:
        requests.from_json(json.dumps({"dataframe_split": huge}).encode())
    assert caught.value.code == "NOT_A_TABLE"


def test_bytes_that_are_no_text_are_no_names() -> None:
    names_of_bytes = pa.array([b"\xff", b"B"], pa.binary()).view(pa.string())
    columns = {"unique_id": names_of_bytes, "ds": ["2022-12-27", "2022-12-28"], "y": [0.1, 0.2]}
    file = io.BytesIO()
    write_table(pa.table(columns), file)
    with pytest.raises(BadHistory, match=r"the body is not Parquet|must be text"):
        check_history(requests.from_parquet(file.getvalue())[0], replace(SPEC, min_context=1))


def test_columns_with_names_of_several_levels_are_no_table() -> None:
    frame = history()
    frame.columns = pd.MultiIndex.from_product([["AAPL"], frame.columns])
    with pytest.raises(BadHistory, match="flatten them") as caught:
        check_history(frame, SPEC)
    assert caught.value.code == "NOT_A_TABLE"
