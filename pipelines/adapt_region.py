"""A model and a probe of one region meet another: adapt without labels, and measure before and after.

    uv run python -m pipelines.adapt_region --out runs/region

runs on the drawn landscape, from its lowland to its dryland (their labels share too few classes for a probe). On real
tiles of two regions, DATA being the folder of their catalogue:

    uv run python -m pipelines.adapt_region --out runs/region --catalog DATA/catalog.yaml \
        --source hls-unlabelled@train --target hls-unlabelled@test_far --steps 1000 --adapt-set steps=200 \
        --probe-train hls@train --probe-test hls@test_far --min-class-rows 15

Regions differ in their classes' shares, so that an alignment of the features can do harm; the probe's table has all.
"""

from pipelines.adaptation import Study, run
from pipelines.adaptation_options import options


def main() -> None:
    """Read the command line and take the steps."""
    parser = options(
        __doc__, source="landscape[domain=lowland]", target="landscape[domain=dryland]", adapt_set=["steps=60"]
    )
    run("adapt_region", parser.parse_args(), steps)


def steps(study: Study) -> None:
    """A model of the source, adapted to the target; the gap between the two in both models, and the probe."""
    labelled = (study.arguments.probe_train, study.arguments.probe_test)
    models = study.adapt(study.model(), *labelled)
    study.gap(models)
    study.probe("probe", *labelled, models)


if __name__ == "__main__":
    main()
