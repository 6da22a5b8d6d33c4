"""The model card of a version: its own facts and scores, then its family's card."""

from collections.abc import Mapping

from registry.forecast.spec import ModelSpec

_SHOWN = ("crps", "coverage_50", "coverage_80", "coverage_90", "winkler_90", "mae_median", "bias",
          "direction", "rank_ic", "skill_vs_fhs", "skill_vs_naive", "dm_p_hln", "dm_p_bartlett",
          "bars_corrected")  # fmt: skip
_TAGS = ("data", "data_source", "currency", "calendar", "trained_until", "universe", "licence")
_NAMED = 50  # symbols of a universe that the card names


def model_card(
    family_card: str,
    name: str,
    spec: ModelSpec,
    tags: Mapping[str, str],
    metrics: Mapping[str, float],
) -> str:
    """Markdown; the UI shows its first line in lists. Scores: raw forecasts, report period."""
    facts = {
        "needs": f"{spec.min_context} sessions a series, columns {', '.join(spec.columns)}",
        "answers": f"1..{spec.max_horizon} sessions, levels {tags['levels']}",
    }
    if spec.universe:
        more = len(spec.universe) - _NAMED
        others = f" and {more} more" if more > 0 else ""
        facts["universe of the model"] = ", ".join(spec.universe[:_NAMED]) + others
    if "synthetic" in tags:
        facts["synthetic"] = f"{tags['synthetic']}: these columns were made up"
    facts |= {key: tags[key] for key in _TAGS if key in tags}
    rows = "\n".join(f"| {key} | {value} |" for key, value in facts.items())
    scores = "\n".join(f"| {key} | {metrics[key]:.6g} |" for key in _SHOWN if key in metrics)
    headline = (
        f"CRPS {metrics['crps']:.6f}, {100 * metrics['skill_vs_fhs']:+.2f} % against fhs, "
        f"on the sessions after {tags['trained_until']}."
    )
    if "leakage" in tags:
        headline += f" Leakage: {tags['leakage']}."
    return (
        f"{headline}\n\n# {name}\n\n| | |\n|---|---|\n{rows}\n\n"
        f"Report period after {tags['trained_until']}, log returns of single sessions:\n\n"
        f"| score | value |\n|---|---|\n{scores}\n\n{family_card}"
    )
