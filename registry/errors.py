"""All errors of Kronos Registry as one tree. Standard library only.

    KronosError            INTERNAL                500
    ├─ BadInput            BAD_INPUT               400   wrong history or parameter; see `code`
    │  ├─ BadHistory       BAD_HISTORY             400
    │  ├─ BadParameter     BAD_PARAMETER           400
    │  └─ BadConfig        BAD_CONFIG              400
    ├─ Unauthenticated     UNAUTHENTICATED         401   no API key, or none of ours
    ├─ Forbidden           FORBIDDEN               403   the key is not for this model
    ├─ NotFound            NOT_FOUND               404   no such model, version, stage or file
    ├─ WrongMethod         WRONG_METHOD            405   the path answers another method
    ├─ TooSlow             TOO_SLOW                408   the request does not arrive
    ├─ Conflict            CONFLICT                409   another process is at it, or records differ
    ├─ TooLarge            BODY_TOO_LARGE          413   more than one request may hold
    ├─ Unsupported         UNSUPPORTED_MEDIA_TYPE  415   a body in a form that is not read
    ├─ NotAvailable        NOT_AVAILABLE           422   valid, but not possible with this model
    ├─ Overloaded          OVERLOADED              429   too many requests at once; try again later
    ├─ NotReady            NOT_READY               503   a version or a database does not answer now
    ├─ TooLate             DEADLINE                504   the forecast took too long
    ├─ BadForecast         BAD_FORECAST            500   a model broke the contract
    └─ Corrupt             CORRUPT                 500   stored bytes differ from registered ones
       └─ CodeMismatch     CODE_MISMATCH           500   running code differs from the version's

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


class Unauthenticated(KronosError):
    code = "UNAUTHENTICATED"
    status = 401


class Forbidden(KronosError):
    code = "FORBIDDEN"
    status = 403


class NotFound(KronosError):
    code = "NOT_FOUND"
    status = 404


class WrongMethod(KronosError):
    code = "WRONG_METHOD"
    status = 405


class TooSlow(KronosError):
    code = "TOO_SLOW"
    status = 408


class Conflict(KronosError):
    code = "CONFLICT"
    status = 409


class TooLarge(KronosError):
    code = "BODY_TOO_LARGE"
    status = 413


class Unsupported(KronosError):
    code = "UNSUPPORTED_MEDIA_TYPE"
    status = 415


class NotAvailable(KronosError):
    code = "NOT_AVAILABLE"
    status = 422


class Overloaded(KronosError):
    code = "OVERLOADED"
    status = 429


class NotReady(KronosError):
    code = "NOT_READY"
    status = 503


class TooLate(KronosError):
    code = "DEADLINE"
    status = 504


class BadForecast(KronosError):
    code = "BAD_FORECAST"


class Corrupt(KronosError):
    code = "CORRUPT"


class CodeMismatch(Corrupt):
    code = "CODE_MISMATCH"
