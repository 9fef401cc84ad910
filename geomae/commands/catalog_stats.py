"""`geomae catalog stats`: count, mean, standard deviation, minimum and maximum of every band, in physical units."""

from pathlib import Path
from typing import Any

import numpy as np

from geomae.commands.catalog_tiles import band_units, resolve, select_all
from geomae.files import write_json
from geomae.runtime.console import Screen


def run(catalog: Path | None, datasets: tuple[str, ...], out: Path | None, *, quiet: bool) -> int:
    """Compute the statistics of each band; `stats.json` and `summary.json` are left in `out`.

    Only valid pixels count, of the train split unless a selector says otherwise. Training leaves out of its own
    statistics the tiles that it holds out for validation, so that they can differ from these. `stats.json` has, by data
    set (with the conditions of its selector) and split, a record with unit, number of tiles and bands. Returns the exit
    code.
    """
    screen = Screen(not quiet)
    request = resolve("catalog stats", catalog, datasets, out, split="train")
    records: dict[str, dict[str, Any]] = {}
    metrics: dict[str, float] = {}
    for selector, index in select_all(request, screen):
        split = selector.split or "all"
        name = str(selector).removesuffix(f"@{split}")
        source = index.source
        units = band_units(request.catalog, source)
        names = [band.name for band in source.bands]
        found = index.survey.statistics(names, np.arange(len(index))).to_dict()
        bands: dict[str, dict[str, Any]] = dict(found["bands"])  # type: ignore[call-overload]
        for band, unit in zip(names, units, strict=True):
            bands[band] = {"unit": unit, **bands[band]}
        record = {"sensor": source.sensor, "unit": source.unit, "tiles": len(index), "digest": found["digest"]}
        records.setdefault(name, {})[split] = record | {"bands": bands}
        metrics[f"{name}@{split}/tiles"] = len(index)
        for band, values in bands.items():
            metrics |= {f"{name}@{split}/{band}/{key}": values[key] for key in ("mean", "std")}
        header = ["band", "unit", "count", "mean", "std", "min", "max"]
        rows = [
            [band, values["unit"], str(values["count"]), *(_figure(values[key]) for key in header[3:])]
            for band, values in bands.items()
        ]
        screen.table(f"{name}, split {split}, {len(index)} tiles, valid pixels", header, rows)
    write_json(request.out / "stats.json", records)
    request.write_summary(metrics)
    screen.result(f"written to {request.out}")
    return 0


def _figure(value: float) -> str:
    return f"{value:.5g}" if np.isfinite(value) else ""
