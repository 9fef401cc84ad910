"""The help of every command: its options in groups, and an example that the command would take."""

import shlex

import pytest
import typer

from geomae import cli
from geomae.commands.options import FIRST, GROUPS, USUAL

ROOT = typer.main.get_command(cli.app)


def commands(group=ROOT, path=()):
    """Every command that does something, by the words that call it."""
    for name, one in group.commands.items():
        if hasattr(one, "commands"):
            yield from commands(one, (*path, name))
        else:
            yield (*path, name), one


EVERY = dict(commands())


@pytest.mark.parametrize("words", EVERY, ids=" ".join)
def test_the_example_is_a_command_that_is_understood(words):
    example = shlex.split(cli.EXAMPLES[words[-1]])
    assert example[: len(words) + 1] == ["geomae", *words]
    context = EVERY[words].make_context(words[-1], example[len(words) + 1 :])
    assert context.params


@pytest.mark.parametrize("words", EVERY, ids=" ".join)
def test_every_option_stands_in_the_help_once(words):
    one = EVERY[words]
    with typer.Context(one, info_name=words[-1]) as context:
        page = one.get_help(context)
    lines = [
        line.split()[0].split("/")[0] for line in page.partition("Options:")[2].splitlines() if line.startswith("  --")
    ]
    options = [max(option.opts, key=len) for option in one.get_params(context) if option.param_type_name == "option"]
    assert sorted(lines) == sorted(options)
    assert page.rstrip().endswith(cli.EXAMPLES[words[-1]])  # in one line, so that it can be copied


def test_what_matters_first_comes_first():
    with typer.Context(EVERY["pretrain",], info_name="pretrain") as context:
        page = EVERY["pretrain",].get_help(context)
    first = page.partition("\nOptions:\n")[2].partition("\n\n")[0]
    shown = [line.split()[0] for line in first.splitlines() if line.startswith("  --")]
    assert shown == ["--dataset", "--config", "--set", "--out", "--catalog", "--help"] and len(shown) == FIRST + 1
    sections = [line.rstrip(":") for line in page.splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert sections == ["Options", "Input", "Training", "Output", "Tracking", "Example"]


def test_the_program_lists_every_command_once_by_what_it_is_for_and_cuts_no_sentence():
    assert sorted(name for names in cli.SECTIONS.values() for name in names) == sorted(ROOT.commands)
    with typer.Context(ROOT, info_name="geomae") as context:
        page = ROOT.get_help(context)
    assert all(f"\n{section}:\n" in page for section in cli.SECTIONS)
    assert "..." not in page.partition("\nBegin:")[2] and "geomae catalog init" in page


def test_groups_name_options_that_there_are():
    there = {cli.title(option) for one in EVERY.values() for option in one.params}
    assert not {*USUAL, *(name for names in GROUPS.values() for name in names)} - there


def test_shells_complete(monkeypatch, capsys):
    monkeypatch.setenv("_GEOMAE_COMPLETE", "source_bash")
    monkeypatch.setattr("sys.argv", ["geomae"])
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == 0 and "_GEOMAE_COMPLETE" in capsys.readouterr().out
