"""Descriptions of registered models and experiments, as people read them in the MLflow UI.

They say what a thing is, and how the versions in its stages scored. The last line holds a hash of
the text before it: a text without its right hash was written or edited by a person, and stays.
"""

import hashlib
import re
import textwrap
from collections.abc import Mapping, Sequence

from registry.versions.version import Version

NOTE_TAG = "mlflow.note.content"  # of an experiment; the UI shows it as its description
STAGES = {"production": "Production", "staging": "Staging"}  # by alias
TRAININGS = "forecasters"  # the experiment whose description has what is in Production
OF_RUNS = {  # experiments in which programs open runs
    TRAININGS: "Trainings, one run each: `jobs train` and `mlflow run . -e train_<model>`. Columns "
    "to show: the metrics crps, skill_vs_fhs and coverage_90 (on the report period), the parameter "
    "horizon, the tag trained_until.",
    "evaluations": "Evaluations, one run for each version: `jobs evaluate`. The versions of one "
    "command are scored on the same rows.",
    "tuning": "Studies, one run each: `jobs tune`. The child runs are the trials.",
    "calibrations": "Calibrations of a version on a data set, one run for each range of nights: "
    "`jobs calibrate`. Columns to show: coverage_90_before, coverage_90_after, crps_before, "
    "crps_after, and the tags learned_from (live or backfilled nights), verdict_fell and refused.",
    "mirrors": "Weights from the Hugging Face Hub, one run each: `registry mirror`.",
    "standings": "What issued forecasts were worth, one run for each data set and night: `jobs "
    "standings`. Metrics are grouped by source (live or backfill, never both) and version.",
    "quickstart": "Main jobs, one run each: `make demo`. Their trainings are in forecasters.",
}
EXPERIMENTS = {
    **OF_RUNS,
    "promotions": "Promotions and roll-backs, one run each, with who, when and why. Keep them: "
    "`registry history` and `registry doctor` compare them with the ledger.",
}
_HEADLINE = "In Production: "
_CALIBRATION = "**Calibration.**"  # begins the paragraph on it in a version's description
_PARAGRAPH = 1000  # characters
_ROWS = 30  # models in a description; more would not fit
_SEAL = re.compile(r"\n\n\*Kept by Kronos Registry until edited \(([0-9a-f]{12})\)\.\*$")
_COLUMNS = ("stage", "version", "CRPS", "skill vs fhs", "coverage 90", "data", "trained until")


def sealed(text: str) -> str:
    """A text of ours, with the line that tells it from a person's."""
    return f"{text}\n\n*Kept by Kronos Registry until edited ({_hash(text)}).*"


def is_ours(description: str) -> bool:
    """Whether a description may be replaced: it is empty, or ours and unedited."""
    seal = _SEAL.search(description)
    return not description.strip() or bool(seal and seal[1] == _hash(description[: seal.start()]))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


# --- registered models ------------------------------------------------------------------------


def of_model(purpose: str, staged: Mapping[str, tuple[Version, Mapping[str, float]]]) -> str:
    """Description of a model. `staged` has the version of each alias, and its run's metrics."""
    headline = "Nothing is in Production."
    if "production" in staged:
        version, metrics = staged["production"]
        headline = f"{_HEADLINE}version {version.version}{_scores(metrics)}."
    paragraphs = [headline, purpose]
    if staged:
        rows = [_row(STAGES[alias], *staged[alias]) for alias in STAGES if alias in staged]
        paragraphs.append(_table(_COLUMNS, rows))
        paragraphs.append("Scores of raw forecasts after `trained until`, from each version's run.")
    return sealed("\n\n".join(paragraph for paragraph in paragraphs if paragraph))


def _scores(metrics: Mapping[str, float]) -> str:
    """', CRPS 0.011176, +1.08 % against fhs', as far as the run has it."""
    text = ""
    if "crps" in metrics:
        text += f", CRPS {metrics['crps']:.6f}"
    if "skill_vs_fhs" in metrics:
        text += f", {_percent(metrics['skill_vs_fhs'])} against fhs"
    return text


def _row(stage: str, version: Version, metrics: Mapping[str, float]) -> tuple[str, ...]:
    scores = [
        f"{metrics['crps']:.6f}" if "crps" in metrics else "",
        _percent(metrics["skill_vs_fhs"]) if "skill_vs_fhs" in metrics else "",
        f"{metrics['coverage_90']:.3f}" if "coverage_90" in metrics else "",
    ]
    facts = [version.tags.get(key, "") for key in ("data", "trained_until")]
    return (stage, str(version.version), *scores, *facts)


def _percent(share: float) -> str:
    return f"{100 * share:+.2f} %"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def purpose(card: str, name: str) -> str:
    """What a model is, by the card in a version's description; empty without a family's card.

    That is the first paragraph of the card, and the model's row of its table or the first paragraph
    below the model's heading.
    """
    _, heading, text = card.partition("# Family `")
    if not heading:
        return ""
    paragraphs = text.split("\n\n")[1:]
    about = [paragraphs[0]] if paragraphs else []
    row = re.search(rf"^\| `{name}` \| (.+?) \|", text, re.MULTILINE)
    below = re.search(rf"^## `{name}`\n\n(.+?)(\n\n|\Z)", text, re.MULTILINE | re.DOTALL)
    if row:
        about.append(f"`{name}`: {row[1]}.")
    elif below:
        about.append(below[1])
    return "\n\n".join(textwrap.shorten(text, _PARAGRAPH, placeholder=" ...") for text in about)


# --- versions ---------------------------------------------------------------------------------


def with_calibration(description: str, verdicts: str) -> str:
    """The description of a version with a paragraph on its calibration, which replaces an older.

    It comes second, after the headline that the UI shows in lists.
    """
    paragraphs = [part for part in description.split("\n\n") if not part.startswith(_CALIBRATION)]
    return "\n\n".join([*paragraphs[:1], f"{_CALIBRATION} {verdicts}", *paragraphs[1:]])


# --- experiments ------------------------------------------------------------------------------


def of_experiment(name: str, models: Mapping[str, str]) -> str:
    """Description of one of EXPERIMENTS. `models` has the descriptions of registered models."""
    paragraphs = [EXPERIMENTS[name]]
    rows = _in_production(models)
    if rows:
        paragraphs.append(_table(("model", "in Production"), rows[:_ROWS]))
    if len(rows) > _ROWS:
        paragraphs.append(f"And {len(rows) - _ROWS} more: `python -m registry list`.")
    return sealed("\n\n".join(paragraphs))


def _in_production(models: Mapping[str, str]) -> list[tuple[str, str]]:
    """Names and headlines of the models with a description of ours and a version in Production."""
    rows = []
    for name, description in sorted(models.items()):
        if description.startswith(_HEADLINE) and is_ours(description):
            headline = description.partition("\n")[0]
            rows.append((name, headline.removeprefix(_HEADLINE).rstrip(".")))
    return rows
