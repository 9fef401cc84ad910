"""What a comparison says in sentences: which model is better where, and where the data cannot tell."""

from collections.abc import Iterator, Sequence

from geomae.analysis.reconstruction_errors import ALL
from geomae.analysis.reconstruction_rows import Row
from geomae.workflows.compare_recon_score import MASKED
from geomae.workflows.compare_recon_tables import place_of

MOST_PLACES = 4  # that the first sentence of a report names


def lead(values: Sequence[Row]) -> str:
    """The model with the least error in each place, in a sentence or two."""
    won: dict[str, list[str]] = {}
    places = _by_place(values)
    for where, rows in list(places.items())[:MOST_PLACES]:
        best = min(rows, key=lambda row: float(row["value"]))
        won.setdefault(best["model"], []).append(f"{where}: RMSE {_figure(best['value'])} {_unit(best)}")
    sentences = [f"{model} has the least error on {'; on '.join(found)}." for model, found in won.items()]
    return " ".join([*sentences, "More below."] if len(places) > MOST_PLACES else sentences)


def comparisons(differences: Sequence[Row]) -> tuple[str, ...]:
    """What is said of every model beside the first, a text for each choice of tiles and mask."""
    texts = []
    for where, rows in _by_place(differences).items():
        whole = [row for row in rows if row["group"] == ALL]
        verdicts = "; ".join(_verdicts(whole, [row for row in rows if row["group"] != ALL]))
        few = any(row["low"] is None for row in whole)
        note = f" Its {whole[0]['n_groups']} groups are too few for an interval." if few else ""
        texts.append(f"{where}, RMSE in {_unit(whole[0])} beside {whole[0]['reference']}: {verdicts}.{note}")
    return tuple(texts)


def counted(rows: Sequence[Row]) -> list[Row]:
    """The rows that are told in words: RMSE of masked pixels, mean over bands, all domains together."""
    fixed = {"pixels": MASKED, "metric": "rmse", "band": ALL, "domain": ALL}
    return [row for row in rows if all(row[key] == value for key, value in fixed.items())]


def _verdicts(whole: Sequence[Row], grouped: Sequence[Row]) -> Iterator[str]:
    """How each model compares with the first in RMSE, mean over bands."""
    for row in whole:
        model, difference = row["model"], row["difference"]
        more = f"{'less' if difference < 0 else 'more'} by {_figure(abs(difference))}"
        if row["low"] is not None:
            interval = f"95 % interval of the difference {_figure(row['low'])} to {_figure(row['high'])}"
            unclear = row["low"] <= 0 <= row["high"]
            yield f"{model} cannot be told apart ({interval})" if unclear else f"{model} errs {more} ({interval})"
        elif difference == 0:
            yield f"{model} errs as much"
        else:
            groups = [one["difference"] for one in grouped if one["model"] == model]
            agree = sum((one < 0) == (difference < 0) for one in groups)
            yield f"{model} errs {more}, and so it does in {agree} of {len(groups)} groups"


def _by_place(rows: Sequence[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in counted(rows):
        found.setdefault(f"{place_of(row)} ({row['masking']} {row['mask_ratio']:g})", []).append(row)
    return found


def _figure(value: float) -> str:
    return f"{value:.3g}"


def _unit(row: Row) -> str:
    return str(row["unit"]).replace("_", " ")
