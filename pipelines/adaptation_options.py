"""The command line of the recipes of adaptation, and its checks before any training."""

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

    `trained`: the initial model is named or trained on the source; otherwise the recipe provides one.
    `finetuned`: the model is fine-tuned with the labels of the source.
    """
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--catalog", type=Path, default=Path("data_catalog.yaml"))
    parser.add_argument("--target", help="SELECTOR of the tiles to adapt to; their labels are not used")
    if trained:
        parser.add_argument("--source", help="SELECTOR of tiles of the model's source domain")
        parser.add_argument("--model", help="model folder or MLflow reference; default: trained on the source")
        parser.add_argument("--steps", type=int, default=150, help="steps of that training; the recipe `tiny` has 400")
        parser.add_argument("--set", action="append", default=[], help="KEY=VALUE of that training; repeatable")
    if finetuned:
        parser.add_argument("--task", help="classification, regression or segmentation")
        parser.add_argument("--finetune-set", action="append", default=[], help="KEY=VALUE of the fine-tuning")
    parser.add_argument("--adapt-set", action="append", default=[], help="KEY=VALUE of the adaptation; repeatable")
    parser.add_argument("--probe-train", help="SELECTOR of labelled tiles to train the linear probe on")
    parser.add_argument("--probe-test", help="SELECTOR of labelled tiles to test it on")
    parser.add_argument("--cross-fit", type=int, help="number of folds of groups, if both have the same groups")
    parser.add_argument("--min-class-rows", type=int, default=1, help="least number of test tiles for a class to count")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tracking-uri")
    parser.add_argument("--experiment", default="geomae")
    parser.set_defaults(**({} if trained else {"source": None}), **defaults)
    return parser


def check(arguments: argparse.Namespace, common: CommonOptions) -> None:
    """Raise ConfigError or CatalogError for wrong options, before any training begins."""
    if (arguments.probe_train is None) != (arguments.probe_test is None):
        raise ConfigError("--probe-train and --probe-test: a probe needs labelled tiles for training and for testing")
    named = (arguments.source, arguments.target, arguments.probe_train, arguments.probe_test)
    read_selectors(common, *([one] for one in named if one is not None))
    if arguments.source is not None:
        load_config(PretrainConfig, "pretrain", "tiny", training_changes(arguments))
    if "finetune_set" in arguments:
        check_head(load_config(FinetuneConfig, "finetune", "tiny", arguments.finetune_set), arguments.task)
    load_config(AdaptConfig, "adapt", None, arguments.adapt_set)


def training_changes(arguments: argparse.Namespace, changes: Sequence[str] = ()) -> tuple[str, ...]:
    """The changes to the recipe `tiny` for the training of the initial model."""
    return (f"steps={arguments.steps}", *changes, *arguments.set)
