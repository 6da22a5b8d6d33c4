"""Finding models by folder, their configs, and the inputs of a recipe."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from shared import SHARED

from jobs.training import configs, families, planning
from jobs.training.families import Folder, Model
from registry import training
from registry.errors import BadConfig, BadParameter, NotFound
from registry.forecast import names
from registry.forecast.spec import ModelSpec
from registry.settings import CHECKOUT


def test_every_config_file_is_a_model_of_the_family_of_its_folder():
    models = families.all_models()
    files = list((CHECKOUT / "mlprojects").glob("*/configs/*.yaml"))
    assert sorted(models) == sorted(path.stem for path in files)
    family_of = {name: model.family.name for name, model in models.items()}
    assert (family_of["naive"], family_of["fhs"]) == ("baselines", "baselines")
    assert family_of["nbeats"] == "nixtla"


def test_no_two_families_have_a_model_of_the_same_name():
    files = [path.stem for path in (CHECKOUT / "mlprojects").glob("*/configs/*.yaml")]
    assert len(set(files)) == len(files)


@pytest.mark.parametrize("name", sorted(families.all_models()))
def test_every_model_has_a_card_and_sound_settings_also_when_tiny(name: str):
    model = families.find(name)
    assert model.card.startswith(f"# Family `{model.family.name}`")
    for tiny in (False, True):
        config = configs.load_config(model, {}, tiny=tiny)
        spec = model.spec(config)
        assert (spec.name, spec.family) == (name, model.family.name)
        assert spec.max_horizon == config.horizon
        assert set(names.HISTORY) <= set(spec.columns)


def test_an_unknown_model_is_not_found_and_the_known_ones_are_listed():
    with pytest.raises(NotFound, match=r"no model 'magic'; .*ewma.*nbeats"):
        families.find("magic")


def test_the_tiny_section_replaces_settings_and_overrides_replace_both():
    nbeats = families.find("nbeats")
    stored, tiny = configs.load_config(nbeats, {}), configs.load_config(nbeats, {}, tiny=True)
    assert (tiny.max_steps, tiny.context) == (4, stored.context)
    assert tiny.max_steps < stored.max_steps
    assert configs.load_config(nbeats, {"max_steps": 3}, tiny=True).max_steps == 3


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("horizon", "3", 3),
        ("warmup", "300", 300),
        ("levels", "0.1, 0.5,0.9", (0.1, 0.5, 0.9)),
        ("levels", "0.5", (0.5,)),
        ("levels", [0.1, 0.9], (0.1, 0.9)),
        ("fit_until", "2013-12-31", "2013-12-31"),
        ("report_until", "2021-06-30", "2021-06-30"),
        ("report_until", "null", None),
        ("kind", "naive", "naive"),
        ("data", "bars", "bars"),
        ("report_every", "5", 5),
        ("horizon", 3, 3),
    ],
)
def test_an_override_is_read_as_yaml(key: str, text: Any, value: Any):
    assert getattr(configs.load_config(families.find("fhs"), {key: text}), key) == value


def test_a_small_number_may_be_written_with_an_exponent():
    nbeats = families.find("nbeats")
    assert configs.load_config(nbeats, {"learning_rate": "1e-4"}).learning_rate == 1e-4


@pytest.mark.parametrize(
    ("model", "overrides", "code"),
    [
        ("fhs", {"horizn": "3"}, "UNKNOWN_PARAM"),
        ("fhs", {"tiny": "true"}, "UNKNOWN_PARAM"),
        ("fhs", {"max_steps": "3"}, "UNKNOWN_PARAM"),
        ("fhs", {"horizon": "three"}, "BAD_CONFIG"),
        ("fhs", {"horizon": "2.5"}, "BAD_CONFIG"),
        ("fhs", {"horizon": "true"}, "BAD_CONFIG"),
        ("fhs", {"horizon": ""}, "BAD_CONFIG"),
        ("fhs", {"horizon": "{secret"}, "BAD_CONFIG"),
        ("fhs", {"horizon": "0"}, "BAD_HORIZON"),
        ("fhs", {"horizon": "1000"}, "BAD_HORIZON"),
        ("fhs", {"levels": "low,high"}, "BAD_CONFIG"),
        ("fhs", {"levels": "0.5,0.1"}, "BAD_LEVELS"),
        ("fhs", {"levels": "5,50"}, "BAD_LEVELS"),
        ("fhs", {"fit_until": "soon"}, "BAD_TIME"),
        ("fhs", {"fit_until": "2019-12-31"}, "BAD_CONFIG"),
        ("fhs", {"fit_until": "[2018-12-31]"}, "BAD_TIME"),
        ("fhs", {"kind": "magic"}, "BAD_CONFIG"),
        ("fhs", {"report_every": "0"}, "BAD_CONFIG"),
        ("har", {"warmup": "10"}, "BAD_CONFIG"),
        ("nbeats", {"context": "0"}, "BAD_CONFIG"),
        ("nbeats", {"width": "-1"}, "BAD_CONFIG"),
        ("nbeats", {"max_steps": "0"}, "BAD_CONFIG"),
        ("nbeats", {"learning_rate": "0"}, "BAD_CONFIG"),
        ("nbeats", {"learning_rate": "1"}, "BAD_CONFIG"),
        ("nbeats", {"learning_rate": ".nan"}, "BAD_CONFIG"),
        ("nbeats", {"learning_rate": ".inf"}, "BAD_CONFIG"),
        ("nbeats", {"patience": "0"}, "BAD_CONFIG"),
    ],
    ids=str,
)
def test_a_bad_setting_is_refused_by_code(model: str, overrides: dict[str, str], code: str):
    with pytest.raises((BadConfig, BadParameter)) as caught:
        configs.load_config(families.find(model), overrides)
    assert caught.value.code == code
    assert caught.value.status == 400


def test_an_unknown_data_set_is_not_found():
    with pytest.raises(NotFound, match="no data set 'ticks'; there are panel, bars"):
        configs.load_config(families.find("fhs"), {"data": "ticks"})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fast(training.Config):
    kind: str
    quick: bool = True


@dataclasses.dataclass(frozen=True, kw_only=True)
class Deep(training.Config):
    kind: str
    layers: int = 3


class Several(Folder):
    """A family whose models take different settings."""

    @property
    def configs(self) -> dict[str, type[training.Config]]:
        return {"fast": Fast, "deep": Deep}

    def spec(self, name: str, config: training.Config) -> ModelSpec:
        return ModelSpec(name, self.name, 1, 1, config.horizon)


@pytest.fixture
def several(tmp_path: Path) -> Model:
    path = tmp_path / "family" / "configs" / "mine.yaml"
    path.parent.mkdir(parents=True)
    path.write_text("kind: deep\nlayers: 5\ntiny: {layers: 1}\n")
    return Model("mine", path, Several("several"))


def test_in_a_family_of_several_kinds_the_kind_says_which_settings_there_are(several: Model):
    assert configs.load_config(several, {}) == Deep(kind="deep", layers=5, **SHARED)
    assert configs.load_config(several, {}, tiny=True) == Deep(kind="deep", layers=1, **SHARED)
    message = r"^mine has no setting layers; it has horizon, .*, kind, quick$"
    with pytest.raises(BadParameter, match=message):
        configs.load_config(several, {"kind": "fast"})
    message = r"^mine: kind is 'slow', expected one of \['deep', 'fast'\]$"
    with pytest.raises(BadConfig, match=message):
        configs.load_config(several, {"kind": "slow"})


def test_true_and_false_are_for_settings_that_are_true_or_false(several: Model):
    several.config.write_text("kind: fast\ntiny: {}\n")
    assert configs.load_config(several, {"quick": "false"}) == Fast(
        kind="fast", quick=False, **SHARED
    )
    with pytest.raises(BadConfig, match="mine: horizon cannot be true or false"):
        configs.load_config(several, {"horizon": "true"})


def test_the_message_for_an_unknown_setting_names_it_and_the_known_ones():
    message = r"^fhs has no setting horizn; it has horizon, levels, fit_until"
    with pytest.raises(BadParameter, match=message):
        configs.load_config(families.find("fhs"), {"horizn": "3"})


def test_the_message_for_a_wrong_type_names_the_setting():
    with pytest.raises(BadConfig, match=r"^fhs: horizon: Input should be a valid integer"):
        configs.load_config(families.find("fhs"), {"horizon": "three"})


def test_a_misspelt_key_in_the_file_itself_is_refused(tmp_path: Path):
    (tmp_path / "baselines" / "configs").mkdir(parents=True)
    path = tmp_path / "baselines" / "configs" / "mine.yaml"
    path.write_text("kind: fhs\nhorizn: 5\ntiny: {}\n")
    with pytest.raises(BadParameter) as caught:
        configs.load_config(Model.of(path), {})
    assert caught.value.code == "UNKNOWN_PARAM"


def test_a_recipe_is_a_sha256_that_changes_with_everything_that_decides_the_weights():
    config = configs.load_config(families.find("nbeats"), {})
    changed_config = dataclasses.replace(config, learning_rate=config.learning_rate * 2)
    inputs = {"data": "d", "lock": "l", "code": "c"}
    recipes = [
        planning.recipe("nbeats", config, {}, 1, **inputs),
        planning.recipe("other", config, {}, 1, **inputs),
        planning.recipe("nbeats", changed_config, {}, 1, **inputs),
        planning.recipe("nbeats", config, {}, 2, **inputs),
        planning.recipe("nbeats", config, {}, 1, **(inputs | {"data": "x"})),
        planning.recipe("nbeats", config, {}, 1, **(inputs | {"lock": "x"})),
        planning.recipe("nbeats", config, {}, 1, **(inputs | {"code": "x"})),
    ]
    assert len(set(recipes)) == len(recipes)
    assert recipes[0] == planning.recipe("nbeats", dataclasses.replace(config), {}, 1, **inputs)
    assert all(len(bytes.fromhex(recipe)) == 32 for recipe in recipes)
