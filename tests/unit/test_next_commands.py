"""What a command says at its end of the one that people usually take next."""

from pathlib import Path

import pytest

from geomae.cli import app
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
