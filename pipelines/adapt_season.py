"""Adapt a model of one season to another without labels, align features, and measure before and after.

    uv run python -m pipelines.adapt_season --out runs/season

runs on the sample landscape, from its lowland in summer to its dryland in the dry season (their labels share too few
classes for a probe). On real tiles of sites with both seasons, with DATA as the folder of their catalogue:

    uv run python -m pipelines.adapt_season --out runs/season --catalog DATA/catalog.yaml \
        --source 'hls-unlabelled[season=brown]' --target 'hls-unlabelled[season=green]' --steps 1000 \
        --adapt-set steps=200 --probe-train 'hls-seasons[season=brown]' --probe-test 'hls-seasons[season=green]' \
        --cross-fit 3

Both seasons have the same sites, so each site is tested by a probe that was trained without it (--cross-fit). The class
shares are about equal, so an alignment of features can help.
"""

from pipelines.adaptation import Study, run
from pipelines.adaptation_options import options


def main() -> None:
    """Read the command line and run the steps."""
    parser = options(__doc__, source="landscape[season=summer]", target="landscape[season=dry]", adapt_set=["steps=60"])
    run("adapt_season", parser.parse_args(), steps)


def steps(study: Study) -> None:
    """Train or load a model of the source, adapt it to the target, and measure gap and probe with both models."""
    labelled = (study.arguments.probe_train, study.arguments.probe_test)
    models = study.adapt(study.model(), *labelled)
    study.gap(models)
    study.probe("probe", *labelled, models)


if __name__ == "__main__":
    main()
