"""A vision transformer of photographs becomes a model of your bands: converted, adapted without labels, and probed.

    uv run python -m pipelines.photographs_to_multispectral --out runs/photographs

runs on the drawn landscape, where an untrained transformer stands in, so that the chain can be tried without weights.
With those of a masked autoencoder, decoder included, and real tiles (DATA being the folder of their catalogue):

    uv run python -m pipelines.photographs_to_multispectral --out runs/photographs --catalog DATA/catalog.yaml \
        --weights mae_visualize_vit_base.pth --target hls-unlabelled@train --adapt-set steps=200 \
        --probe-train hls@train --probe-test hls@test_near --min-class-rows 15

Beside the models before and after stand five untrained ones (baseline:random): what photographs have taught.
"""

from pathlib import Path

from pipelines.adaptation import Study, run
from pipelines.adaptation_options import options
from pipelines.photographs import in_bands, photographs


def main() -> None:
    """Read the command line and take the steps."""
    parser = options(
        __doc__, trained=False, target="landscape@train", probe_train="landscape@train", probe_test="landscape@test",
        adapt_set=["steps=60", "method=lora"],
    )  # fmt: skip
    parser.add_argument("--weights", type=Path, help="FILE that `geomae convert` reads; default: an untrained model")
    for option, kind in {"--heads": int, "--decoder-heads": int, "--norm-eps": float}.items():
        parser.add_argument(option, type=kind, help="as of `geomae convert`, where the size does not tell")
    parser.add_argument("--normalised", help="none or patch: as --target of `geomae convert`")
    run("photographs_to_multispectral", parser.parse_args(), steps)


def steps(study: Study) -> None:
    """The model of photographs, that of the target's bands, the adapted one, and the probe of both beside baselines."""
    arguments, out = study.arguments, study.run.out
    shape = {"heads": arguments.heads, "decoder_heads": arguments.decoder_heads, "norm_eps": arguments.norm_eps}
    rgb = photographs(arguments.weights, out / "photographs", arguments.seed, **shape, target=arguments.normalised)
    before = str(in_bands(rgb, arguments.catalog, arguments.target, out / "statistics", out / "before"))
    models = study.adapt(before, arguments.probe_train, arguments.probe_test)
    study.probe("probe", arguments.probe_train, arguments.probe_test, models, align=())


if __name__ == "__main__":
    main()
