"""Forecasts of ten years of the panel, as the jobs issue them, and the calibrations they publish.

Every call is of the real code: train, load, issue, mature, calibrate. What is done already in the
folder of the settings is kept, so a run that was cut goes on.
"""

import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass

from jobs.data import catalog
from jobs.data.compile import compile_builtin
from jobs.data.load import load
from jobs.nightly import ranges
from jobs.nightly.calibrate import calibrate
from jobs.nightly.folding import without_gaps
from jobs.nightly.issue import issue
from jobs.nightly.mature import mature
from jobs.nightly.onward import sectors
from jobs.training import planning
from jobs.training.references import References
from jobs.training.train import train
from registry.ledger import calibrations, maturing
from registry.ledger.archive import Archive
from registry.ledger.claims import now
from registry.ledger.states import Scope, States
from registry.promotion.opening import open_ledger
from registry.scoring.learning.learner import METHODS, Learner
from registry.scoring.learning.memory import Memory
from registry.scoring.learning.nights import Night
from registry.settings import Settings
from registry.versions.store import Store

DATA = catalog.PANEL.name
FIRST, LAST = 2013, 2022
YEARLY = ("ensemble",)  # models of which each year has a version of its own


@dataclass(frozen=True, eq=False)
class Issued:
    """What came true of the forecasts of one version, and what its calibrations are learned with.

    A version is a scope: it starts from the identity, whatever an older one has learned.
    """

    scope: Scope
    levels: tuple[float, ...]
    horizon: int
    sectors: dict[str, str]
    nights: Sequence[Night]

    def learner(self, method: str) -> Learner:
        return Learner(method, self.levels, self.horizon, self.sectors)


def issued(settings: Settings, model: str) -> list[Issued]:
    """Train, issue and calibrate the versions of a model, oldest first."""
    compile_builtin(settings)
    load(settings, DATA)
    years = range(FIRST, LAST + 1) if model in YEARLY else [FIRST]
    numbers = []
    for year in years:
        until = year if model in YEARLY else LAST
        numbers.append(_issue(settings, model, year, until))
    mature(settings, data=DATA)
    versions = []
    with Archive(settings) as archive:
        for number in numbers:
            one = _read(settings, archive, model, number)
            _calibrate(settings, one)
            versions.append(one)
    return versions


def check_published(settings: Settings, version: Issued, memory: Memory) -> bool:
    """Whether the job published what was learned here, bit by bit; False: it refused to publish.

    Raises RuntimeError if it published something else.
    """
    keys, steps, bias, scale, offsets = memory.issued[-1].flat()
    states = States(keys=keys, steps=steps, bias=bias, scale=scale, offsets=offsets)
    last = {"method": memory.method, "learned_until": memory.learned_until}
    with Archive(settings) as archive:
        there = calibrations.versions(archive.engine, version.scope)
        same = calibrations.number_of(
            archive.engine, version.scope, **last, levels=version.levels, states=states
        )
    if same is not None:
        return True
    if any((one.method, one.learned_until) == tuple(last.values()) for one in there):
        raise RuntimeError(
            f"the ledger has another calibration of {version.scope} by {memory.method}; remove "
            f"{settings.var_dir} and start again"
        )
    return False


def _issue(settings: Settings, model: str, year: int, until: int) -> int:
    """Issue every session from a year to another; the version, trained on what was before."""
    dates = {"fit_until": f"{year - 2}-12-31", "choose_until": f"{year - 1}-12-31"}
    report = {"report_until": f"{year}-12-31", "report_every": "100"}  # cheap: it is not looked at
    plan = planning.plan(settings, model, dates | report, seed=0, tiny=False)
    version = train(settings, plan, References(), reuse=True).version
    _say(f"issuing {version.reference}, {year} to {until}")
    [done] = issue(
        settings, [version.reference], data=DATA, since=f"{year}-01-01", until=f"{until}-12-31"
    )
    if done.error is not None:
        raise done.error
    return version.version


def _read(settings: Settings, archive: Archive, model: str, number: int) -> Issued:
    with open_ledger(Store(settings)) as ledger:
        scope = Scope(registry=ledger.registry, model=model, version=number, data=DATA)
    common = ranges.issued(archive.engine, scope, now())
    if common is None:
        raise RuntimeError(f"the ledger has no forecast of {scope}")
    with archive.known(DATA, None) as known:
        last = known.last_session.date()
    with closing(maturing.nights(archive.engine, scope)) as matured:
        nights = [*without_gaps(matured, common.calendar, None, last)]
    while not nights[-1].matured:  # sessions after the last outcome
        nights.pop()
    by_symbol = sectors(archive, DATA)
    return Issued(scope, common.levels, common.horizon, by_symbol, nights)


def _calibrate(settings: Settings, version: Issued) -> None:
    """Calibrate all nights of a version by each method, each in a run of its own."""
    reference = f"{version.scope.model}/{version.scope.version}"
    days = {"since": f"{version.nights[0].session}", "until": f"{version.nights[-1].session}"}
    for method in METHODS:
        [done] = calibrate(settings, [reference], data=DATA, method=method, **days, say=_say)
        if done.error is not None:
            raise done.error
        _say(done.line())


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
