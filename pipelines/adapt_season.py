"""A model and a probe of one season meet another: adapt without labels, align the features, measure before and after.

    uv run python -m pipelines.adapt_season --out runs/season

runs on the drawn landscape, from its lowland in summer to its dryland in the dry season (their labels share too few
classes for a probe). On real tiles of sites that were seen in both seasons, DATA being the folder of their catalogue:

    uv run python -m pipelines.adapt_season --out runs/season --catalog DATA/catalog.yaml \
        --source 'hls-unlabelled[season=brown]' --target 'hls-unlabelled[season=green]' --steps 1000 \
        --adapt-set steps=200 --probe-train 'hls-seasons[season=brown]' --probe-test 'hls-seasons[season=green]' \
        --cross-fit 3

Seasons share their sites, so that a site is asked of a probe that was trained without it (--cross-fit), and classes
are about as frequent in one as in the other: an alignment of the features has a chance.
"""

from pipelines.adaptation import Study, run
from pipelines.adaptation_options import options


def main() -> None:
    """Read the command line and take the steps."""
    parser = options(__doc__, source="landscape[season=summer]", target="landscape[season=dry]", adapt_set=["steps=60"])
    run("adapt_season", parser.parse_args(), steps)


def steps(study: Study) -> None:
    """A model of the source, adapted to the target; the gap between the two in both models, and the probe."""
    labelled = (study.arguments.probe_train, study.arguments.probe_test)
    models = study.adapt(study.model(), *labelled)
    study.gap(models)
    study.probe("probe", *labelled, models)


if __name__ == "__main__":
    main()
