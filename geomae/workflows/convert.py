"""`geomae convert`: published weights to a model folder, with an account of every key."""

from pathlib import Path

from geomae.errors import ConfigError, StorageError
from geomae.files import file_digest
from geomae.models.convert import convert_mae, read_weights
from geomae.models.folder import save_model
from geomae.sensors import Band, sensor
from geomae.workflows.console import Screen


def run(
    source: Path,
    out: Path,
    *,
    heads: int | None = None,
    decoder_heads: int | None = None,
    norm_eps: float | None = None,
    target: str | None = None,
    bands: str | None = None,
    quiet: bool = False,
) -> int:
    """Convert `source` and publish the model folder `out`."""
    screen = Screen(not quiet)
    if target not in (None, "none", "patch"):
        raise ConfigError(f"--target {target}: choose none or patch")
    if out.exists():
        raise StorageError(f"{out}: exists; choose another folder")
    weights = read_weights(source)
    model, account = convert_mae(
        weights,
        heads=heads,
        decoder_heads=decoder_heads,
        norm_eps=norm_eps,
        target=target,
        bands=_bands(bands) if bands else None,
    )
    model.provenance.update({"source": source.name, "sha256": file_digest(source)})
    save_model(model, out)
    for what in ("taken", "adapted", "left", "new"):
        keys = getattr(account, what)
        screen.result(
            f"{what} {len(keys)}: {', '.join(keys) if what != 'taken' else 'as they were'}" if keys else f"{what} 0"
        )
    shape = model.mae.architecture
    screen.result(
        f"{out}: {shape.bands} bands, patch {shape.patch}, encoder {shape.width}/{shape.depth}/{shape.heads}, "
        f"{'no decoder' if shape.decoder is None else f'decoder {shape.decoder.width}/{shape.decoder.depth}'}"
    )
    return 0


def _bands(text: str) -> tuple[Band, ...]:
    """The bands of `SENSOR:BAND,BAND,...`, in the order in which the weights take them."""
    name, colon, names = text.partition(":")
    if not colon or not names:
        raise ConfigError(
            f"--bands {text}: is not SENSOR:BAND,BAND,...; write for example sentinel-2-l2a:red,green,blue"
        )
    found = sensor(name)
    return tuple(found.band(one.strip()) for one in names.split(","))
