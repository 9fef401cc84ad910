"""The command line that the recipes of adaptation share, and what is checked of it before anything is trained."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from geomae.commands.options import CommonOptions, read_selectors
from geomae.config import AdaptConfig, PretrainConfig, load_config
from geomae.errors import ConfigError
from geomae.evaluation.finetune_task import check_head
from geomae.training.finetuning_config import FinetuneConfig


def options(
    text: str | None, *, trained: bool = True, finetuned: bool = False, **defaults: object
) -> argparse.ArgumentParser:
    """The command line of a recipe; `defaults` by name, chosen for the sample landscape.

    `trained`: the model to begin with is named or trained on the source; else the recipe brings its own.
    `finetuned`: the model learns the labels of the source.
    """
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--catalog", type=Path, default=Path("data_catalog.yaml"))
    parser.add_argument("--target", help="SELECTOR of the tiles to adapt to; no label is read")
    if trained:
        parser.add_argument("--source", help="SELECTOR of tiles of where the model comes from")
        parser.add_argument("--model", help="model folder or MLflow reference; default: trained on the source")
        parser.add_argument("--steps", type=int, default=150, help="of that training; the recipe `tiny` has 400")
        parser.add_argument("--set", action="append", default=[], help="KEY=VALUE of that training; repeatable")
    if finetuned:
        parser.add_argument("--task", help="classification, regression or segmentation: what the labels are for")
        parser.add_argument("--finetune-set", action="append", default=[], help="KEY=VALUE of the fine-tuning")
    parser.add_argument("--adapt-set", action="append", default=[], help="KEY=VALUE of the adaptation; repeatable")
    parser.add_argument("--probe-train", help="SELECTOR of labelled tiles that the linear probe learns from")
    parser.add_argument("--probe-test", help="SELECTOR of labelled tiles to ask it on")
    parser.add_argument("--cross-fit", type=int, help="folds of the groups, where both have the same")
    parser.add_argument("--min-class-rows", type=int, default=1, help="average over classes with so many test tiles")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tracking-uri")
    parser.add_argument("--experiment", default="geomae")
    parser.set_defaults(**({} if trained else {"source": None}), **defaults)
    return parser


def check(arguments: argparse.Namespace, common: CommonOptions) -> None:
    """Raise ConfigError or CatalogError for what is wrong: a typo must not wait for the training."""
    if (arguments.probe_train is None) != (arguments.probe_test is None):
        raise ConfigError("--probe-train and --probe-test: a probe needs both, labelled tiles to learn from and to ask")
    named = (arguments.source, arguments.target, arguments.probe_train, arguments.probe_test)
    read_selectors(common, *([one] for one in named if one is not None))
    if arguments.source is not None:
        load_config(PretrainConfig, "pretrain", "tiny", training_changes(arguments))
    if "finetune_set" in arguments:
        check_head(load_config(FinetuneConfig, "finetune", "tiny", arguments.finetune_set), arguments.task)
    load_config(AdaptConfig, "adapt", None, arguments.adapt_set)


def training_changes(arguments: argparse.Namespace, changes: Sequence[str] = ()) -> tuple[str, ...]:
    """What the training of the model changes in the recipe `tiny`."""
    return (f"steps={arguments.steps}", *changes, *arguments.set)
