"""What can go wrong, as one tree. Standard library only.

    KronosError           INTERNAL       500
    ├─ BadInput           BAD_INPUT      400   a history, a parameter or a config is wrong; `code` says how
    │  ├─ BadHistory      BAD_HISTORY    400
    │  ├─ BadParameter    BAD_PARAMETER  400
    │  └─ BadConfig       BAD_CONFIG     400
    ├─ NotFound           NOT_FOUND      404   no such model, version, stage or file
    ├─ Conflict           CONFLICT       409   somebody else is at it, or it contradicts what is recorded
    ├─ NotAvailable       NOT_AVAILABLE  422   a sound request that this model cannot answer
    ├─ BadForecast        BAD_FORECAST   500   a model broke the contract
    └─ Corrupt            CORRUPT        500   stored bytes are not those that were registered
       └─ CodeMismatch    CODE_MISMATCH  500   the running code is not the version's own

A message says what was found, what was expected, which series or file, and what to do. It never
repeats the caller's data.
"""


class KronosError(Exception):
    """Base of all errors of ours: a stable `code`, an HTTP `status`, a message for people."""

    code = "INTERNAL"
    status = 500

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or type(self).code


class BadInput(KronosError):
    code = "BAD_INPUT"
    status = 400


class BadHistory(BadInput):
    code = "BAD_HISTORY"


class BadParameter(BadInput):
    code = "BAD_PARAMETER"


class BadConfig(BadInput):
    code = "BAD_CONFIG"


class NotFound(KronosError):
    code = "NOT_FOUND"
    status = 404


class Conflict(KronosError):
    code = "CONFLICT"
    status = 409


class NotAvailable(KronosError):
    code = "NOT_AVAILABLE"
    status = 422


class BadForecast(KronosError):
    code = "BAD_FORECAST"


class Corrupt(KronosError):
    code = "CORRUPT"


class CodeMismatch(Corrupt):
    code = "CODE_MISMATCH"
