"""Which files of ours a module runs: its imports, and theirs, found in the sources.

A version ships these files and no others, so that an edit of training code or of another family
leaves it the same code.
"""

import ast
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from registry.errors import KronosError

OURS = ("registry", "mlprojects")
TYPES_ONLY = ("TYPE_CHECKING", "typing.TYPE_CHECKING")  # conditions that only a type checker meets


def closure(checkout: Path, *modules: str) -> tuple[Path, ...]:
    """Files under `checkout` that `modules` run, relative to it and sorted.

    Imports inside functions count, those under `if TYPE_CHECKING:` do not. What is imported by a
    name that is computed cannot be seen: name it among `modules`.
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
    """The `__init__.py` of every package that a file lies in, where there is one."""
    candidates = [folder / "__init__.py" for folder in path.parents if folder != Path()]
    return [candidate for candidate in candidates if (checkout / candidate).is_file()]


def _file(checkout: Path, module: str) -> Path | None:
    """File of a module or package of ours; None for a name within a module, or a namespace."""
    base = Path(*module.split("."))
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if (checkout / path).is_file():
            return path
    return None


@lru_cache(maxsize=1024)
def _imported(source: Path, modified_ns: int) -> tuple[str, ...]:  # noqa: ARG001 - part of the key
    """Modules of ours that a file names in its imports, and names in them that may be modules."""
    tree = ast.parse(source.read_text(), filename=str(source))
    modules: list[str] = []
    for node in _nodes(tree):
        if isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                raise KronosError(f"{source}:{node.lineno}: a relative import; name the package")
            modules += [str(node.module), *(f"{node.module}.{a.name}" for a in node.names)]
    return tuple(module for module in modules if module.split(".")[0] in OURS)


def _nodes(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes below one, but for those that only a type checker reads."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) in TYPES_ONLY:
            yield from (n for part in child.orelse for n in (part, *_nodes(part)))
            continue
        yield child
        yield from _nodes(child)
