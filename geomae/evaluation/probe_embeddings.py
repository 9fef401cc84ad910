"""Embeddings of a probe's tiles, with those of its test tiles behind each radiometric method."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from geomae.catalog import Catalog
from geomae.encoders import EncoderSpec
from geomae.encoders.extraction import Progress
from geomae.encoders.selections import ByDataset, Embeddings, EncoderLoader, MappedTiles, embed_specs
from geomae.errors import ConfigError
from geomae.evaluation.probe_task import ProbeTask
from geomae.runtime.devices import Compute
from geomae.runtime.signals import Stop
from geomae.tiles.radiometry import RADIOMETRY, Radiometry
from geomae.tiles.radiometry_fits import fit_radiometry, mapped, reason_against

Fitted = dict[tuple[str, str], Radiometry]  # by method and test set


def usable_radiometry(task: ProbeTask, named: Sequence[str], say: Callable[[str], None]) -> dict[tuple[str, str], bool]:
    """The radiometric methods that can be fitted, by method and test set, and whether the user `named` them.

    `say` is called with the reason for every other one. Raises ConfigError where one that was named cannot be fitted.
    """
    usable = {}
    for method in (one for one in RADIOMETRY if one in task.settings.alignments):
        for test in task.tests:
            reason = reason_against(method, task.train.selected, test.selected)
            if reason is None:
                usable[method, test.name] = method in named
            elif method in named:
                raise ConfigError(f"--align {method}: {reason}; leave it out")
            else:
                say(f"{method} is left out: {reason}")
    return usable


def fit_usable(task: ProbeTask, usable: Mapping[tuple[str, str], bool], say: Callable[[str], None]) -> Fitted:
    """Fit every usable radiometry to all tiles of both sides, without labels; by method and test set.

    Raises ConfigError where one that the user named cannot be fitted; `say` is called with the others that cannot, and
    with the data of each fit.
    """
    tests = {test.name: test.selected for test in task.tests}
    fitted = {}
    for (method, test), named in usable.items():
        try:
            radiometry = fit_radiometry(method, task.train.selected, tests[test], task.settings.seed)
        except ConfigError as error:
            if named:
                raise
            say(f"{method} is left out: {error}")
            continue
        say(f"{method} of {test}: {radiometry.about}")
        fitted[method, test] = radiometry
    return fitted


def embed_task(
    compute: Compute,
    catalog: Catalog,
    task: ProbeTask,
    specs: Sequence[EncoderSpec],
    trained: Mapping[str, ByDataset],
    loader: EncoderLoader,
    usable: Mapping[tuple[str, str], bool],
    out: Path,
    stop: Stop,
    progress: Progress,
    say: Callable[[str], None],
) -> dict[str, Embeddings]:
    """The embeddings of the task's tiles by label, and of test tiles mapped by each radiometry; fewer after `stop`.

    Stores are written below `out`, for a radiometry as METHOD-testN. Raises and says what `fit_usable` does.
    """
    fitted = fit_usable(task, usable, say)
    each = embed_specs(compute, catalog, specs, trained, loader, out, stop, progress)
    embeddings = {one.label: one for one in each}
    return embed_mapped(compute, catalog, task, specs, embeddings, loader, fitted, out, stop, progress)


def embed_mapped(
    compute: Compute,
    catalog: Catalog,
    task: ProbeTask,
    specs: Sequence[EncoderSpec],
    embeddings: Mapping[str, Embeddings],
    loader: EncoderLoader,
    fitted: Fitted,
    out: Path,
    stop: Stop | None,
    progress: Progress,
) -> dict[str, Embeddings]:
    """`embeddings` of a task's tiles by label, each with those of the test tiles mapped by each radiometry."""
    tests = {test.name: (number, test.selected) for number, test in enumerate(task.tests)}
    behind: dict[str, dict[tuple[str, str], MappedTiles]] = {label: {} for label in embeddings}
    for (method, test), radiometry in fitted.items() if stop is None or not stop.signal else ():
        number, selected = tests[test]
        there = loader.of_others([mapped(selected, radiometry)])
        folder = out / f"{method}-test{number}"
        for one in embed_specs(compute, catalog, specs, there.load_trained(specs), there, folder, stop, progress):
            behind[one.label][method, test] = MappedTiles(radiometry, one)
    return {label: replace(one, mapped=behind[label]) for label, one in embeddings.items()}
