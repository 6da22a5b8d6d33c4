"""All error codes: the class of each, which sets its HTTP status, and when it is raised.

`from_code` rebuilds an error of another process. The README's table is generated from here, and a
test checks every `raise` against it. Standard library only.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from registry.errors import (
    BadConfig,
    BadForecast,
    BadHistory,
    BadInput,
    BadParameter,
    CodeMismatch,
    Conflict,
    Corrupt,
    Forbidden,
    KronosError,
    NotAvailable,
    NotFound,
    NotReady,
    Overloaded,
    TooLarge,
    TooLate,
    TooSlow,
    Unauthenticated,
    Unsupported,
    WrongMethod,
)

REQUEST, TRAINING, REGISTRY, HUB, SERVING = "request", "training", "registry", "hub", "serving"


@dataclass(frozen=True)
class Code:
    """Meaning of a code; `part` is the part of the product that raises it."""

    kind: type[KronosError]
    part: str
    when: str


CODES: dict[str, Code] = {
    # --- requests
    "BAD_INPUT": Code(BadInput, REQUEST, "a history, parameter or setting is wrong in another way"),
    "BAD_HISTORY": Code(BadHistory, REQUEST, "a history is wrong in another way"),
    "BAD_PARAMETER": Code(BadParameter, REQUEST, "a parameter or argument is wrong in another way"),
    "NOT_A_TABLE": Code(
        BadHistory, REQUEST, "the history is no table, or the body of the request cannot be read"
    ),
    "MISSING_COLUMN": Code(BadHistory, REQUEST, "a column that the model needs is missing"),
    "DUPLICATE_COLUMN": Code(BadHistory, REQUEST, "a column that the model needs is there twice"),
    "EMPTY": Code(BadHistory, REQUEST, "the history has no rows"),
    "BAD_SYMBOL": Code(BadHistory, REQUEST, "a name is missing, empty or no text"),
    "BAD_TIMESTAMP": Code(
        BadHistory, REQUEST, "a date is missing, no date, in a time zone, or has a time of day"
    ),
    "NOT_A_NUMBER": Code(BadHistory, REQUEST, "a column that must hold numbers does not"),
    "NON_FINITE": Code(BadHistory, REQUEST, "NaN or infinity"),
    "BAD_RETURN": Code(
        BadHistory, REQUEST, "a log return beyond 1 in size: a fall of 63 %, a rise of 172 %"
    ),
    "UNSORTED": Code(BadHistory, REQUEST, "rows are not sorted by name, then session"),
    "DUPLICATE_SESSION": Code(BadHistory, REQUEST, "a series has a session twice"),
    "NOT_A_SESSION": Code(BadHistory, REQUEST, "a date on which the exchange was closed"),
    "OUTSIDE_CALENDAR": Code(BadHistory, REQUEST, "a date before or after the exchange's calendar"),
    "CALENDAR_END": Code(
        BadHistory, REQUEST, "sessions are asked for beyond the end of the calendar"
    ),
    "UNKNOWN_CALENDAR": Code(NotFound, REQUEST, "no calendar has this name"),
    "TOO_SHORT": Code(BadHistory, REQUEST, "fewer sessions than the model or its training needs"),
    "GAP": Code(BadHistory, REQUEST, "more than 5 sessions in a row are missing, or more than 5 %"),
    "HALTED": Code(
        BadHistory,
        REQUEST,
        "a series does not move any more: returns of 0, or hardly any, at its end",
    ),
    "UNIVERSE": Code(
        BadHistory, REQUEST, "a symbol that the model does not know, or lacks; another universe"
    ),
    "CALENDAR": Code(BadHistory, REQUEST, "a data set has another calendar than the version"),
    "STALE": Code(BadHistory, REQUEST, "a series ends more than 5 sessions before its data set"),
    "NO_COVARIATES": Code(
        BadHistory, REQUEST, "the ledger lacks market columns for a session of a series"
    ),
    "CUTOFFS_DIFFER": Code(
        BadHistory, REQUEST, "series of a joint model end on different sessions"
    ),
    "SESSIONS_DIFFER": Code(
        BadHistory, REQUEST, "series of a joint model differ in their last sessions"
    ),
    "BAD_PRICE": Code(BadHistory, REQUEST, "bars: a price that is not positive, or beyond 1e18"),
    "BAD_BAR": Code(
        BadHistory, REQUEST, "bars: high below low, open or close outside them, beyond rounding"
    ),
    "BAD_VOLUME": Code(BadHistory, REQUEST, "bars: negative volume or amount, or beyond 1e18"),
    "PRICE_BASIS": Code(
        BadHistory,
        REQUEST,
        "bars: y is not the log return of close, beyond rounding; own prices: it is not clear "
        "whether they are adjusted, or they contradict that, or an append differs from its set",
    ),
    "BAD_COUNT": Code(BadHistory, REQUEST, "a negative count"),
    "BAD_HORIZON": Code(BadParameter, REQUEST, "horizon out of range"),
    "BAD_LEVELS": Code(BadParameter, REQUEST, "levels out of range, out of order, or no numbers"),
    "BAD_SEED": Code(BadParameter, REQUEST, "seed is negative or no whole number"),
    "BAD_OUTPUT": Code(BadParameter, REQUEST, "output is none of the forms of a reply"),
    "BAD_OPTION": Code(BadParameter, REQUEST, "an option of the model out of range"),
    "UNKNOWN_PARAM": Code(
        BadParameter, REQUEST, "a parameter or setting that the model does not have"
    ),
    "NOT_AVAILABLE": Code(
        NotAvailable, REQUEST, "a sound request that this model cannot answer, as prices"
    ),
    "BAD_FORECAST": Code(BadForecast, REQUEST, "a model broke the contract"),
    "OUT_OF_MEMORY": Code(KronosError, REQUEST, "too many paths or series for the memory"),
    "NETWORK_OVERFLOW": Code(
        KronosError, REQUEST, "the network of a version computes numbers that are not finite"
    ),
    "WORKER": Code(
        KronosError, REQUEST, "the process that ran a version or a trial ended, or heard nonsense"
    ),
    "INTERNAL": Code(KronosError, REQUEST, "anything else; the log says what"),
    # --- data and training
    "BAD_CONFIG": Code(BadConfig, TRAINING, "a setting is wrong"),
    "BAD_DEVICE": Code(BadConfig, TRAINING, "KRONOS_DEVICE names no device of this machine"),
    "BAD_SOURCE": Code(BadHistory, TRAINING, "source prices break their schema"),
    "BAD_MAP": Code(BadParameter, TRAINING, "--map names no key or column, or settles too little"),
    "BAD_FILE": Code(BadHistory, TRAINING, "a user's file cannot be read as what it should be"),
    "CONSTANT": Code(
        BadHistory, TRAINING, "a series that does not move: returns of 0, or one close, in a window"
    ),
    "BAD_SECTOR": Code(BadHistory, TRAINING, "a series has no sector, or several"),
    "NOT_FITTED": Code(BadHistory, TRAINING, "no series can be fitted"),
    "NO_ORIGINS": Code(BadHistory, TRAINING, "no session to report or choose from"),
    "LEAKAGE": Code(BadInput, TRAINING, "a version would be scored on what it was trained on"),
    "DIVERGED": Code(KronosError, TRAINING, "a loss that is not finite"),
    "SINGULAR": Code(BadConfig, TRAINING, "a graph of returns that cannot be estimated"),
    "ISOLATED": Code(BadConfig, TRAINING, "a series without a neighbour in its graph"),
    "PAIRING": Code(BadConfig, TRAINING, "weights and tokenizer do not belong together"),
    "NO_SEARCH": Code(BadParameter, TRAINING, "a model or setting with nothing to search"),
    "TRIAL": Code(KronosError, TRAINING, "a trial ended in an unexpected error; stderr says where"),
    "NO_TRIAL": Code(KronosError, TRAINING, "no trial of a study completed"),
    # --- registry and files
    "NOT_FOUND": Code(NotFound, REGISTRY, "no such model, version, stage or file"),
    "NEWER_CONTRACT": Code(NotFound, REGISTRY, "a version of a newer contract than this code's"),
    "BAD_MODEL_NAME": Code(BadParameter, REGISTRY, "no name of a registered model"),
    "BAD_STAGE": Code(BadParameter, REGISTRY, "no stage"),
    "BAD_TIME": Code(BadParameter, REGISTRY, "a time that cannot be read"),
    "CONFLICT": Code(
        Conflict, REGISTRY, "somebody else is at it, or it contradicts what is recorded"
    ),
    "ALREADY_RUNNING": Code(Conflict, REGISTRY, "another process runs this nightly job"),
    "NOTHING_BEFORE": Code(Conflict, REGISTRY, "a roll-back with nothing to go back to"),
    "PACKAGE_MISSING": Code(
        KronosError, REGISTRY, "a package that the version needs is not installed here"
    ),
    "CORRUPT": Code(Corrupt, REGISTRY, "stored bytes are not those that were registered"),
    "CODE_MISMATCH": Code(CodeMismatch, REGISTRY, "the running code is not the version's own"),
    "BROKEN_CHAIN": Code(
        Corrupt, REGISTRY, "a promotion's row does not follow from the one before"
    ),
    "TRACKING_UNAVAILABLE": Code(
        NotReady, REGISTRY, "MLflow's server or database cannot be reached"
    ),
    "LEDGER_UNAVAILABLE": Code(NotReady, REGISTRY, "the ledger's database cannot be reached"),
    "FORECAST_DIFFERS": Code(
        Conflict, REGISTRY, "a version has issued other numbers for this cutoff, which stay"
    ),
    "NEWER_LEDGER": Code(Conflict, REGISTRY, "the ledger was written by newer code"),
    "MLFLOW": Code(KronosError, REGISTRY, "MLflow's own words"),
    "NO_SPACE": Code(KronosError, REGISTRY, "the disk is full; every file is whole"),
    "NOT_WRITABLE": Code(KronosError, REGISTRY, "a file cannot be written"),
    # --- the Hub
    "HUB_UNREACHABLE": Code(KronosError, HUB, "the Hub does not answer"),
    "HUB_DENIED": Code(BadInput, HUB, "the Hub refuses the token or the repository"),
    "HUB_ANSWER": Code(
        KronosError, HUB, "what answers is no Hub, or leaves out what downloads are checked by"
    ),
    "SHARDED": Code(BadInput, HUB, "a repository whose weights are split over several files"),
    "PICKLE_ONLY": Code(BadInput, HUB, "a repository with pickled weights only"),
    "LICENCE": Code(BadInput, HUB, "a licence that is not on the list"),
    "NO_FORECAST": Code(BadInput, HUB, "weights that make no forecast"),
    # --- serving
    "NOT_LOOPBACK": Code(BadParameter, SERVING, "an address beyond loopback"),
    "PORT_TAKEN": Code(BadParameter, SERVING, "something listens on the port already"),
    "MALFORMED_JSON": Code(BadInput, SERVING, "a body that is no JSON object in UTF-8"),
    "DUPLICATE_KEY": Code(BadInput, SERVING, "a body with an object that has a key twice"),
    "JSON_TOO_DEEP": Code(BadInput, SERVING, "a body with lists or objects nested too deep"),
    "NUMBER_TOO_LARGE": Code(BadInput, SERVING, "a body with a whole number of over 4300 digits"),
    "DUPLICATE_SYMBOL": Code(BadHistory, SERVING, "a symbol twice in one batch"),
    "UNAUTHENTICATED": Code(Unauthenticated, SERVING, "no API key, or a wrong one"),
    "FORBIDDEN": Code(Forbidden, SERVING, "an API key that is not for this model"),
    "WRONG_METHOD": Code(WrongMethod, SERVING, "a method that the path does not answer"),
    "TOO_SLOW": Code(TooSlow, SERVING, "a request whose bytes do not arrive in time"),
    "BODY_TOO_LARGE": Code(TooLarge, SERVING, "a body with too many bytes"),
    "TOO_MANY_ROWS": Code(TooLarge, SERVING, "more series or values than a request may have"),
    "UNSUPPORTED_MEDIA_TYPE": Code(
        Unsupported, SERVING, "a content type that is missing, or is not read here"
    ),
    "UNSUPPORTED_ENCODING": Code(Unsupported, SERVING, "a compressed body"),
    "OVERLOADED": Code(Overloaded, SERVING, "too many requests at once; Retry-After says when"),
    "NOT_READY": Code(NotReady, SERVING, "no version of the model answers yet"),
    "DEADLINE": Code(TooLate, SERVING, "the forecast took longer than a request may"),
    "LOAD_FAILED": Code(
        KronosError,
        SERVING,
        "a version ends while it is loaded, is not ready in time, or fails its first requests",
    ),
}

BY_STATUS: dict[int, type[KronosError]] = {
    400: BadInput,
    401: Unauthenticated,
    403: Forbidden,
    404: NotFound,
    405: WrongMethod,
    408: TooSlow,
    409: Conflict,
    413: TooLarge,
    415: Unsupported,
    422: NotAvailable,
    429: Overloaded,
    503: NotReady,
    504: TooLate,
}


def from_code(code: str, message: str, status: int) -> KronosError:
    """Rebuild an error of another process. A code outside CODES gets the class of its status."""
    if code in CODES:
        return CODES[code].kind(message, code=code)
    kind = BY_STATUS.get(status, KronosError)
    return kind(message, code=code)


def rows(*parts: str) -> Iterator[tuple[str, int, str]]:
    """Code, HTTP status and meaning of the codes of these parts, in the table's order."""
    for name, code in CODES.items():
        if code.part in parts:
            yield name, code.kind.status, code.when
