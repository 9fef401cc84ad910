"""Error by domain, and how it compares with that on the source: the first, label-free sign of a gap."""

from geomae.analysis.reconstruction_errors import ALL
from geomae.analysis.reconstruction_rows import Row
from geomae.catalog.splits import TRAIN
from geomae.reports.page import Cell, Section, Table
from geomae.workflows.compare_recon_outcome import Outcome
from geomae.workflows.compare_recon_score import MASKED
from geomae.workflows.compare_recon_tables import place_of


def domains(outcome: Outcome) -> list[Section]:
    """Tables with a line per domain and a column per model; none where there is a single domain.

    The source is the domain with most tiles of the first selection; of its train split, where that has a part in it.
    """
    mask = outcome.masks[0]
    rows = outcome.of(pixels=MASKED, metric="rmse", band=ALL, masking=mask.kind, mask_ratio=mask.ratio)
    told_apart = {(row["dataset"], row["split"]) for row in rows if row["domain"] != ALL}
    places = [row for row in rows if row["domain"] != ALL or (row["dataset"], row["split"]) not in told_apart]
    by_place: dict[str, list[Row]] = {}  # of every model, in the order in which they were named
    for row in places:
        by_place.setdefault(place_of(row), []).append(row)
    if len(by_place) < 2:
        return []
    first = [row for row in places if row["dataset"] == places[0]["dataset"]]
    trained = [row for row in first if row["split"] == TRAIN]
    named = [row for row in first if row["split"] == places[0]["split"]]
    source = place_of(max(trained or named, key=lambda row: row["n_tiles"]))
    errors: list[list[Cell]] = []
    ratios: list[list[Cell]] = []
    for place, found in by_place.items():
        unit = str(found[0]["unit"]).replace("_", " ")
        errors.append([place, *(row["value"] for row in found), unit, found[0]["n_tiles"]])
        against = [_ratio(row, base) for row, base in zip(found, by_place[source], strict=True)]
        ratios.append([place, *against, found[0]["n_tiles"], found[0]["n_groups"]])
    text = (
        f"The source is {source}. A ratio above 1 says that a model reconstructed these tiles worse than those of the "
        "source: a sign of a gap that needs no label. It has no interval; of few groups it says little. Domains also "
        "differ in how hard they are: compare a model's ratio with those of the baselines, which were trained on none.",
    )
    caption = f"masked pixels, {mask}, mean over bands."
    tables = (
        Table(f"Target / source: ratio of RMSE, {caption}", ("domain", *outcome.labels, "tiles", "groups"), ratios),
        Table(f"RMSE, {caption}", ("domain", *outcome.labels, "unit", "number of tiles"), errors),
    )
    return [Section("By domain", text, tables)]


def _ratio(row: Row, source: Row) -> float | None:
    """How an error compares with that on the source, where both have one unit."""
    return float(row["value"] / source["value"]) if row["unit"] == source["unit"] and source["value"] > 0 else None
