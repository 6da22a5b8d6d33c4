"""Dates and times are ISO 8601, wherever a person or a file gives one."""

from datetime import date

import pytest

from jobs.training import configs, families
from jobs.training.leakage import leakage
from registry import dates
from registry.errors import BadInput, BadParameter
from registry.hub.mirror import Source

# pandas reads each of them, some as another day than the writer means.
GUESSED = ("04/05/2017", "today", "now", "2017", "5 April 2017", "20170405", "2017-4-5",
           "2017-04-05 12:00", "2017-04-05T00:00:00Z", "2017-02-30", " 2017-04-05")  # fmt: skip


@pytest.mark.parametrize("words", GUESSED)
def test_a_date_that_would_be_guessed_is_refused_by_every_reader(words: str) -> None:
    ewma = families.find("ewma")
    for key in ("fit_until", "choose_until", "report_until"):
        with pytest.raises(BadParameter, match=rf"{key} is .*, expected a date like 2018-12-31"):
            configs.load_config(ewma, {key: words})
    with pytest.raises(BadParameter, match=r"--pretrained-until is .*, expected a date"):
        Source("acme/kronos", pretrained_until=words)


def test_an_iso_date_is_kept_as_it_is_written() -> None:
    config = configs.load_config(families.find("ewma"), {"fit_until": "2017-04-05"})
    assert config.fit_until == "2017-04-05"
    assert configs.load_config(families.find("ewma"), {"report_until": "none"}).report_until is None


def test_an_unquoted_date_of_a_config_file_is_text() -> None:
    config = configs.load_config(
        families.find("ewma"), {}, defaults={"fit_until": date(2017, 4, 5)}
    )
    assert config.fit_until == "2017-04-05"


def test_a_tag_that_is_no_date_may_be_leakage() -> None:
    config = configs.load_config(families.find("ewma"), {})
    assert leakage("ewma/1", {"trained_until": "2019-12-31"}, config) == ""
    with pytest.raises(BadInput, match="trained until 04/05/2017"):
        leakage("ewma/1", {"trained_until": "04/05/2017"}, config)


@pytest.mark.parametrize("words", ["yesterday", "22.11.2026", "10:00", ""])
def test_a_time_is_iso_8601(words: str) -> None:
    assert dates.read_time("2026-11-22T10:00", "--at").hour == 10
    with pytest.raises(BadParameter, match="expected a time like 2026-11-22T10:00"):
        dates.read_time(words, "--at")
