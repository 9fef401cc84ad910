"""Configuration: checked once, with the key, the line and the remedy; every shipped file is valid."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from geomae.config import Masking, PretrainConfig, changed, flatten, load_config, parse, shipped
from geomae.errors import ConfigError
from geomae.files import read_yaml
from geomae.training.finetuning_config import FinetuneConfig
from pipelines.ablate_masking import Study
from pipelines.benchmark_tasks import Score
from pipelines.shift_config import Family

ROOT = Path(__file__).parents[2]
KINDS = {
    "pretrain": PretrainConfig,
    "finetune": FinetuneConfig,
    "ablate_masking": Study,
    "benchmark_encoders": Score,
    "shifts": Family,
}
FILES = sorted((ROOT / "configs").rglob("*.yaml"))


def load(*changes, name=None):
    return load_config(PretrainConfig, "pretrain", name, changes)


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_shipped_file_loads_by_its_name(path):
    command = path.parent.name
    assert path.stem in shipped(command)
    by_name = load_config(KINDS[command], command, path.stem)
    assert by_name == load_config(KINDS[command], command, str(path))
    assert by_name == parse(KINDS[command], read_yaml(path).values)


def test_tiny_is_shipped_and_keeps_to_the_defaults_of_its_size():
    assert "tiny" in shipped("pretrain")
    assert load(name="tiny").preset == "tiny"
    assert shipped("absent") == ()


def test_later_changes_win_and_values_are_yaml(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("steps: 7\nmasking:\n  ratio: 0.5\n")
    changes = ("steps=8", "masking.kind=random", "optimizer.base_rate=1e-3", "steps=9", "data.flips=false")
    one = load(*changes, name=str(path))
    assert (one.steps, one.masking.ratio, one.masking.kind) == (9, 0.5, "random")
    assert (one.optimizer.base_rate, one.data.flips) == (1e-3, False)
    assert load(" steps = 12 ", "decoder={width: 64}").decoder.width == 64
    assert load().steps == PretrainConfig().steps


def test_changes_leave_the_values_that_they_start_from():
    values = {"masking": {"ratio": 0.5}}
    assert changed(values, ["masking.ratio=0.25", "steps=3"]) == {"masking": {"ratio": 0.25}, "steps": 3}
    assert values == {"masking": {"ratio": 0.5}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("stpes=5", "unknown key 'stpes'; did you mean 'steps'"),
        ("masking.ration=0.5", "unknown key 'masking.ration'; did you mean 'ratio'"),
        ("optimiser.clip=1", "unknown key 'optimiser'; did you mean 'optimizer'"),
        ("steps=many", "steps: must be a whole number, not 'many'"),
        ("steps='500'", "steps: must be a whole number, not '500'"),
        ("steps=1.5", "steps: must be a whole number, not 1.5"),
        ("steps=true", "steps: must be a whole number, not True"),
        ("steps=", "steps: must be a whole number, not empty"),
        ("steps=0", "steps: must be greater than 0, not 0"),
        ("masking.ratio=1", "masking.ratio: must be less than 1, not 1"),
        ("masking.ratio=.nan", "masking.ratio: must be"),
        ("data.flips=1", "data.flips: must be true or false, not 1"),
        ("preset=gigantic", "preset: must be 'tiny', 'small'.*, not 'gigantic'"),
        ("masking=0.5", "masking: must be a mapping of keys to values, not 0.5"),
        ("decoder.heads=3", "decoder.heads: 3 does not divide decoder.width 128|decoder: .*3 does not divide"),
        ("steps", "--set steps: is not KEY=VALUE; write for example --set steps=500"),
        ("=5", "--set =5: is not KEY=VALUE"),
        ("steps=[1", r"--set steps=\[1: the value is not valid YAML; quote it"),
        ("steps=!!python/name:os.system", "--set steps=.*: the value is not valid YAML"),
    ],
)
def test_faults_name_the_key_the_value_and_the_remedy(change, message):
    with pytest.raises(ConfigError, match=message) as caught:
        load(change)
    assert "\n" not in str(caught.value)


def test_faults_in_a_file_name_its_line(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("steps: 5\nmasking:\n  kind: random\n  ratio: 2\n")
    with pytest.raises(ConfigError, match=rf"^{path}:4: masking\.ratio: must be less than 1, not 2$"):
        load(name=str(path))
    path.write_text("steps: 5\n\nmasking:\n  ratoi: 0.5\n")
    with pytest.raises(ConfigError, match=rf"^{path}:4: unknown key 'masking\.ratoi'; did you mean 'ratio'\?$"):
        load(name=str(path))
    path.write_text("steps: 5\nsteps: 6\n")
    with pytest.raises(ConfigError, match=rf"^{path}:2: .*duplicate key"):
        load(name=str(path))


def test_names_that_are_neither_file_nor_shipped(tmp_path):
    with pytest.raises(ConfigError, match="--config tinny: is neither a file nor shipped; did you mean 'tiny'"):
        load(name="tinny")
    with pytest.raises(ConfigError, match=r"absent\.yaml: cannot be read"):
        load(name=str(tmp_path / "absent.yaml"))


def test_configuration_is_frozen():
    with pytest.raises(ValidationError):
        PretrainConfig().steps = 5
    with pytest.raises(ValidationError):
        Masking().ratio = 0.5


def test_a_configuration_survives_json():
    one = load("steps=9", "optimizer.floor=0", "masking.ratio=0.6")
    assert parse(PretrainConfig, one.model_dump(mode="json")) == one


def test_nested_values_become_flat_names():
    flat = flatten(PretrainConfig().model_dump())
    assert flat["masking.ratio"] == 0.75
    assert not any(isinstance(value, dict) for value in flat.values())
    assert flatten({"a": {"b": {"c": 1}}, "d": 2}) == {"a.b.c": 1, "d": 2}


def test_every_option_is_described():
    for name, field in PretrainConfig.model_fields.items():
        assert field.description or hasattr(field.annotation, "model_fields"), name
