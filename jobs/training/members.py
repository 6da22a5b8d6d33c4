"""The members of an ensemble: their settings and their training."""

import pandas as pd

from jobs.training import families
from jobs.training.configs import with_shared
from registry import training
from registry.errors import BadConfig
from registry.training import Trained, TrainRun


def configs(config: training.Config) -> dict[str, training.Config]:
    """Settings of an ensemble's members by model; empty for every other model.

    Raises BadConfig for a member with the wrong family in its name, and for one that does not
    forecast each series by itself.
    """
    tiny = getattr(config, "tiny_members", False)
    settings = {}
    for member in getattr(config, "members", ()):
        model = families.find(member.split("/")[1])
        full_name = f"{model.family.name}/{model.name}"
        if member != full_name:
            raise BadConfig(
                f"member {member!r} is of family {model.family.name}; name it {full_name}"
            )
        settings[model.name] = member_config(model.name, config, tiny=tiny)
        spec = model.spec(settings[model.name])
        nested = hasattr(settings[model.name], "members")
        if nested or spec.joint or spec.universe or spec.options or spec.optional:
            raise BadConfig(
                f"member {member!r} is joint, an ensemble itself, or takes options or optional "
                "columns; an average takes models that forecast each series by itself"
            )
    return settings


def member_config(name: str, config: training.Config, *, tiny: bool) -> training.Config:
    """The settings of another model, with the settings that all families share from `config`."""
    return with_shared(families.find(name), config, tiny=tiny)


def fit_member(
    name: str,
    history: pd.DataFrame,
    config: training.Config,
    seed: int,
    *,
    tiny: bool,
    run: TrainRun,
) -> Trained:
    """Another model, fitted on this history with the shared settings of `config`."""
    settings = member_config(name, config, tiny=tiny)
    return families.fit(families.find(name), settings, history, seed=seed, run=run)
