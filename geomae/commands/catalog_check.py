"""`geomae catalog check`: whether the catalogue is valid and its files are sound, and how many tiles they give."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from geomae.commands.options import (
    CatalogFile,
    CommonOptions,
    DatasetList,
    Devices,
    Nodes,
    Out,
    Quiet,
    exit_with,
    new_output_folder,
    next_command,
    write_catalog_summary,
)
from geomae.errors import CatalogError
from geomae.runtime.ranks import alone, leads

if TYPE_CHECKING:
    from geomae.rasters.work_share import WorkShare


def check(
    catalog: CatalogFile = None,
    dataset: DatasetList = None,
    out: Out = None,
    devices: Devices = 1,
    nodes: Nodes = 1,
    quiet: Quiet = False,
) -> None:
    """Validate a catalogue, audit its files and count its tiles (all data sets, unless --dataset says which)."""
    common = CommonOptions(catalog=catalog, out=out, devices=devices, nodes=nodes, quiet=quiet)
    exit_with(lambda: run(common, dataset or ()))


def run(common: CommonOptions, datasets: Sequence[str]) -> int:
    """Check the chosen data sets (default: all) and write `audit.json` and `summary.json` to `out`.

    Quarantined scenes are reported and are no error. If a data set cannot be used, the others are still checked, and
    then the first such error is raised. If no data set could be examined, nothing is written.
    """
    from geomae.catalog import resolve_selectors

    folder = new_output_folder("catalog-check", common.out) if leads() else Path()
    catalog = common.open_catalog()
    selectors = resolve_selectors(catalog, datasets or tuple(catalog.entries), None)
    share = share_work(common)

    from geomae.commands.catalog_check_report import audit_record, show_check, summary_metrics
    from geomae.files import write_json
    from geomae.rasters.work_share import reading_threads
    from geomae.runtime.console import Screen
    from geomae.tiles.dataset_check import check_dataset

    screen = Screen(not common.quiet and share.leads)
    threads = reading_threads(common.devices)
    checks = {}
    for name in dict.fromkeys(one.dataset for one in selectors):
        checks[name] = check_dataset(catalog, name, threads=threads, share=share, progress=screen.step)
        screen.close()
    checked = {str(one): checks[one.dataset].select(one) for one in selectors}
    failed = {name: one.error for name, one in checked.items() if one.error is not None}
    if failed and all(one.report is None for one in checked.values()):
        raise next(iter(failed.values()))
    if not share.leads:
        return 0

    write_json(folder / "audit.json", {name: audit_record(catalog, one) for name, one in checked.items()})
    metrics = {f"{name}/{key}": value for name, one in checked.items() for key, value in summary_metrics(one).items()}
    error = None
    if failed:
        those = f"{len(failed)} of {len(checked)} data sets cannot be used: {', '.join(failed)}"
        error = f"{next(iter(failed.values()))} ({those}; see {folder / 'audit.json'})"
    write_catalog_summary(folder, "catalog check", catalog, selectors, metrics, error)
    for name, one in checked.items():
        show_check(screen, catalog, name, one)
    screen.result(f"written to {folder}")
    if error is not None:
        raise CatalogError(error)
    screen.say(next_command("catalog check", common, dataset=selectors[0]))
    return 0


def share_work(common: CommonOptions) -> "WorkShare":
    """The share of the files that this process reads.

    Fabric starts further processes, or connects those that a scheduler started. A single process needs no torch.
    """
    from geomae.rasters.work_share import ALONE, WorkShare

    if alone() and common.devices == common.nodes == 1:
        return ALONE
    from geomae.runtime.devices import build_fabric, gather_objects, launch

    fabric = build_fabric("cpu", common.devices, common.nodes, "auto")
    launch(fabric)
    return WorkShare(fabric.global_rank, fabric.world_size, partial(gather_objects, fabric))
