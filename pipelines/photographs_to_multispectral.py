"""Turn a vision transformer of photographs into a model of your bands: convert, adapt without labels, and probe.

    uv run python -m pipelines.photographs_to_multispectral --out runs/photographs

runs on the sample landscape with an untrained transformer, to try the chain without weights. With the weights of a
masked autoencoder, including its decoder, and real tiles (with DATA as the folder of their catalogue):

    uv run python -m pipelines.photographs_to_multispectral --out runs/photographs --catalog DATA/catalog.yaml \
        --weights mae_visualize_vit_base.pth --target hls-unlabelled@train --adapt-set steps=200 \
        --probe-train hls@train --probe-test hls@test_near --min-class-rows 15

The models before and after adaptation are compared with five untrained ones (baseline:random): the difference is the
gain from photographs.
"""

from pathlib import Path

from pipelines.adaptation import Study, run
from pipelines.adaptation_options import options
from pipelines.photographs import in_bands, photographs


def main() -> None:
    """Read the command line and run the steps."""
    parser = options(
        __doc__, trained=False, target="landscape@train", probe_train="landscape@train", probe_test="landscape@test",
        adapt_set=["steps=60", "method=lora"],
    )  # fmt: skip
    parser.add_argument("--weights", type=Path, help="FILE that `geomae convert` reads; default: an untrained model")
    for option, kind in {"--heads": int, "--decoder-heads": int, "--norm-eps": float}.items():
        parser.add_argument(option, type=kind, help="as in `geomae convert`, if the size does not determine it")
    parser.add_argument("--normalised", help="none or patch: as --target of `geomae convert`")
    run("photographs_to_multispectral", parser.parse_args(), steps)


def steps(study: Study) -> None:
    """Convert the model of photographs to the target's bands, adapt it, and probe both models beside baselines."""
    arguments, out = study.arguments, study.run.out
    shape = {"heads": arguments.heads, "decoder_heads": arguments.decoder_heads, "norm_eps": arguments.norm_eps}
    rgb = photographs(arguments.weights, out / "photographs", arguments.seed, **shape, target=arguments.normalised)
    before = str(in_bands(rgb, arguments.catalog, arguments.target, out / "statistics", out / "before"))
    models = study.adapt(before, arguments.probe_train, arguments.probe_test)
    study.probe("probe", arguments.probe_train, arguments.probe_test, models, align=())


if __name__ == "__main__":
    main()
