"""API keys: who may ask for which models. The setting holds names and hashes, never a key.

A key is 32 random bytes. SHA-256 without salt protects it well: nobody can try 2^256 keys, and no
table of them can exist. Slow hashes such as bcrypt are for passwords, which can be guessed.
"""

import hashlib
import hmac
import re
import secrets
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field

from registry.errors import BadConfig, BadParameter, Forbidden, Unauthenticated

PREFIX = "kr_"  # registry.masking hides what begins so
SCHEME = b"bearer "
SETTING = "KRONOS_API_KEYS"

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_SEPARATOR = re.compile(r"[\s,]+")
_FORM = "NAME:SHA256 or NAME:SHA256:MODEL+MODEL, as `python -m serving key NAME` prints it"


@dataclass(frozen=True)
class Key:
    """An entry of the setting."""

    name: str  # for the log
    digest: bytes = field(repr=False)  # SHA-256 of the key
    models: frozenset[str] = frozenset()  # that it may ask for; empty: all

    def entry(self) -> str:
        """The entry as it stands in the setting."""
        text = f"{self.name}:{self.digest.hex()}"
        return f"{text}:{'+'.join(sorted(self.models))}" if self.models else text

    def permit(self, model: str) -> None:
        """Raise Forbidden if the key is for other models."""
        if self.models and model not in self.models:
            raise Forbidden(f"the API key {self.name} is not for this model; ask with another one")


class Keys:
    """All keys of a gateway. Without any, everybody may ask."""

    def __init__(self, keys: Iterable[Key] = ()) -> None:
        self._keys = tuple(keys)

    def __len__(self) -> int:
        return len(self._keys)

    @classmethod
    def parse(cls, text: str) -> "Keys":
        """Read the setting: entries with commas or blanks between them. Raises BadConfig.

        A name may stand twice, for the old and the new key while clients change. A hash may not.
        """
        entries = [entry for entry in _SEPARATOR.split(text) if entry]
        keys = [_parsed(entry, place) for place, entry in enumerate(entries, start=1)]
        digests: set[bytes] = set()
        for place, key in enumerate(keys, start=1):
            if key.digest in digests:
                raise BadConfig(f"{SETTING}: entry {place} has the hash of an earlier entry")
            digests.add(key.digest)
        return cls(keys)

    def find(self, authorization: bytes) -> Key | None:
        """The key of the header `Authorization: Bearer KEY`; None if the gateway has no keys.

        `authorization` is empty without a header. The time does not tell how much of a hash was
        right, because all entries are compared in constant time. Raises Unauthenticated.
        """
        if not self._keys:
            return None
        if not authorization:
            raise Unauthenticated("no API key; send it as the header Authorization: Bearer KEY")
        if authorization[: len(SCHEME)].lower() != SCHEME:
            raise Unauthenticated("expected the header Authorization: Bearer KEY")
        digest = hashlib.sha256(authorization[len(SCHEME) :].strip()).digest()
        match = None
        for key in self._keys:
            if hmac.compare_digest(key.digest, digest):
                match = key
        if match is None:
            raise Unauthenticated("the API key is not known; ask whoever runs the gateway for one")
        return match

    def check(self, authorization: bytes, model: str) -> str:
        """Name of the key, empty without keys. Raises Unauthenticated, and Forbidden."""
        key = self.find(authorization)
        if key is None:
            return ""
        key.permit(model)
        return key.name


def create(name: str, models: Iterable[str] = ()) -> tuple[str, Key]:
    """A new key and its entry. Raises BadParameter for a name that the setting cannot hold."""
    models = frozenset(models)
    for word in (name, *models):
        if not _NAME.fullmatch(word):
            raise BadParameter(f"{word[:80]!r} is no name; use up to 64 of A-Z a-z 0-9 _ . -")
    key = PREFIX + secrets.token_urlsafe(32)
    return key, Key(name, hashlib.sha256(key.encode()).digest(), models)


class Attempts:
    """Counts wrong keys by client address, so that a client that goes on gets 429, not 401.

    Only wrong keys count and are refused. A right key always passes: clients behind one proxy share
    an address, and one of them must not lock out the others. Guessing is hopeless anyway.
    Times are seconds of a monotonic clock.
    """

    def __init__(self, limit: int = 20, window_s: float = 60.0, addresses: int = 10_000) -> None:
        self._limit = limit
        self._window_s = window_s
        self._addresses = addresses
        self._counts: OrderedDict[str, tuple[int, float]] = OrderedDict()  # and end of the window

    def __len__(self) -> int:
        return len(self._counts)

    def failed(self, address: str, now: float) -> float:
        """Count a wrong key. Seconds until the address may try again; 0 below the limit."""
        count, end = self._counts.pop(address, (0, 0.0))
        if now >= end:
            count, end = 0, now + self._window_s
        self._counts[address] = (count + 1, end)
        if len(self._counts) > self._addresses:
            self._counts.popitem(last=False)  # whose last wrong key is the longest ago
        return end - now if count >= self._limit else 0.0


def _parsed(entry: str, place: int) -> Key:
    """A key of an entry; messages name its place only, as it may be a key by mistake."""
    name, *rest = entry.split(":")
    if len(rest) not in (1, 2) or not _NAME.fullmatch(name):
        raise BadConfig(f"{SETTING}: entry {place} has another form than {_FORM}")
    if not _DIGEST.fullmatch(rest[0]):
        raise BadConfig(f"{SETTING}: entry {place} has no SHA-256 of 64 hex digits; write {_FORM}")
    models = rest[1].split("+") if len(rest) == 2 else []
    if not all(map(_NAME.fullmatch, models)):
        raise BadConfig(f"{SETTING}: entry {place} names no models after its hash; write {_FORM}")
    return Key(name, bytes.fromhex(rest[0]), frozenset(models))
