"""What a comparison says in sentences: which model is better where, and where the data cannot tell."""

from collections.abc import Sequence

from geomae.analysis.reconstruction_errors import ALL
from geomae.analysis.reconstruction_rows import Row
from geomae.workflows.compare_recon_score import MASKED
from geomae.workflows.compare_recon_tables import place_of


def lead(differences: Sequence[Row], values: Sequence[Row]) -> str:
    """The least error in each place, in a sentence or two."""
    parts = []
    for (place, mask), rows in _by_place(values).items():
        best = min(rows, key=lambda row: float(row["value"]))
        parts.append(
            f"{best['model']} has the least error on {place} ({mask}): RMSE {_figure(best['value'])} {_unit(best)}"
        )
    return ". ".join(parts[:4]) + "." + (" More below." if len(parts) > 4 else "")


def comparisons(differences: Sequence[Row], values: Sequence[Row]) -> tuple[str, ...]:
    """A sentence for every model but the first, on each choice of tiles and mask."""
    whole = [row for row in counted(differences) if row["group"] == ALL]
    sentences = []
    for row in whole:
        where = f"{place_of(row)} ({row['masking']} {row['mask_ratio']:g})"
        groups = [
            one["difference"]
            for one in counted(differences)
            if one["group"] != ALL and _same(one, row, ("model", "dataset", "split", "masking", "mask_ratio"))
        ]
        sentences.append(f"{where}: {row['model']} {_verdict(row, groups)}.")
    return tuple(sentences)


def _verdict(row: Row, groups: Sequence[float]) -> str:
    """How the model compares with the first in RMSE, mean over bands."""
    difference, first, unit = row["difference"], row["reference"], _unit(row)
    way = "less" if difference < 0 else "more"
    size = f"by {_figure(abs(difference))} {unit}"
    if row["low"] is not None:
        interval = f"95 % interval of the difference {_figure(row['low'])} to {_figure(row['high'])}"
        if row["low"] <= 0 <= row["high"]:
            return f"and {first} cannot be told apart ({interval})"
        return f"errs {way} than {first} {size} ({interval})"
    if difference == 0:
        return f"errs as much as {first}"
    agree = sum((one < 0) == (difference < 0) for one in groups)
    return (
        f"errs {way} than {first} {size}, and so it does in {agree} of {len(groups)} groups; these are too few for an "
        "interval"
    )


def counted(rows: Sequence[Row]) -> list[Row]:
    """The rows that are told in words: RMSE of masked pixels, mean over bands, all domains together."""
    fixed = {"pixels": MASKED, "metric": "rmse", "band": ALL, "domain": ALL}
    return [row for row in rows if all(row[key] == value for key, value in fixed.items())]


def _by_place(values: Sequence[Row]) -> dict[tuple[str, str], list[Row]]:
    found: dict[tuple[str, str], list[Row]] = {}
    for row in counted(values):
        found.setdefault((place_of(row), f"{row['masking']} {row['mask_ratio']:g}"), []).append(row)
    return found


def _same(one: Row, other: Row, keys: Sequence[str]) -> bool:
    return all(one[key] == other[key] for key in keys)


def _figure(value: float) -> str:
    return f"{value:.3g}"


def _unit(row: Row) -> str:
    return str(row["unit"]).replace("_", " ")
