"""One table of all error codes: every raised code is in it, with its class."""

import ast
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from registry import errors
from registry.codes import BY_STATUS, CODES, REQUEST, from_code, rows
from registry.settings import CHECKOUT

KINDS = {name: kind for name, kind in vars(errors).items() if isinstance(kind, type)}
# Functions that take a code as an argument; the tests check their callers.
PASSED_ON = {
    ("registry/forecast/checks.py", "refusal"),
    ("registry/forecast/rendering.py", "unpacked"),
    ("registry/codes.py", "from_code"),
    ("registry/versions/served.py", "__init__"),
    ("serving/supervisor/ledger.py", "refusal_of"),
    ("jobs/training/comparison.py", "_common"),
}


def sources() -> list[Path]:
    folders = ("registry", "jobs", "serving", "mlprojects")
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", *(f"{folder}/*.py" for folder in folders)],
        cwd=CHECKOUT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return [CHECKOUT / line for line in listed.stdout.splitlines() if (CHECKOUT / line).is_file()]


def constants(node: ast.expr) -> set[str] | None:
    """Codes that an expression can be; None if it is computed."""
    if isinstance(node, ast.IfExp):
        branches = constants(node.body), constants(node.orelse)
        return None if None in branches else set.union(*branches)  # type: ignore[arg-type]
    if isinstance(node, ast.Constant):
        return {str(node.value)}
    return None


def raised() -> Iterator[tuple[str, str, set[str] | None, str]]:
    """(place, name of the class, codes, function) of every call of an error class with a code."""
    for path in sources():
        place = path.relative_to(CHECKOUT).as_posix()
        tree = ast.parse(path.read_text())
        functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
        for call in [node for node in ast.walk(tree) if isinstance(node, ast.Call)]:
            for keyword in call.keywords:
                if keyword.arg == "code":
                    kind = ast.unparse(call.func)
                    if kind == "Refusal":  # of an error that was raised elsewhere
                        continue
                    yield place, kind, constants(keyword.value), enclosing(call, functions)


def enclosing(call: ast.Call, functions: list[ast.FunctionDef]) -> str:
    """Name of the innermost function around a call; empty at module level."""
    around = [f.name for f in functions if f.lineno <= call.lineno <= (f.end_lineno or 0)]
    return around[-1] if around else ""


def test_every_code_that_is_raised_stands_in_the_table_with_its_class() -> None:
    raised_codes = set()
    for place, kind, codes, function in raised():
        if codes is None:
            assert (place, function) in PASSED_ON, f"{place}: {function} computes a code"
            continue
        for code in codes:
            assert code in CODES, f"{place}: {code}"
            assert CODES[code].kind is KINDS[kind], (
                f"{place}: {code} is a {CODES[code].kind.__name__}"
            )
        raised_codes |= codes
    raised_codes |= {ast.literal_eval(code) for _, code in faults()}
    raised_codes |= {kind.code for kind in KINDS.values()}
    raised_codes |= {"WORKER", "TRIAL"}
    assert raised_codes == set(CODES), "a code that nobody raises"


def faults() -> Iterator[tuple[str, ast.expr]]:
    """(file, code) of every fault of a series that a check finds."""
    places = {"Fault": 1, "in_rows": 3}  # of the code among the arguments
    for name in ("bars", "checks"):
        tree = ast.parse((CHECKOUT / "registry" / "forecast" / f"{name}.py").read_text())
        for call in [node for node in ast.walk(tree) if isinstance(node, ast.Call)]:
            function = ast.unparse(call.func)
            if function in places:
                yield name, call.args[places[function]]


def test_codes_of_refused_series_stand_in_the_table() -> None:
    found = list(faults())
    assert all(isinstance(code, ast.Constant) for _, code in found)
    codes = {ast.literal_eval(code) for _, code in found}
    assert {"GAP", "HALTED", "TOO_SHORT", "BAD_BAR", "PRICE_BASIS"} < codes
    assert all(CODES[code].kind is errors.BadHistory for code in codes)


def test_every_class_has_its_own_code_in_the_table() -> None:
    for kind in KINDS.values():
        assert CODES[kind.code].kind is kind


@pytest.mark.parametrize("code", sorted(CODES))
def test_an_error_from_another_process_is_the_error_that_was_raised_there(code: str) -> None:
    error = from_code(code, "said there", CODES[code].kind.status)
    assert type(error) is CODES[code].kind
    assert (error.code, error.message) == (code, "said there")


@pytest.mark.parametrize("status", [400, 404, 409, 422, 500, 503])
def test_a_code_of_other_code_keeps_its_name_and_the_kind_of_its_status(status: int) -> None:
    error = from_code("OF_TOMORROW", "said there", status)
    assert error.code == "OF_TOMORROW"
    assert error.status == (status if status in BY_STATUS else 500)


def test_rows_of_requests_say_status_and_meaning() -> None:
    listed = {code: (status, meaning) for code, status, meaning in rows(REQUEST)}
    assert listed["TOO_SHORT"] == (400, "fewer sessions than the model or its training needs")
    assert listed["NOT_AVAILABLE"][0] == 422
    assert "LEAKAGE" not in listed
