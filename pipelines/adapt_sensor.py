"""A model of one sensor meets another: its spectral embedding takes the new bands, and learns them without labels.

    uv run python -m pipelines.adapt_sensor --out runs/sensor

runs on drawn landscapes (two_sensors.yaml): one with the bands of Sentinel-2, one with seven that HLS has too. On real
tiles, DATA being the folder of their catalogue:

    uv run python -m pipelines.adapt_sensor --out runs/sensor --catalog DATA/catalog.yaml --steps 1000 \
        --source eurosat-ms --target hls-unlabelled@train --adapt-set steps=200 \
        --probe-train hls --probe-test eurosat-ms-coarse

Two tables of a probe that learns from tiles of one sensor and is asked on tiles of the other: with both in the bands
that they share, and with each in all the bands that its data set declares, which a spectral embedding takes as it is.
"""

from pathlib import Path

from pipelines.adaptation import Study, run
from pipelines.adaptation_options import options


def main() -> None:
    """Read the command line and take the steps."""
    parser = options(
        __doc__, catalog=Path(__file__).with_name("two_sensors.yaml"), source="sentinel-2", target="landsat",
        probe_train="landsat[domain=lowland]", probe_test="sentinel-2[domain=lowland]", adapt_set=["steps=60"],
        cross_fit=3,  # the drawn landscapes lie in one place, so that they share blocks
    )  # fmt: skip
    run("adapt_sensor", parser.parse_args(), steps)


def steps(study: Study) -> None:
    """A model of the source's sensor, adapted to the target's; the gap in both models, and the tables."""
    labelled = (study.arguments.probe_train, study.arguments.probe_test)
    models = study.adapt(study.model("embedding=spectral"))
    study.gap(models)
    study.probe("probe-shared-bands", *labelled, models)
    study.probe("probe-all-bands", *labelled, models, own_bands=True)


if __name__ == "__main__":
    main()
