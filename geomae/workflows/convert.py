"""`geomae convert`: published weights to a model folder, with an account of every key."""

from pathlib import Path

from geomae.errors import ConfigError, StorageError
from geomae.files import file_digest
from geomae.models.convert import convert_mae, read_weights
from geomae.models.folder import save_model
from geomae.workflows.console import Screen


def run(
    source: Path,
    out: Path,
    *,
    heads: int | None,
    decoder_heads: int | None,
    norm_eps: float | None,
    target: str | None,
    quiet: bool,
) -> int:
    """Convert `source` and publish the model folder `out`."""
    screen = Screen(not quiet)
    if target not in (None, "none", "patch"):
        raise ConfigError(f"--target {target}: choose none or patch")
    if out.exists():
        raise StorageError(f"{out}: exists; choose another folder")
    weights = read_weights(source)
    model, account = convert_mae(weights, heads=heads, decoder_heads=decoder_heads, norm_eps=norm_eps, target=target)
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
