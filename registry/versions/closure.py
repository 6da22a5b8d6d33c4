"""The import closure of a module: the repository files that it runs, found by parsing sources.

A version ships only these files. So an edit of training code or of another family does not change
the version's code.
"""

import ast
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from registry.errors import KronosError

PACKAGES = ("registry", "mlprojects")  # imports of other packages are not followed
TYPES_ONLY = ("TYPE_CHECKING", "typing.TYPE_CHECKING")  # true for a type checker only


def closure(checkout: Path, *modules: str) -> tuple[Path, ...]:
    """Files under `checkout` that `modules` run, relative to it and sorted.

    Imports inside functions count; imports under `if TYPE_CHECKING:` do not. A module that is
    imported by a computed name is not found: add it to `modules`. Raises KronosError for a relative
    import.
    """
    files: set[Path] = set()
    waiting = [_file(checkout, module) for module in modules]
    while waiting:
        path = waiting.pop()
        if path is None or path in files:
            continue
        files.add(path)
        source = checkout / path
        imported = _imported(source, source.stat().st_mtime_ns)
        waiting += _packages(checkout, path)
        waiting += [_file(checkout, module) for module in imported]
    return tuple(sorted(files))


def _packages(checkout: Path, path: Path) -> list[Path]:
    """The `__init__.py` of every package around a file, if the package has one."""
    candidates = [folder / "__init__.py" for folder in path.parents if folder != Path()]
    return [candidate for candidate in candidates if (checkout / candidate).is_file()]


def _file(checkout: Path, module: str) -> Path | None:
    """File of a module or package; None for a name within a module and for a namespace package."""
    base = Path(*module.split("."))
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if (checkout / path).is_file():
            return path
    return None


@lru_cache(maxsize=1024)
def _imported(source: Path, modified_ns: int) -> tuple[str, ...]:  # noqa: ARG001 - part of the key
    """Names under PACKAGES that a file imports. A name from a package may be a module or not."""
    tree = ast.parse(source.read_text(), filename=str(source))
    modules: list[str] = []
    for node in _nodes(tree):
        if isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                raise KronosError(f"{source}:{node.lineno}: a relative import; name the package")
            modules.append(str(node.module))
            modules += [f"{node.module}.{alias.name}" for alias in node.names]
    return tuple(module for module in modules if module.split(".")[0] in PACKAGES)


def _nodes(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes below a node, except those that only a type checker reads."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) in TYPES_ONLY:
            for part in child.orelse:
                yield part
                yield from _nodes(part)
            continue
        yield child
        yield from _nodes(child)
