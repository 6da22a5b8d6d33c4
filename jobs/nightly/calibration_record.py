"""A range of nights as a run of MLflow, and a version's calibration in its description."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import pandas as pd
import sqlalchemy as sa

from jobs.nightly import pictures
from jobs.nightly.course import Course
from jobs.nightly.learned_from import LearnedFrom
from jobs.nightly.publishing import Published, text_of, worst
from jobs.nightly.ranges import Range
from registry.ledger import calibrations
from registry.ledger.claims import now
from registry.ledger.states import Scope
from registry.settings import Settings
from registry.versions import describing, tracking
from registry.versions.store import Store
from registry.versions.tracking import Run
from registry.versions.version import Version

EXPERIMENT = "calibrations"
KEY = "job_key"
_LONGEST = 4000  # characters of a tag


@contextmanager
def recorded(settings: Settings, version: Version, scope: Scope, nights: Range) -> Iterator[Run]:
    """The run of a range: a new one, or the one that was cut."""
    key = nights.key(scope)
    tags = {
        "model": version.name,
        "version": str(version.version),
        "data": scope.data,
        "method": nights.method,
        "git_commit": tracking.git_commit(),
        KEY: key,
    }
    again = tracking.latest(settings, EXPERIMENT, {KEY: key})
    name = f"{version.reference} {scope.data}"
    with tracking.start(settings, EXPERIMENT, name, tags=tags, again=again) as run:
        run.params({"since": nights.since, "until": nights.until, "method": nights.method})
        yield run


def log(
    run: Run, course: Course | None, published: Published, clipped: Mapping[str, int], title: str
) -> None:
    """Metrics, pictures and tables of a range. `clipped` are nights by symbol.

    `title` is that of the pictures; their dates are added.
    """
    run.metrics({"published": len(published.numbers)})
    run.tags(_tags(published))
    table = pd.DataFrame({"symbol": [*clipped], "nights": [*clipped.values()]})
    run.table(table.sort_values(["nights", "symbol"], ascending=[False, True]), "tables/clipped")
    run.json(published.steps, "verdicts.json")
    if course is None or not course.steps:
        return
    run.metrics({"nights": len(course.nights)})
    run.daily(course.metrics(), course.shown())
    sectors = course.by_sector()
    run.table(course.frame(), "tables/nights")
    run.table(sectors, "tables/sectors")
    run.metrics(_of_sectors(sectors))
    _draw(run, course, published, title)


def _tags(published: Published) -> dict[str, str]:
    verdicts = {f"verdict_step_{step}": state for step, state in published.verdicts.items()}
    tags = {"calibration": worst(published.verdicts), **verdicts}
    if published.numbers:
        tags["calibration_number"] = str(published.numbers[-1])
    for key, texts in (("verdict_fell", published.fell), ("refused", published.refused)):
        if texts:
            tags[key] = "; ".join(texts)[:_LONGEST]
    return tags


def _of_sectors(sectors: pd.DataFrame) -> dict[str, float]:
    """Coverage of the 90 % band of all steps by sector, before and after."""
    metrics = {}
    for sector, rows in sectors.groupby("sector"):
        for when in ("before", "after"):
            inside = (rows[f"coverage_90_{when}"] * rows["n"]).sum()
            metrics[f"coverage_90_{when}/{_plain(str(sector))}"] = inside / rows["n"].sum()
    return metrics


def _plain(sector: str) -> str:
    """A sector as MLflow takes it in the name of a metric."""
    return "".join(letter if letter.isalnum() or letter in " _-." else "_" for letter in sector)


def _draw(run: Run, course: Course, published: Published, head: str) -> None:
    first, last = course.trail.sessions[[0, -1]].tolist()
    title = f"{head}: {first} to {last}"
    before, after = course.reliability()
    levels, steps = course.trail.levels, course.steps
    figure = pictures.reliability(levels, before, after, steps, title)
    run.figure(figure, "figures/reliability.png")
    run.figure(pictures.pit(*course.pit(), title), "figures/pit.png")
    days, counts, inside = course.coverage(steps[0])
    verdict = published.steps.get(str(steps[0]), {})
    band = None if verdict.get("low") is None else (verdict["low"], verdict["high"])
    figure = pictures.coverage(days, counts, inside, band, f"{title}, step {steps[0]}")
    run.figure(figure, "figures/coverage.png")


def describe(store: Store, version: Version, engine: sa.Engine, scope: Scope) -> None:
    """Say in a version's description and tags what is current on its own data set."""
    if version.tags.get("data", scope.data) != scope.data:
        return
    number = calibrations.current_numbers(engine, scope.registry).get(scope)
    if number is None:
        return
    [current] = [one for one in calibrations.versions(engine, scope) if one.number == number]
    verdicts = current.evidence.get("verdicts", {})
    tags = {"calibration": worst(verdicts), "calibration_number": str(number)}
    learned_from = LearnedFrom.of(engine, scope, current.learned_until, now())
    text = text_of(current, scope.data, str(learned_from))
    describing.say_calibration(store, version, text, tags)
