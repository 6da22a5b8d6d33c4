"""What the gateway and its supervisor say to each other, over a socket of their own.

The gateway answers requests and is the parent of all processes; the supervisor talks to registry
and ledger. If the supervisor ends, the gateway and its scorers go on, and the next one hears what
runs from `Hello`.
"""

from typing import Any

import msgspec


class Message(msgspec.Struct, kw_only=True, tag=True):
    """Base of all messages."""


class Route(msgspec.Struct, kw_only=True):
    """A warmed version and the scorer that runs it."""

    model: str  # as users name it; `kronos` may be answered by kronos_simulated
    name: str  # registered name of the version
    version: int
    stage: str  # of the version when it was resolved, as Production
    manifest: str  # sha256 of its manifest
    scorer: str  # id of its process
    host: str
    port: int
    token: str  # value of the header kronos-server of its replies
    since: str  # when it was warm, ISO 8601 in UTC
    spec: dict[str, Any]  # ModelSpec.to_json()
    call_s: float = 0.0  # seconds that the last warm-up call took
    data: str = ""  # data set that it was trained on, or empty
    trained_until: str = ""
    pretrained_until: str = ""
    notes: tuple[str, ...] = ()  # for every reply, as "simulated: ..."
    stale: bool = False  # it came from the local cache, because the registry did not answer


class Refusal(msgspec.Struct, kw_only=True):
    """An error of ours, as `registry.codes.from_code` takes it."""

    code: str
    message: str
    status: int


class Series(msgspec.Struct, kw_only=True):
    """The last sessions of one symbol from the ledger, oldest first. All lists have one length."""

    symbol: str
    ds: list[str]  # 2022-12-28
    columns: dict[str, list[float]]  # y and what the version declares


class Served(msgspec.Struct, kw_only=True):
    """A request that was answered, for the ledger."""

    request_id: str
    forecast_id: str
    model: str  # registered name
    version: int
    received_at: str  # ISO 8601 in UTC
    status: int
    body: bytes  # as the client sent it; empty if it is too long to keep
    issue: "Issued | None" = None  # None: its history did not come from the ledger


class Issued(msgspec.Struct, kw_only=True):
    """The numbers of a served forecast: for each step the mean, then the quantiles."""

    data: str
    symbol: str
    cutoff: str  # session
    levels: list[float]
    raw: list[list[float]]  # [H, 1 + Q]
    calibrated: list[list[float]] | None = None
    calibration: int | None = None  # its number


class Config(Message):
    """What `python -m serving start` hands to the gateway, which passes it on without secrets."""

    models: list[str]  # references: nbeats, har@staging, nbeats/3
    stage: str
    host: str
    port: int
    keys: str  # KRONOS_API_KEYS
    webhook_secret: str
    calibration: bool
    max_body: int  # bytes
    timeout_s: float  # of one call to a scorer
    queue_s: float  # that a request may wait for its scorer
    poll_s: float  # between two looks at the registry
    access_log: bool = False  # a line for every request, not only for failures


# --- from the gateway -------------------------------------------------------------------------


class Hello(Message):
    """First message to a new supervisor: scorers that run already, and where requests go."""

    pid: int  # of the gateway
    running: list[str]  # ids of scorers
    routes: list[Route]


class Ended(Message):
    """A scorer ended by itself, or as it was told to."""

    scorer: str
    exit_code: int
    last_error: str


class Hung(Message):
    """A scorer did not answer a request in time."""

    scorer: str


class Drained(Message):
    """A scorer that is routed to no more has answered its last request."""

    scorer: str


class LookUp(Message):
    """Ask for histories of symbols from the ledger. The answer is `Found`, or `Lost`.

    `columns` are those of the version. With `days`, only these sessions of one symbol are wanted,
    as covariates for a series that the caller sent.
    """

    id: int
    model: str
    version: int
    data: str
    symbols: tuple[str, ...]
    columns: tuple[str, ...]
    days: tuple[str, ...] = ()


class Answered(Message):
    """Requests that were answered since the last of these messages."""

    served: list[Served]


class Wake(Message):
    """Look at the registry now: a webhook came."""


class Quit(Message):
    """The gateway ends, and its scorers with it."""


# --- from the supervisor ----------------------------------------------------------------------


class Run(Message):
    """Start a scorer. It ends with the gateway."""

    scorer: str
    command: list[str]
    environment: dict[str, str]
    log: str  # path
    title: str  # first line in the log


class Stop(Message):
    """Stop a scorer: SIGTERM, later SIGKILL; with `kill`, SIGKILL at once."""

    scorer: str
    kill: bool = False


class Serve(Message):
    """Route new requests for route.model to this scorer. The one before it drains."""

    route: Route


class State(Message):
    """What happens to a model beside serving: for /models, /ready and the metrics."""

    model: str
    state: str  # waiting (for a promotion) | starting | serving | failed
    version: int | None = None
    refusal: Refusal | None = None  # why it failed
    stale: bool = False  # the registry does not answer; what is served goes on


class Sessions(Message):
    """Sessions of a calendar: those of the past years and of the months to come."""

    calendar: str
    days: list[str]
    closes: list[float]  # seconds since 1970


class Calibrate(Message):
    """The current calibration of a version on its data set; no `number`: the identity."""

    model: str  # registered name
    version: int
    number: int | None = None
    method: str = ""
    learned_until: str = ""
    levels: list[float] = []
    keys: list[tuple[str, str]] = []  # kind (symbol, sector, global) and name
    steps: list[int] = []
    bias: list[float] = []
    scale: list[float] = []
    offsets: list[list[float]] = []
    sectors: dict[str, str] = {}  # sector of each symbol
    verdicts: dict[str, str] = {}  # step -> calibrated | stale | uncalibrated
    learned_from: dict[str, int] = {}  # nights: live and backfill; empty if that is not known
    age: int = 0  # sessions of the data set since `learned_until`


class Damaged(Message):
    """The current calibration of a version cannot be used: the one before it stays."""

    model: str  # registered name
    version: int


class Found(Message):
    """Answer to `LookUp`: histories, and the symbols without one."""

    id: int
    series: list[Series]
    refused: dict[str, Refusal] = {}  # by symbol
    notes: tuple[str, ...] = ()


class Lost(Message):
    """A `LookUp` that failed as a whole."""

    id: int
    refusal: Refusal


class Changed(Message):
    """A data set has another state in the ledger: histories that were looked up before are old."""

    data: str


class Recorded(Message):
    """Answers that this supervisor wrote into the ledger, and those that it could not, so far."""

    recorded: int
    dropped: int


# To the supervisor.
Up = Config | Hello | Ended | Hung | Drained | LookUp | Answered | Wake | Quit
# To the gateway.
Down = (
    Run | Stop | Serve | State | Sessions | Calibrate | Damaged | Found | Lost | Changed | Recorded
)
