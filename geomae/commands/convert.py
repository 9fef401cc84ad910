"""`geomae convert`: import and export of weights; every key of a weight file is accounted for."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from geomae.commands.options import (
    CommonOptions,
    Quiet,
    command,
    next_command,
)
from geomae.errors import ConfigError, ModelError, StorageError

if TYPE_CHECKING:
    from geomae.models.convert.weights_in import SensorBands
    from geomae.models.folder import Model

FORMATS = ("timm", "onnx", "safetensors")
OF_WEIGHTS = {
    "heads": "--heads", "decoder_heads": "--decoder-heads", "norm_eps": "--norm-eps", "target": "--target",
}  # fmt: skip


@dataclass(frozen=True)
class ConvertOptions:
    """Options of `geomae convert`; None where the user did not say."""

    source: Annotated[Path, typer.Argument(help="Weights (.pth or .safetensors; MAE or timm ViT), or a model folder.")]
    out: Annotated[Path, typer.Argument(help="Model folder to write; with --to, the file.")]
    to: Annotated[str | None, typer.Option(help="timm, onnx or safetensors: write the model folder as a file.")] = None
    heads: Annotated[int | None, typer.Option(min=1, help="Attention heads of the encoder.")] = None
    decoder_heads: Annotated[int | None, typer.Option(min=1, help="Attention heads of the decoder.")] = None
    norm_eps: Annotated[float | None, typer.Option(help="Epsilon of the layer norms.")] = None
    target: Annotated[str | None, typer.Option(help="none or patch: how the target was normalised.")] = None
    bands: Annotated[
        str | None, typer.Option(help="SENSOR:BAND,BAND,...: name the bands, or adapt the model to other bands.")
    ] = None
    statistics: Annotated[
        Path | None, typer.Option(help="stats.json of `geomae catalog stats`, for the bands of --bands.")
    ] = None
    tile_size: Annotated[
        int | None, typer.Option(min=1, help="Side in pixels of the tiles of a timm or ONNX file; default the model's.")
    ] = None
    quiet: Quiet = False


def run(options: ConvertOptions) -> int:
    """Convert `source`, a weight file or a model folder, and publish `out`, which must not exist."""
    source, out, form = options.source, options.out, options.to
    check_options(options)
    wanted = parse_bands(options.bands) if options.bands else None

    if out.exists():
        raise StorageError(f"{out}: exists; choose another {'file' if form else 'folder'}")

    from geomae.encoders import OwnEncoder
    from geomae.models.convert import adapt_model, export_model, import_weights, sidecar
    from geomae.models.folder import load_model, save_model
    from geomae.runtime.console import Screen

    if form and sidecar(out).exists():
        raise StorageError(f"{sidecar(out)}: exists; choose another file")

    if form is not None:
        model = _for_bands(load_model(source), wanted, form)
        report, lines = export_model(model, out, form, OwnEncoder(model).embed, options.tile_size)
        lines.append(f"{out}: with {sidecar(out).name} beside it")
    else:
        if source.is_dir():
            assert wanted is not None  # `check_options` requires it
            model, report = adapt_model(source, wanted, options.statistics)
        else:
            facts = {name: getattr(options, name) for name in OF_WEIGHTS}
            model, report = import_weights(source, wanted, options.statistics, **facts)
        save_model(model, out)
        shape = model.mae.architecture
        decoder = "no decoder" if shape.decoder is None else f"decoder {shape.decoder.width}/{shape.decoder.depth}"
        size = f"encoder {shape.width}/{shape.depth}/{shape.heads}, {decoder}"
        lines = [f"{out}: {shape.bands} bands, patch {shape.patch}, {size}"]

    screen = Screen(not options.quiet)
    for line in [*report.lines(), *lines]:
        screen.result(line)
    if form is None:
        screen.say(next_command("convert", CommonOptions(), out=out))
    return 0


convert = command(
    run, "Convert weights to a model folder, a model folder to a file (timm, ONNX), or a model to other bands."
)


def check_options(options: ConvertOptions) -> None:
    """Raise ConfigError for options that have no effect here, naming the one that is probably meant."""
    source, to = options.source, options.to
    if options.target not in (None, "none", "patch"):
        raise ConfigError(f"--target {options.target}: choose none or patch")
    if to is not None and to not in FORMATS:
        raise ConfigError(f"--to {to}: choose {', '.join(FORMATS[:-1])} or {FORMATS[-1]}")
    if to is not None and source.is_file():
        raise ConfigError(f"--to {to}: {source} is not a model folder; convert weights to a model folder first")
    if source.is_dir():
        given = [flag for name, flag in OF_WEIGHTS.items() if getattr(options, name) is not None]
        if given:
            raise ConfigError(f"{', '.join(given)}: the model folder {source} already records this; leave it out")
        if to is None and options.bands is None:
            raise ConfigError(
                f"{source}: is a model folder already; give --to {', '.join(FORMATS[:-1])} or {FORMATS[-1]}, or "
                "--bands SENSOR:BAND,BAND,... for other bands"
            )
    if options.statistics is not None and (options.bands is None or to is not None):
        raise ConfigError(
            "--statistics: needs --bands SENSOR:BAND,BAND,... and a new model folder; add --bands or leave it out"
        )
    if options.tile_size is not None and to not in ("timm", "onnx"):
        raise ConfigError("--tile-size: needs --to timm or onnx, whose files have one tile size; leave it out")


def parse_bands(text: str) -> "SensorBands":
    """The sensor and bands of `SENSOR:BAND,BAND,...`, in the input order of the weights."""
    from geomae.sensors import sensor

    name, colon, names = text.partition(":")
    if not colon or not names:
        raise ConfigError(
            f"--bands {text}: is not SENSOR:BAND,BAND,...; write for example sentinel-2-l2a:red,green,blue"
        )
    known = sensor(name)
    bands = tuple(known.band(one.strip()) for one in names.split(","))
    twice = [band.name for number, band in enumerate(bands) if band in bands[:number]]
    if twice:
        raise ConfigError(f"--bands {text}: {', '.join(twice)} occurs twice; name every band once")
    return known, bands


def _for_bands(model: "Model", wanted: "SensorBands | None", to: str) -> "Model":
    """The model restricted to the chosen bands; by default the bands of its only sensor."""
    if wanted is not None:
        if to != "onnx" or model.mae.architecture.embedding != "spectral":
            raise ConfigError(
                f"--bands with --to {to}: bands can be chosen only for an ONNX file of a spectral model; convert the "
                "model to other bands first, then the result with --to"
            )
        return model.for_sensor(wanted[0].name, tuple(band.name for band in wanted[1]))
    if to == "onnx" and len(model.sensors) > 1:
        names = ", ".join(record.name for record in model.sensors)
        raise ModelError(
            f"the model knows the sensors {names}, and an ONNX file takes one; give --bands SENSOR:BAND,..."
        )
    return model
