"""Progress on a terminal, on stderr. Without a terminal every label is one line, said once."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

from registry import interrupts

Progress = Callable[[str, float], None]  # label of the work, share done (0..1)
Say = Callable[[str], None]  # one line for people


def silent(_label: str, _share: float) -> None:
    """Progress for nobody."""


@contextmanager
def bar_per_label() -> Iterator[Progress]:
    """A new bar whenever the label changes; the bar before it is completed."""
    stderr = Console(stderr=True)
    if not stderr.is_terminal:
        yield _lines(stderr)
        return
    label_column = TextColumn("{task.description:<32}")
    columns = (label_column, BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Bars(*columns, console=stderr) as bars:
        current: list[tuple[str, TaskID]] = []  # the label and bar that move; empty at first

        def complete() -> None:
            for _, bar in current:
                bars.update(bar, completed=1.0)

        def advance(label: str, share: float) -> None:
            interrupts.check()
            if not current or current[0][0] != label:
                complete()
                current[:] = [(label, bars.add_task(label, total=1.0))]
            bars.update(current[0][1], completed=share)

        yield advance
        complete()


@contextmanager
def one_bar() -> Iterator[tuple[Progress, Say]]:
    """One bar whose label changes; and `say` for lines above it."""
    stderr = Console(stderr=True, highlight=False, soft_wrap=True)
    if not stderr.is_terminal:
        yield _lines(stderr), stderr.print
        return
    label_column = TextColumn("{task.description}")
    columns = (label_column, BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Bars(*columns, console=stderr) as bars:
        bar = bars.add_task("starting", total=1.0)

        def advance(label: str, share: float) -> None:
            interrupts.check()
            bars.update(bar, description=label, completed=share)

        yield advance, stderr.print


def _lines(stderr: Console) -> Progress:
    """Progress as one line for each new label."""
    printed: set[str] = set()

    def advance(label: str, _share: float) -> None:
        interrupts.check()
        if label not in printed:
            printed.add(label)
            stderr.print(label, markup=False, soft_wrap=True)

    return advance
