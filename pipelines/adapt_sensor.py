"""Adapt a model of one sensor to another without labels: its spectral embedding accepts the new bands.

    uv run python -m pipelines.adapt_sensor --out runs/sensor

runs on sample landscapes (two_sensors.yaml): one with the bands of Sentinel-2, one with seven bands of HLS. On real
tiles, with DATA as the folder of their catalogue:

    uv run python -m pipelines.adapt_sensor --out runs/sensor --catalog DATA/catalog.yaml --steps 1000 \
        --source eurosat-ms --target hls-unlabelled@train --adapt-set steps=200 \
        --probe-train hls --probe-test eurosat-ms-coarse

Gives two tables of a probe that is trained on tiles of one sensor and tested on tiles of the other: with the shared
bands of both, and with all bands of each data set, which a spectral embedding accepts.
"""

from pathlib import Path

from pipelines.adaptation import Study, run
from pipelines.adaptation_options import options


def main() -> None:
    """Read the command line and run the steps."""
    parser = options(
        __doc__, catalog=Path(__file__).with_name("two_sensors.yaml"), source="sentinel-2", target="landsat",
        probe_train="landsat[domain=lowland]", probe_test="sentinel-2[domain=lowland]", adapt_set=["steps=60"],
        cross_fit=3,  # the sample landscapes are in the same place, so they share blocks
    )  # fmt: skip
    run("adapt_sensor", parser.parse_args(), steps)


def steps(study: Study) -> None:
    """Adapt a model of the source's sensor to the target's; measure the gap with both models, and the two tables."""
    labelled = (study.arguments.probe_train, study.arguments.probe_test)
    models = study.adapt(study.model("embedding=spectral"))
    study.gap(models)
    study.probe("probe-shared-bands", *labelled, models)
    study.probe("probe-all-bands", *labelled, models, own_bands=True)


if __name__ == "__main__":
    main()
