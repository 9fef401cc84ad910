"""`geomae catalog check`: is the catalogue valid, are its files sound, and which tiles come of it."""

from collections.abc import Sequence

from geomae.commands.options import (
    CatalogFile,
    CommonOptions,
    Datasets,
    Out,
    Quiet,
    exit_with,
    new_output_folder,
    next_command,
    write_catalog_summary,
)
from geomae.errors import CatalogError

READERS = 2  # threads


def check(catalog: CatalogFile = None, dataset: Datasets = None, out: Out = None, quiet: Quiet = False) -> None:
    """Validate a catalogue, audit its files and count its tiles (all data sets, unless --dataset says which)."""
    exit_with(lambda: run(CommonOptions(catalog=catalog, out=out, quiet=quiet), dataset or ()))


def run(common: CommonOptions, datasets: Sequence[str]) -> int:
    """Check the data sets that are chosen, else all; `audit.json` and `summary.json` are left in `out`.

    Scenes that the audit quarantines are reported and no error. Raises the first error of a data set that cannot be
    used, after the others were checked; nothing is written where none could be looked into.
    """
    from geomae.catalog import resolve_selectors

    folder = new_output_folder("catalog-check", common.out)
    catalog = common.open_catalog()
    selectors = resolve_selectors(catalog, datasets or tuple(catalog.entries), None)

    from geomae.commands.catalog_check_report import audit_record, show_check, summary_metrics
    from geomae.files import write_json
    from geomae.runtime.console import Screen
    from geomae.tiles.index import check_dataset

    screen = Screen(not common.quiet)
    checks = {}
    for name in dict.fromkeys(one.dataset for one in selectors):
        checks[name] = check_dataset(catalog, name, threads=READERS, progress=screen.step)
        screen.close()
    checked = {str(one): checks[one.dataset].select(one) for one in selectors}
    failed = {name: one.error for name, one in checked.items() if one.error is not None}
    if failed and all(one.report is None for one in checked.values()):
        raise next(iter(failed.values()))

    write_json(folder / "audit.json", {name: audit_record(catalog, one) for name, one in checked.items()})
    metrics = {f"{name}/{key}": value for name, one in checked.items() for key, value in summary_metrics(one).items()}
    error = None
    if failed:
        share = f"{len(failed)} of {len(checked)} data sets cannot be used: {', '.join(failed)}"
        error = f"{next(iter(failed.values()))} ({share}; see {folder / 'audit.json'})"
    write_catalog_summary(folder, "catalog check", catalog, selectors, metrics, error)
    for name, one in checked.items():
        show_check(screen, catalog, name, one)
    screen.result(f"written to {folder}")
    if error is not None:
        raise CatalogError(error)
    screen.say(next_command("catalog check", common, dataset=selectors[0]))
    return 0
