"""A model of one sensor meets another: its spectral embedding takes the new bands, and learns them without labels.

    uv run python -m pipelines.adapt_sensor --out runs/sensor

runs on drawn landscapes (two_sensors.yaml): one with the bands of Sentinel-2, one with seven that HLS has too. On real
tiles, DATA being the folder of their catalogue:

    uv run python -m pipelines.adapt_sensor --out runs/sensor --catalog DATA/catalog.yaml --steps 1000 \
        --source eurosat-ms --target hls-unlabelled@train --adapt-set steps=200 \
        --probe-train hls --probe-test eurosat-ms-coarse --all-bands eurosat-ms

Two tables: a probe from the target's sensor to the source's, in the bands that both have; and one within the source's,
in all of its bands. Labels of the two may differ: the tables are then no comparison of bands.
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
    parser.add_argument(
        "--all-bands", default="sentinel-2[domain=lowland]", help="SELECTOR without a split, of labelled source tiles"
    )
    run("adapt_sensor", parser.parse_args(), steps)


def steps(study: Study) -> None:
    """A model of the source's sensor, adapted to the target's; the gap in both models, and the tables."""
    asked = study.arguments
    before = study.model("embedding=spectral")
    models = {"before": before, "after": study.adapt(before)}
    study.gap(models)
    study.probe("probe-shared-bands", asked.probe_train, asked.probe_test, models)
    study.probe("probe-all-bands", f"{asked.all_bands}@train", f"{asked.all_bands}@test", models)


if __name__ == "__main__":
    main()
