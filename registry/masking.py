"""Text without the passwords in it. Standard library only."""

import re

HIDDEN = "***"
# User and password of a URI reach to its last @, because a password may hold any character.
_USER = re.compile(r"(?<=://)\S*@")
_OPTION = re.compile(r"([?&][\w.-]*(?:pass|passwd|password|secret|token|key)=)[^&\s'\"]*", re.I)
_HUB_TOKEN = re.compile(r"\bhf_\w{8,}")


def masked(text: str) -> str:
    """The text with *** for user and password in URIs, secret options of URIs, tokens of the Hub.

    A URI with an @ in its path loses more than its password.
    """
    text = _USER.sub(f"{HIDDEN}@", text)
    text = _OPTION.sub(rf"\1{HIDDEN}", text)
    return _HUB_TOKEN.sub(HIDDEN, text)
