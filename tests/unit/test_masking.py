"""Passwords are hidden in every text, and the rest of it can be read."""

import pytest

from registry.masking import masked, masked_uri


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://me:pw@host:5000/a b", "http://***@host:5000/a b"),
        ("'https://token@host'", "'https://***@host'"),
        (
            "at postgresql+psycopg2://u:p/w#?:@x@db/kronos.",
            "at postgresql+psycopg2://***@db/kronos.",
        ),
        ("http://a:1@h/x and http://b:2@i/y", "http://***@h/x and http://***@i/y"),
        (
            "postgresql://u@/db?host=/tmp&password=p%20w&sslmode=require",
            "postgresql://***@/db?host=/tmp&password=***&sslmode=require",
        ),
        ("s3://bucket?AccessToken=abc", "s3://bucket?AccessToken=***"),
        (
            "https://store/blob?sv=2024&sig=ab%2Fc&X-Amz-Signature=0af&part=2",
            "https://store/blob?sv=2024&sig=***&X-Amz-Signature=***&part=2",
        ),
        ("host=db password='p w' user=u", "host=db password=*** user=u"),
        ("PGPASSWORD=pw psql, aws_secret = x", "PGPASSWORD=*** psql, aws_secret = ***"),
        ("token hf_abcdefghijklmnop refused", "token *** refused"),
        (f"Bearer kr_{'aB3-_' * 8}xyz.", "Bearer ***."),
    ],
)
def test_what_is_secret_is_hidden(text: str, expected: str) -> None:
    assert masked(text) == expected
    assert masked(expected) == expected


@pytest.mark.parametrize(
    "text",
    [
        "http://127.0.0.1:5000/#/experiments/1 is held by anna@host",
        "models:/nbeats@production",
        "sqlite:////srv/kronos/mlflow.db",
        "hf_hub cannot be imported",
        "password must not be empty; the token is missing",
        "line one\nline two",
    ],
)
def test_other_text_stays_as_it_is(text: str) -> None:
    assert masked(text) == text


def test_blanks_in_the_password_of_a_single_uri_are_hidden_too() -> None:
    assert masked_uri("postgresql://me:p w@/x@host/db?key=a") == "postgresql://***@host/db?key=***"
    assert masked_uri("sqlite:////my prices.db") == "sqlite:////my prices.db"
