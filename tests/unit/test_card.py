"""The model card: it has the numbers of the run, and the most important ones in its first line."""

from jobs.training import card, configs, families
from registry.forecast import names


def test_card_begins_with_the_headline_and_ends_with_the_familys_card() -> None:
    ewma = families.find("ewma")
    spec = ewma.spec(configs.load_config(ewma, {}))
    keys = ("levels", "data", "trained_until", "universe", "licence")
    tags = {key: f"<{key}>" for key in keys}
    metrics = {"crps": 0.0112983, "skill_vs_fhs": -0.00083, "coverage_90": 0.894}
    lines = card.model_card(ewma.card, "ewma", spec, tags, metrics).splitlines()
    assert lines[0] == "CRPS 0.011298, -0.08 % against fhs, on the sessions after <trained_until>."
    assert f"| needs | 60 sessions a series, columns {', '.join(names.HISTORY)} |" in lines
    assert "| coverage_90 | 0.894 |" in lines
    assert not [line for line in lines if line.startswith("| winkler_90")]
    assert "\n".join(lines).endswith(ewma.card.rstrip("\n"))
