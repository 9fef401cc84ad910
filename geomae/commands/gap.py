"""`geomae gap`: distances between two domains, in pixels, embeddings, labels and reconstruction errors."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from geomae.commands.options import (
    ONE_DEVICE,
    CommonOptions,
    Encoders,
    Layer,
    Pooling,
    command,
    next_command,
    output_folder,
    read_selectors,
)
from geomae.errors import ConfigError

if TYPE_CHECKING:
    from geomae.encoders import EncoderSpec

STATISTICS = "baseline:statistics"


@dataclass(frozen=True)
class GapOptions:
    """The options of the command; None where the user gave none."""

    common: CommonOptions
    source: Annotated[str, typer.Option(help="SELECTOR of the tiles of the source domain.")]
    target: Annotated[str, typer.Option(help="SELECTOR of the tiles of the target domain.")]
    encoders: Encoders = ()
    baselines: Annotated[bool, typer.Option("--no-baselines", help="Omit band statistics from the table.")] = True
    layer: Layer = None
    pooling: Pooling = None

    def request(self) -> dict[str, Any]:
        """The options that the result depends on, as JSON."""
        names = ("source", "target", "baselines", "layer", "pooling")
        return {name: getattr(self, name) for name in names} | {
            "encoders": list(self.encoders),
            "device": self.common.device,
        }


def run(options: GapOptions) -> int:
    """Measure the gap. Returns the exit code: 0, or 128 plus the signal that stopped the run."""
    (source,), (target,) = read_selectors(options.common, [options.source], [options.target])
    from geomae.commands.session import open_session

    specs = encoder_specs(options)
    session = open_session(options.common, "geomae gap", {"command": "gap", **options.request()})
    selected = session.select([source, target])
    # Slow imports (torch takes seconds) follow the selection of tiles, which does not need them.
    from geomae.commands.run import AnalysisRun, selection_record
    from geomae.encoders.selections import EmbeddingSpec, embed_specs, encoder_digest
    from geomae.encoders.specification import FOLDER, MLFLOW
    from geomae.evaluation.gap import comparable_specs, measure_gap, read_gap_domains
    from geomae.runtime.signals import watch

    domains = read_gap_domains(selected, options.common.seed)
    selections = [domain.selected for domain in domains]
    loader = session.loader(EmbeddingSpec(options.layer, options.pooling), selections)
    trained = loader.load_trained(specs)
    compared = comparable_specs(specs, domains)
    if options.common.dry_run:
        from geomae.commands.gap_report import describe_dry_run

        describe_dry_run(domains, compared, session.screen)
        return 0
    params = options.request() | {
        "catalog": str(session.catalog.path.absolute()),
        "precision": session.precision,
        "data_digest": [one.digest() for one in selections],
        "encoder_digests": {label: encoder_digest(encoders) for label, encoders in trained.items()},
    }
    out = output_folder("gap", options.common.out)
    with AnalysisRun("gap", options.common, params, session.screen, out) as run_:
        run_.track([selection_record(session.catalog, one) for one in selections])
        with watch() as stop:
            embedded = list(
                embed_specs(
                    session.compute, session.catalog, compared, trained, loader, out / "embeddings", stop, run_.step
                )
            )  # fmt: skip
        if stop.signal:
            run_.stopped()
            return stop.exit_code
        result = measure_gap(session.compute, domains, compared, trained, embedded, options.common.seed, run_.step)
        run_.screen.close()
        from geomae.commands.gap_report import write_results  # imports matplotlib

        write_results(run_, session, result, embedded)
        first = (one.references[0] for one in specs)
        model = next((one.text for one in first if one.kind in (FOLDER, MLFLOW)), "MODEL")  # not a baseline
        named = {"source": source, "target": target, "model": model}
        session.screen.say(next_command("gap", options.common, **named))
    return 0


gap = command(
    run, "Measure the distance between two domains in pixels, embeddings, labels and reconstruction errors.", ONE_DEVICE
)


def encoder_specs(options: GapOptions) -> "tuple[EncoderSpec, ...]":
    """The user's encoders in their order, then band statistics. Raises ConfigError for impossible requests."""
    from geomae.encoders import EncoderSpec, parse_encoders

    if options.source == options.target:
        raise ConfigError(f"--source and --target are both {options.source}; a gap needs two domains")
    named = any(text.rpartition("=")[2] == STATISTICS for text in options.encoders)
    extra = [STATISTICS] if options.baselines and not named else []
    if not options.encoders and not extra:
        raise ConfigError("no encoder is left to embed the tiles; name an --encoder")
    return tuple(EncoderSpec(one.label, (one,)) for one in parse_encoders([*options.encoders, *extra]))
