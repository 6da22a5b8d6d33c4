"""Column names and the tree of errors: other programs read them, so they must not change."""

import re
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry import errors
from registry.forecast import names
from registry.settings import CHECKOUT

unique_numbers = st.lists(st.integers(1, 99_999), min_size=2, max_size=8, unique=True)
ascending_levels = unique_numbers.map(lambda numbers: [n / 100_000 for n in sorted(numbers)])

# "├─ BadInput           BAD_INPUT      400" in the docstring of registry/errors.py.
BRANCH = re.compile(
    r"^[ │├└─]*(?P<name>[A-Z]\w+) +(?P<code>[A-Z_]+) +(?P<status>\d{3})\b", re.MULTILINE
)


def tree_of_classes():
    kinds = (value for value in vars(errors).values() if isinstance(value, type))
    return {kind.__name__: (kind.code, kind.status) for kind in kinds}


@pytest.mark.parametrize(
    ("level", "column"),
    [
        (0.05, "q0.05"),
        (0.1, "q0.1"),
        (0.5, "q0.5"),
        (0.95, "q0.95"),
        (0.005, "q0.005"),
        (0.025, "q0.025"),
        (0.975, "q0.975"),
        (0.0255, "q0.0255"),
        (0.999, "q0.999"),
        (np.float64(0.05), "q0.05"),
    ],
)
def test_a_quantile_is_named_after_its_level(level: float, column: str):
    assert names.quantile_column(level) == column


@given(ascending_levels)
def test_a_level_can_be_read_from_its_column(levels: list[float]):
    assert [float(names.quantile_column(level).removeprefix("q")) for level in levels] == levels


def test_default_levels_are_eleven_and_symmetric_around_the_median():
    assert names.LEVELS == (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
    assert [round(1 - level, 10) for level in reversed(names.LEVELS)] == list(names.LEVELS)


def test_the_tree_in_the_docstring_is_the_tree_of_classes():
    drawn = {m["name"]: (m["code"], int(m["status"])) for m in BRANCH.finditer(errors.__doc__)}
    assert drawn == tree_of_classes()


def test_codes_of_error_kinds_are_distinct():
    codes = [code for code, _ in tree_of_classes().values()]
    assert len(set(codes)) == len(codes)


def test_an_error_carries_its_kind_or_the_code_it_was_given():
    assert errors.BadHistory("x").code == "BAD_HISTORY"
    special = errors.BadHistory("too short", code="TOO_SHORT")
    assert (special.code, special.status) == ("TOO_SHORT", 400)
    assert special.message == str(special) == "too short"
    assert errors.BadHistory("x").code == "BAD_HISTORY"  # the class did not change


def modules_after(statement: str) -> set[str]:
    code = f"{statement}\nimport sys\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def test_names_spec_errors_and_codes_import_the_standard_library_only():
    """The gateway imports them."""
    modules = "registry.forecast.names, registry.forecast.spec, registry.errors, registry.codes"
    foreign = modules_after(f"import {modules}") - modules_after("pass") - {"registry"}
    assert foreign <= sys.stdlib_module_names


def test_help_of_a_program_imports_nothing_that_takes_long():
    imported = modules_after("import jobs.__main__, registry.__main__, serving.__main__")
    assert imported.isdisjoint({"numpy", "pandas", "pyarrow", "duckdb", "torch", "mlflow"})


def test_what_a_forecast_is_imports_numpy_pandas_and_pyarrow_only():
    """Every module of registry/forecast, in one process. The imports of these three are allowed."""
    folder = CHECKOUT / "registry" / "forecast"
    modules = [f"registry.forecast.{path.stem}" for path in sorted(folder.glob("*.py"))]
    assert len(modules) > 10
    loaded = modules_after(f"import {', '.join(modules)}")
    allowed = modules_after("import numpy, pandas, pyarrow, pyarrow.compute") | {"registry"}
    assert loaded - allowed <= sys.stdlib_module_names


def test_training_and_scores_load_neither_mlflow_nor_torch():
    loaded = modules_after(
        "import registry.training, registry.scoring.scores, registry.scoring.difference"
    )
    assert {"numpy", "pandas", "scipy"} <= loaded
    assert not {"mlflow", "torch", "matplotlib", "sqlalchemy"} & loaded


def test_settings_of_every_family_load_without_the_libraries_that_train():
    paths = (CHECKOUT / "mlprojects").glob("*/settings.py")
    modules = [f"mlprojects.{path.parent.name}.settings" for path in paths]
    assert len(modules) == len(list((CHECKOUT / "mlprojects").glob("*/configs")))
    loaded = modules_after(f"import {', '.join(modules)}")
    libraries = {"torch", "neuralforecast", "pytorch_forecasting", "torch_geometric", "lightgbm"}
    libraries |= {"sklearn", "arch", "mlflow", "matplotlib"}
    assert not libraries & loaded
