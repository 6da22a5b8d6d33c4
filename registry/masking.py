"""Text without the passwords in it. Standard library only."""

import re

HIDDEN = "***"
# User and password of a URI reach to its last @, because a password may hold any character.
_USER = re.compile(r"(?<=://)\S*@")
_USER_OF_URI = re.compile(r"(?<=://).*@", re.DOTALL)
_OPTION = re.compile(
    r"([?&][\w.-]*(?:pass|passwd|password|secret|token|key|sig|signature)=)[^&\s'\"]*", re.I
)
# libpq's form of a connection, and assignments of a shell: password='p w', PGPASSWORD=pw
_ASSIGNED = re.compile(r"(\b\w*(?:passwd|password|secret|token)\s*=\s*)('[^']*'|[^\s'\"&]+)", re.I)
_HUB_TOKEN = re.compile(r"\bhf_\w{8,}")
_API_KEY = re.compile(r"\bkr_[\w-]{43}")  # of the gateway


def masked_uri(uri: str) -> str:
    """A text that is one URI, as `masked`; its user and password may hold blanks, too."""
    return masked(_USER_OF_URI.sub(f"{HIDDEN}@", uri))


def masked(text: str) -> str:
    """The text with *** for what is secret in it.

    That is user and password of a URI, its options like `key=` and `X-Amz-Signature=`, what is
    assigned to a word like `password`, tokens of the Hub and keys of the gateway. A URI with an @
    in its path loses more than its password.
    """
    text = _USER.sub(f"{HIDDEN}@", text)
    text = _OPTION.sub(rf"\1{HIDDEN}", text)
    text = _ASSIGNED.sub(rf"\1{HIDDEN}", text)
    text = _HUB_TOKEN.sub(HIDDEN, text)
    return _API_KEY.sub(HIDDEN, text)
