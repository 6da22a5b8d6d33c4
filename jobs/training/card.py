"""The model card of a version: its family's card and what this version was measured at."""

from collections.abc import Mapping

from registry.forecast.spec import ModelSpec

_SHOWN = ("crps", "coverage_50", "coverage_80", "coverage_90", "winkler_90", "mae_median", "bias", "direction",
          "rank_ic", "skill_vs_fhs", "skill_vs_naive", "dm_p_hln", "dm_p_bartlett", "bars_corrected")  # fmt: skip


def model_card(
    family_card: str,
    name: str,
    spec: ModelSpec,
    tags: Mapping[str, str],
    metrics: Mapping[str, float],
) -> str:
    """Markdown; the UI shows its first line in lists. The numbers are those of the report period, of raw forecasts."""
    facts = {
        "needs": f"{spec.min_context} sessions a series, columns {', '.join(spec.columns)}",
        "answers": f"1..{spec.max_horizon} sessions, levels {tags['levels']}",
        **({"universe of the model": ", ".join(spec.universe)} if spec.universe else {}),
        **(
            {"synthetic": f"{tags['synthetic']}: these columns were made up"}
            if "synthetic" in tags
            else {}
        ),
        **{
            key: tags[key]
            for key in ("trained_until", "universe", "data_digest", "git_commit", "licence")
        },
    }
    rows = "\n".join(f"| {key} | {value} |" for key, value in facts.items())
    scores = "\n".join(f"| {key} | {metrics[key]:.6g} |" for key in _SHOWN if key in metrics)
    headline = (
        f"CRPS {metrics['crps']:.6f}, {100 * metrics['skill_vs_fhs']:+.2f} % against fhs, on the sessions after "
        f"{tags['trained_until']}."
    )
    return (
        f"{headline}\n\n# {name}\n\n| | |\n|---|---|\n{rows}\n\n"
        f"Report period after {tags['trained_until']}, log returns of single sessions:\n\n"
        f"| score | value |\n|---|---|\n{scores}\n\n{family_card}"
    )
