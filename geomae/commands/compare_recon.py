"""`geomae compare-recon`: reconstructions of several models on the same tiles under the same masks."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from geomae.commands.options import (
    ONE_DEVICE,
    CommonOptions,
    Datasets,
    command,
    next_command,
    output_folder,
    read_selectors,
)
from geomae.errors import ConfigError, nearest

if TYPE_CHECKING:
    from geomae.catalog import Selector
    from geomae.evaluation.reconstruction_masks import MaskKind


@dataclass(frozen=True)
class CompareReconOptions:
    """The options of the command."""

    models: Annotated[
        tuple[str, ...],
        typer.Option(
            "--model",
            help="[LABEL=]MODEL: a model folder, mlflow:RUN_ID, models:/NAME/VERSION, or baseline:mean, nearest, idw "
            "(idw?power=P; 2) or biharmonic; repeatable, all others are compared with the first.",
        ),
    ] = ()
    datasets: Datasets = ()
    ratios: Annotated[
        str, typer.Option("--mask-ratio", help="Fractions of a tile that are hidden, as 0.75,0.5,0.9.")
    ] = "0.75"
    kinds: Annotated[str, typer.Option("--masking", help="Kinds of masks: random, block, grid; as random,block.")] = (
        "random"
    )
    tiles: Annotated[int, typer.Option(min=1, help="Maximum number of tiles per selection, drawn by the seed.")] = 256
    show: Annotated[
        str, typer.Option(help="Tiles to draw: best, median, worst, random:N and tile ids, separated by commas.")
    ] = "best,median,worst,random:4"
    scenes: Annotated[int, typer.Option(min=0, help="Maximum number of scenes to map per data set; 0: no maps.")] = 4
    common: CommonOptions = field(default_factory=CommonOptions)

    def params(self) -> dict[str, Any]:
        """The settings that the result depends on, as JSON."""
        return {"tiles": self.tiles, "show": self.show, "scenes": self.scenes}


def run(options: CompareReconOptions) -> int:
    """Compare the models; write tables, pictures, maps and a report. Returns the exit code."""
    (selectors,) = read_selectors(options.common, options.datasets)
    from geomae.commands.session import open_session

    check_no_tile_twice(selectors)
    request = {"command": "compare-recon", "dataset": [str(one) for one in selectors], **options.params()}
    session = open_session(options.common, "geomae compare-recon", request)
    selections = session.select(selectors)
    # Slow imports (torch takes seconds) follow the selection of tiles, which does not need them.
    from geomae.commands.run import AnalysisRun, selection_record
    from geomae.evaluation.reconstruction import fit_candidates, load_candidates
    from geomae.evaluation.reconstruction_comparison import TilesToShow, compare_reconstructions
    from geomae.evaluation.reconstruction_maps import MapOptions, write_scene_maps

    masks, show = parse_masks(options.kinds, options.ratios), TilesToShow.parse(options.show)
    candidates = load_candidates(options.models, session.fabric.device, options.common.tracking_uri)
    show.check([tile_id for one in selections for tile_id in one.index.tiles["tile_id"].tolist()])
    fitted = [fit_candidates(candidates, one, session.compute) for one in selections]
    if options.common.dry_run:
        from geomae.commands.compare_recon_report import describe_dry_run

        describe_dry_run(session, candidates, selections, masks, options.tiles)
        return 0
    params = {
        "catalog": str(session.catalog.path.absolute()),
        "dataset": [one.name for one in selections],
        "data_digest": [one.digest() for one in selections],
        "model": {one.label: one.reference.text for one in candidates},
        "model_digest": {one.label: one.digest() for one in candidates},
        "masks": [str(mask) for mask in masks],
        **options.params(),
        "precision": session.precision,
    }
    out, seed = output_folder("compare-recon", options.common.out), options.common.seed
    with AnalysisRun("compare-recon", options.common, params, session.screen, out) as run_:
        made_by = {f"geomae.model_run.{one.label}": run_id for one in candidates if (run_id := one.made_by())}
        run_.track([selection_record(session.catalog, one) for one in selections], made_by)
        result = compare_reconstructions(fitted, masks, options.tiles, seed, run_.step)
        from geomae.commands.compare_recon_report import draw_panels, write_results, write_tables  # imports matplotlib

        tables = write_tables(out, result)  # before drawing, which may fail
        maps = write_scene_maps(
            out, result.scores, MapOptions(masks[0].ratio, options.scenes, options.tiles, seed), run_.step,
            session.screen.say,
        )  # fmt: skip
        panels = draw_panels(out, result, show, session.screen.say)
        write_results(run_, session, candidates, result, tables, panels, maps)
        session.screen.say(next_command("compare-recon", options.common, out=out))
    return 0


compare_recon = command(run, "Compare reconstructions of models on the same tiles under the same masks.", ONE_DEVICE)


def parse_masks(kinds: str, ratios: str) -> "list[MaskKind]":
    """Every combination of kind (as `random,block`) and ratio (as `0.75,0.5`). Raises ConfigError for unknown ones."""
    from geomae.evaluation.reconstruction_masks import KINDS, MaskKind

    names = [one.strip() for one in kinds.split(",")]
    for kind in names:
        if kind not in KINDS:
            raise ConfigError(f"--masking {kind}: {nearest(kind, KINDS)}")
    shares = []
    for text in ratios.split(","):
        try:
            shares.append(float(text))
        except ValueError:
            shares.append(0.0)
        if not 0 < shares[-1] < 1:
            raise ConfigError(f"--mask-ratio {text}: give fractions between 0 and 1, as 0.75,0.5")
    return list(dict.fromkeys(MaskKind(kind, ratio) for kind in names for ratio in shares))


def check_no_tile_twice(selectors: "Sequence[Selector]") -> None:
    """Raise ConfigError if one selection contains the tiles of another."""
    for one in selectors:
        whole = replace(one, split=None)
        if one != whole and whole in selectors:
            raise ConfigError(f"--dataset {one}: its tiles are among those of {whole}; name only one of the two")
