"""What a command says at its end of the one that people usually take next."""

from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from geomae.cli import app
from geomae.commands.embed_pca import splits_to_probe
from geomae.commands.options import NEXT, CommonOptions, next_command


def test_every_command_that_measures_says_what_follows_it():
    other = {"ui", "doctor", "catalog init", "catalog schema"}  # these end in what to do, or are no step of a study
    names = {command.name for command in app.registered_commands}
    (catalog,) = [
        group.typer_instance for group in app.registered_groups if group.typer_instance.info.name == "catalog"
    ]
    names |= {f"catalog {command.name}" for command in catalog.registered_commands}
    assert set(NEXT) == names - other


@pytest.mark.parametrize("command", NEXT)
def test_what_follows_is_a_command_with_options_that_it_has(command):
    import typer

    words = NEXT[command].split()
    followed = typer.main.get_command(app)
    for word in words[1:]:
        if not hasattr(followed, "commands"):
            break
        followed = followed.commands[word]
    known = {name for option in followed.params for name in option.opts}
    assert {word for word in words if word.startswith("--")} <= known


def test_names_of_the_run_are_filled_in_as_a_shell_takes_them():
    common = CommonOptions(catalog=Path("my data.yaml"))
    told = next_command("gap", common, source="a[season=dry]", target="b", model="runs/x/model")
    assert told == (
        "next: geomae adapt --source 'a[season=dry]' --target b --model runs/x/model --catalog 'my data.yaml'"
    )
    assert next_command("predict", common, out=Path("runs/y")) == "next: geomae runs show runs/y"
    told = next_command("embed-pca", CommonOptions(), train="a@train", test=("a@near", "a@far off"), encoder="m")
    assert told == "next: geomae probe --train a@train --test a@near --test 'a@far off' --encoder m"


@pytest.mark.parametrize(
    ("splits", "expected"),
    [
        ({"a": ["train", "test_far", "val", "test_near"]}, ("a@train", ("a@test_far", "a@test_near"))),
        ({"a": ["val", "train"]}, ("a@train", ("a@val",))),
        ({"a": ["train"], "b": ["train", "dryland"]}, ("b@train", ("b@dryland",))),
        ({"a": ["train"]}, ("SELECTOR", ("SELECTOR",))),
    ],
)
@pytest.mark.parametrize("apart", [False, True], ids=["selected at once", "one selector for each split"])
def test_embed_pca_offers_every_test_split_to_the_probe(splits, expected, apart):
    frames = [(name, pd.DataFrame({"split": [*known, "unlabelled"]})) for name, known in splits.items()]
    if apart:
        frames = [(name, frame[frame["split"] == one]) for name, frame in frames for one in frame["split"]]
    selections = [
        SimpleNamespace(index=SimpleNamespace(name=name, tiles=frame.assign(
            label=["crop" if split != "unlabelled" else None for split in frame["split"]]
        )))
        for name, frame in frames
    ]  # fmt: skip
    assert splits_to_probe(selections) == expected
