"""Descriptions say what a model is and what is in Production; what a person wrote is theirs."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from jobs import quickstart
from jobs.nightly import calibration_record, standings
from jobs.training import families, train
from jobs.tuning import tune
from registry.hub import mirror
from registry.promotion import audit, stages
from registry.versions import descriptions
from registry.versions.scored import EVALUATIONS
from registry.versions.store import shortened
from registry.versions.version import Version

LIMIT = 5000  # characters of MLflow's columns on PostgreSQL
CREATED = datetime(2026, 11, 27, tzinfo=UTC)
TAGS = {"data": "panel", "trained_until": "2019-12-31"}
VERSION = Version("har", 3, "Production", TAGS, ("production",), "run", CREATED, "models:/m-1")
METRICS = {"crps": 0.0111762, "skill_vs_fhs": 0.01077, "coverage_90": 0.8813}


def test_a_models_description_has_headline_purpose_and_a_row_for_each_stage() -> None:
    staged = {"staging": (replace(VERSION, version=4), {}), "production": (VERSION, METRICS)}
    lines = descriptions.of_model("A regression.", staged).splitlines()
    assert lines[0] == "In Production: version 3, CRPS 0.011176, +1.08 % against fhs."
    assert lines[2] == "A regression."
    assert lines[4] == (
        "| stage | version | CRPS | skill vs fhs | coverage 90 | data | trained until |"
    )
    assert lines[6:8] == [
        "| Production | 3 | 0.011176 | +1.08 % | 0.881 | panel | 2019-12-31 |",
        "| Staging | 4 |  |  |  | panel | 2019-12-31 |",
    ]


def test_without_a_stage_it_says_that_nothing_is_in_production() -> None:
    text = descriptions.of_model("A regression.", {})
    assert text.startswith("Nothing is in Production.\n\nA regression.\n\n*Kept by ")


def test_what_a_person_wrote_or_edited_is_not_ours() -> None:
    ours = descriptions.of_model("A regression.", {"production": (VERSION, METRICS)})
    assert descriptions.is_ours(ours)
    assert descriptions.is_ours("")
    assert not descriptions.is_ours("Ask Ann before you promote this.")
    assert not descriptions.is_ours(ours.replace("A regression", "Our regression"))
    assert not descriptions.is_ours(f"Ask Ann. {ours}")
    assert not descriptions.is_ours(f"{ours}\n\nAsk Ann.")


@pytest.mark.parametrize("name", sorted(families.all_models()))
def test_every_model_has_a_purpose_also_from_a_versions_description(name: str) -> None:
    card = families.find(name).card
    purpose = descriptions.purpose(f"CRPS 0.01.\n\n# {name}\n\n| needs | 60 |\n\n{card}", name)
    assert 40 <= len(purpose) <= 2002
    assert not purpose.startswith(("#", "|"))
    staged = dict.fromkeys(descriptions.STAGES, (VERSION, METRICS))
    assert len(descriptions.of_model(purpose, staged)) <= LIMIT


def test_the_purpose_is_the_familys_paragraph_and_the_models_row_or_section() -> None:
    har = descriptions.purpose(families.find("har").card, "har")
    assert har.startswith("Forecasters of a session's log return that need no network")
    assert "\n\n`har`: expected absolute return by step" in har
    kronos = descriptions.purpose(families.find("kronos").card, "kronos")
    assert "\n\nKronos (Shi et al., AAAI 2026, arXiv 2508.02739" in kronos
    assert descriptions.purpose("A version without a card.", "har") == ""


def test_the_experiment_of_trainings_lists_what_is_in_production_as_far_as_it_fits() -> None:
    ours = descriptions.of_model("", {"production": (VERSION, METRICS)})
    models = {"har": ours, "fhs": descriptions.of_model("", {}), "theirs": "In Production: mine."}
    text = descriptions.of_experiment("forecasters", models)
    assert "| har | version 3, CRPS 0.011176, +1.08 % against fhs |" in text.splitlines()
    assert "| fhs |" not in text
    assert "| theirs |" not in text
    many = {f"{'m' * 60}{number:04}": ours for number in range(100)}
    text = descriptions.of_experiment("forecasters", many)
    assert "And 70 more: `python -m registry list`." in text.splitlines()
    assert descriptions.is_ours(text)
    assert len(text) <= LIMIT


def test_every_experiment_and_both_aliases_are_described() -> None:
    modules = (train, tune, quickstart, mirror, audit, calibration_record, standings)
    experiments = {module.EXPERIMENT for module in modules} | {EVALUATIONS}
    assert experiments == set(descriptions.EXPERIMENTS)
    assert train.EXPERIMENT == descriptions.TRAININGS
    assert {alias: stage for stage, alias in stages.ALIASES.items()} == descriptions.STAGES


# --- the calibration of a version ---------------------------------------------------------------

CARD = "CRPS 0.011.\n\n# har\n\nText.\n\n# Family `baselines`\n\nModels of volatility."


def test_a_calibration_is_the_second_paragraph_and_replaces_the_one_before() -> None:
    first = descriptions.with_calibration(CARD, "Number 1.")
    assert first.split("\n\n")[:3] == ["CRPS 0.011.", "**Calibration.** Number 1.", "# har"]
    second = descriptions.with_calibration(first, "Number 2.")
    assert second == first.replace("Number 1.", "Number 2.")
    assert descriptions.with_calibration(second, "Number 2.") == second


def test_a_calibration_leaves_the_purpose_of_a_card_as_it_is() -> None:
    described = descriptions.with_calibration(CARD, "Number 1.")
    assert descriptions.purpose(described, "har") == descriptions.purpose(CARD, "har") != ""


def test_a_version_without_a_description_gets_one() -> None:
    assert descriptions.with_calibration("", "Number 1.").strip() == "**Calibration.** Number 1."


def test_a_calibration_stays_when_a_long_card_is_shortened() -> None:
    long = CARD + "\n\nA paragraph of words." * 400
    text = long
    for number in range(20):
        text = shortened(descriptions.with_calibration(text, f"Number {number}." + "x" * number))
        assert len(text) <= LIMIT
        assert f"**Calibration.** Number {number}.x" in text or number == 0
    assert text.count("The rest is in `model_card.md`") == 1
