"""`geomae catalog stats`: count, mean, standard deviation, minimum and maximum of every band, in physical units."""

from collections.abc import Sequence
from typing import Any

from geomae.commands.options import (
    CatalogFile,
    CommonOptions,
    DatasetList,
    Out,
    Quiet,
    exit_with,
    new_output_folder,
    next_command,
    write_catalog_summary,
)

FIGURES = ("mean", "std", "min", "max")


def stats(catalog: CatalogFile = None, dataset: DatasetList = None, out: Out = None, quiet: Quiet = False) -> None:
    """Statistics of every band over valid pixels, of the train split unless the selector names another.

    They can differ from those of a training run, which excludes the tiles that it holds out for validation.
    """
    exit_with(lambda: run(CommonOptions(catalog=catalog, out=out, quiet=quiet), dataset or ()))


def run(common: CommonOptions, datasets: Sequence[str]) -> int:
    """Compute the statistics of each band and write `stats.json` and `summary.json` to `out`.

    Only valid pixels count, of the train split unless a selector names another. A training run excludes the tiles that
    it holds out for validation, so its statistics can differ. `stats.json` has one record for each data set (with the
    conditions of its selector) and split: unit, number of tiles and bands. Returns the exit code.
    """
    from geomae.catalog import band_units, resolve_selectors

    folder = new_output_folder("catalog-stats", common.out)
    catalog = common.open_catalog()
    selectors = resolve_selectors(catalog, datasets, "train")

    from geomae.files import write_json
    from geomae.runtime.console import Screen
    from geomae.tiles.selection import build_indexes

    screen = Screen(not common.quiet)
    indexes = build_indexes(catalog, selectors, screen.step, screen.warn)
    screen.close()
    chosen = [(one, indexes[one.dataset].select(one)) for one in selectors]

    records: dict[str, dict[str, Any]] = {}
    metrics: dict[str, float] = {}
    for selector, index in chosen:
        split = selector.split or "all"
        name = str(selector).removesuffix(f"@{split}")
        source, statistics = index.source, index.statistics().to_dict()
        measured: Any = statistics["bands"]
        units = zip(measured, band_units(catalog, source), strict=True)
        bands = {band: {"unit": unit, **measured[band]} for band, unit in units}
        record = {"sensor": source.sensor, "unit": source.unit, "tiles": len(index), "digest": statistics["digest"]}
        records.setdefault(name, {})[split] = record | {"bands": bands}
        metrics[f"{name}@{split}/tiles"] = len(index)
        for band, values in bands.items():
            if values["count"]:
                metrics |= {f"{name}@{split}/{band}/{key}": values[key] for key in ("mean", "std")}
            else:
                screen.warn(f"{name}@{split}: {band} has no valid pixel, so no statistics; leave the band out (null)")
        rows = [
            [band, values["unit"], str(values["count"]), *(_figure(values[key]) for key in FIGURES)]
            for band, values in bands.items()
        ]
        title = f"{name}, split {split}, {len(index)} tiles, valid pixels"
        screen.table(title, ["band", "unit", "count", *FIGURES], rows)
    write_json(folder / "stats.json", records)
    write_catalog_summary(folder, "catalog stats", catalog, selectors, metrics)
    screen.result(f"written to {folder}")
    screen.say(next_command("catalog stats", common, dataset=selectors[0]))
    return 0


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.5g}"
