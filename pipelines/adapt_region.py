"""Adapt a model of one region to another without labels, and measure gap and probe before and after.

    uv run python -m pipelines.adapt_region --out runs/region

runs on the sample landscape, from its lowland to its dryland (their labels share too few classes for a probe). On real
tiles of two regions, with DATA as the folder of their catalogue:

    uv run python -m pipelines.adapt_region --out runs/region --catalog DATA/catalog.yaml \
        --source hls-unlabelled@train --target hls-unlabelled@test_far --steps 1000 --adapt-set steps=200 \
        --probe-train hls@train --probe-test hls@test_far --min-class-rows 15

Regions differ in class shares, so an alignment of features can do harm; the table of the probe shows all alignments.
"""

from pipelines.adaptation import Study, run
from pipelines.adaptation_options import options


def main() -> None:
    """Read the command line and run the steps."""
    parser = options(
        __doc__, source="landscape[domain=lowland]", target="landscape[domain=dryland]", adapt_set=["steps=60"]
    )
    run("adapt_region", parser.parse_args(), steps)


def steps(study: Study) -> None:
    """Train or load a model of the source, adapt it to the target, and measure gap and probe with both models."""
    labelled = (study.arguments.probe_train, study.arguments.probe_test)
    models = study.adapt(study.model(), *labelled)
    study.gap(models)
    study.probe("probe", *labelled, models)


if __name__ == "__main__":
    main()
