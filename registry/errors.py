"""All errors of Kronos Registry as one tree. Standard library only.

    KronosError           INTERNAL       500
    ├─ BadInput           BAD_INPUT      400   wrong history, parameter or config; see `code`
    │  ├─ BadHistory      BAD_HISTORY    400
    │  ├─ BadParameter    BAD_PARAMETER  400
    │  └─ BadConfig       BAD_CONFIG     400
    ├─ NotFound           NOT_FOUND      404   no such model, version, stage or file
    ├─ Conflict           CONFLICT       409   another process is at work, or a record disagrees
    ├─ NotAvailable       NOT_AVAILABLE  422   a valid request that this model cannot answer
    ├─ BadForecast        BAD_FORECAST   500   a model broke the contract
    └─ Corrupt            CORRUPT        500   stored bytes differ from the registered ones
       └─ CodeMismatch    CODE_MISMATCH  500   the running code differs from the version's code

A message names what was found, what was expected, the series or file, and what to do. It never
repeats a name or number of the caller's table; it may say the date of a session at fault.
"""


class KronosError(Exception):
    """Base of all our errors, with a stable `code`, an HTTP `status` and a message for people."""

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
