"""API keys: their setting, who may ask for what, and clients that go on with wrong keys."""

import hashlib
import json
import re
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from registry.errors import BadConfig, BadParameter, Forbidden, Unauthenticated
from registry.masking import masked
from serving.__main__ import app
from serving.gateway import keys
from serving.gateway.keys import Attempts, Keys, create

ALICE, BOB = "kr_alice", "kr_bob"


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def header(key: str) -> bytes:
    return f"Bearer {key}".encode()


def both() -> Keys:
    return Keys.parse(f"alice:{digest(ALICE)}, bob:{digest(BOB)}:nbeats+har")


def test_a_key_gives_the_name_of_its_entry() -> None:
    assert both().check(header(ALICE), "garch") == "alice"
    assert both().check(header(BOB), "har") == "bob"


@pytest.mark.parametrize("scheme", ["bearer", "BEARER", "Bearer "])
def test_the_scheme_may_be_written_in_any_case(scheme: str) -> None:
    assert both().check(f"{scheme} {ALICE}".encode(), "har") == "alice"


def test_a_key_of_other_models_is_forbidden() -> None:
    with pytest.raises(Forbidden, match="for this model") as caught:
        both().check(header(BOB), "garch")
    assert caught.value.status == 403


@pytest.mark.parametrize(
    "authorization",
    [
        b"",
        b"Bearer",
        b"Bearer ",
        b"Basic YTpi",
        ALICE.encode(),
        header(ALICE + "x"),
        header(ALICE[:-1]),
        header(digest(ALICE)),
        b"Bearer \xff\x00",
        b"Bearer " + b"a" * 100_000,
    ],
)
def test_without_a_known_key_nobody_is_let_in(authorization: bytes) -> None:
    with pytest.raises(Unauthenticated) as caught:
        both().check(authorization, "har")
    assert (caught.value.code, caught.value.status) == ("UNAUTHENTICATED", 401)
    assert ALICE not in caught.value.message


def test_without_keys_everybody_is_let_in() -> None:
    none = Keys.parse(" \n")
    assert len(none) == 0
    assert none.find(b"") is None
    assert none.check(b"Bearer anything", "har") == ""


def test_all_entries_are_compared_whichever_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []

    def counted(a: bytes, b: bytes) -> bool:
        compared.append(a)
        return a == b

    monkeypatch.setattr(keys, "hmac", SimpleNamespace(compare_digest=counted))
    for key in (ALICE, BOB):
        both().check(header(key), "har")
    assert len(compared) == 4


@pytest.mark.parametrize("separator", [",", ", ", " ", "\n", "\t,\n ,"])
def test_entries_stand_between_commas_or_blanks(separator: str) -> None:
    parsed = Keys.parse(separator.join([f"a:{digest('1')}", f"b:{digest('2')}:har", ""]))
    assert len(parsed) == 2
    assert parsed.check(header("2"), "har") == "b"


def test_one_name_may_have_an_old_and_a_new_key() -> None:
    parsed = Keys.parse(f"a:{digest('old')},a:{digest('new')}")
    assert parsed.check(header("old"), "har") == parsed.check(header("new"), "har") == "a"


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("kr_secret", "another form"),
        (":" + "0" * 64, "another form"),
        ("a b:" + "0" * 64, "another form"),
        ("é:" + "0" * 64, "another form"),
        (f"a:{'0' * 64}:har:x", "another form"),
        ("a:kr_secret", "64 hex digits"),
        ("a:" + "0" * 63, "64 hex digits"),
        ("a:" + "A" * 64, "64 hex digits"),
        (f"a:{'0' * 64}:", "no models"),
        (f"a:{'0' * 64}:har+", "no models"),
        (f"a:{'0' * 64}:har@staging", "no models"),
        (f"b:{digest(BOB)}", "hash of an earlier entry"),
    ],
)
def test_a_wrong_entry_is_named_by_its_place_and_not_repeated(entry: str, expected: str) -> None:
    with pytest.raises(BadConfig, match=expected) as caught:
        Keys.parse(f"bob:{digest(BOB)} {entry}")
    assert caught.value.message.startswith("KRONOS_API_KEYS: entry 2 ")
    assert "secret" not in caught.value.message


def test_a_new_key_is_let_in_by_its_entry_and_hidden_in_texts() -> None:
    secret, entry = create("alice", ["har", "nbeats"])
    assert re.fullmatch(r"kr_[A-Za-z0-9_-]{43}", secret)
    assert entry.entry() == f"alice:{digest(secret)}:har+nbeats"
    parsed = Keys.parse(entry.entry())
    assert parsed.check(header(secret), "nbeats") == "alice"
    assert masked(f"Bearer {secret}, then") == "Bearer ***, then"
    assert entry.digest.hex() not in repr(entry)


def test_no_two_keys_are_the_same() -> None:
    assert len({create("a")[0] for _ in range(100)}) == 100


@pytest.mark.parametrize("words", [("",), ("a b",), ("a:b",), ("a", "har@staging"), ("x" * 65,)])
def test_a_name_that_the_setting_cannot_hold_is_refused(words: tuple[str, ...]) -> None:
    name, *models = words
    with pytest.raises(BadParameter, match="is no name"):
        create(name, models)


def test_the_command_prints_a_key_and_its_entry() -> None:
    done = CliRunner().invoke(app, ["key", "alice", "--model", "nbeats", "--model", "har"])
    assert done.exit_code == 0
    printed = json.loads(done.stdout)
    assert sorted(printed) == ["key", "name", "setting"]
    assert Keys.parse(printed["setting"]).check(header(printed["key"]), "har") == "alice"
    assert "KRONOS_API_KEYS" in done.stderr
    assert printed["key"] not in done.stderr


def test_the_twenty_first_wrong_key_within_a_minute_has_to_wait_for_its_end() -> None:
    attempts = Attempts()
    waits = [attempts.failed("10.0.0.1", now=100.0 + n) for n in range(21)]
    assert waits == [0.0] * 20 + [40.0]
    assert attempts.failed("10.0.0.2", now=120.0) == 0.0
    assert attempts.failed("10.0.0.1", now=159.5) == 0.5
    assert attempts.failed("10.0.0.1", now=160.0) == 0.0


def test_the_addresses_that_are_remembered_are_bounded() -> None:
    attempts = Attempts(limit=1, addresses=3)
    assert attempts.failed("a", now=0.0) == 0.0
    for address in "bc":
        attempts.failed(address, now=1.0)
    assert attempts.failed("a", now=2.0) == 58.0
    attempts.failed("d", now=3.0)
    assert len(attempts) == 3
    assert attempts.failed("a", now=4.0) == 56.0, "the latest are kept"
    assert attempts.failed("b", now=4.0) == 0.0, "the oldest was forgotten"
