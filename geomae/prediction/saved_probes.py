"""The probes that `geomae probe` saves for maps: one per encoder, fitted on all training tiles."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from geomae.catalog import Catalog
from geomae.encoders import DEFAULT_POOLING, MIDDLE, EncoderSpec
from geomae.encoders.selections import ByDataset, Embeddings, EncoderLoader, origin
from geomae.encoders.specification import BASELINE, FOLDER, MLFLOW, Reference
from geomae.evaluation.final_probe import FinalProbe, fit_final_probe
from geomae.evaluation.probe import ProbeResult
from geomae.models.class_colours import colours_of
from geomae.models.lineage import Step
from geomae.prediction.folders import SavedProbe, save_probe
from geomae.prediction.record import PredictorRecord
from geomae.tiles.learned_tiles import record_tiles


def label_codes(catalog: Catalog, dataset: str, classes: Sequence[str]) -> tuple[int | None, ...]:
    """Return the code of each class in the label raster of a data set (the lowest of several), or None."""
    label = catalog.entry(dataset).label
    classes_of = (label.classes or {}) if label is not None and label.raster else {}
    code_of: dict[str, int] = {}
    for code, name in sorted((int(code), name) for code, name in classes_of.items()):
        code_of.setdefault(name, code)
    return tuple(code_of.get(name) for name in classes)


def save_probes(
    result: ProbeResult,
    catalog: Catalog,
    specs: Sequence[EncoderSpec],
    trained: Mapping[str, ByDataset],
    loader: EncoderLoader,
    embeddings: Mapping[str, Embeddings],
    out: Path,
    own_bands: bool,
) -> list[Path]:
    """Publish the probe of every encoder as `out/LABEL` and return the folders. Random encoders have one per seed."""
    references = [reference for spec in specs for reference in spec.references]
    like = next((one.text for one in references if one.kind in (FOLDER, MLFLOW)), None)
    folders = []
    for spec in specs:
        of_seeds = zip(spec.references, result.encoder(spec.label).predictions, strict=True)
        chosen = {test.name: one for test in result.task.tests if (one := result.choices.get((spec.label, test.name)))}
        for reference, predictions in of_seeds:
            embedded, train = embeddings[reference.label], result.task.train
            final = fit_final_probe(result.task, embedded, predictions, chosen)
            encoders = trained.get(reference.label) or loader.load(reference)
            probe = SavedProbe(
                _record(result, catalog, reference, origin(encoders), final),
                reference.text, encoders[train.index.name].digest, loader.spec.layer or MIDDLE,
                loader.spec.pooling or DEFAULT_POOLING, like if reference.kind == BASELINE else None, own_bands,
                final.plain, final.aligned, radiometry={
                    target: embedded.mapped[one.align, target].radiometry
                    for target, one in final.aligned.items() if (one.align, target) in embedded.mapped
                },
            )  # fmt: skip
            save_probe(probe, out / reference.label)
            folders.append(out / reference.label)
    return folders


def _record(
    result: ProbeResult, catalog: Catalog, reference: Reference, steps: tuple[Step, ...], final: FinalProbe
) -> PredictorRecord:
    """Return the description of a probe."""
    task, train = result.task, result.task.train
    index = train.index
    tiles = record_tiles(index, [part.index for part in task.pool[1:]])
    labels = f"labels of {train.name} ({len(train)} tiles)"
    learned = Step("probe", f"a linear probe on frozen embeddings of {reference.text}, with {labels}", None)
    return PredictorRecord(
        task.settings.task, task.names, label_codes(catalog, index.name, task.names), colours_of(task.names), "",
        train.selected.imagery, int(index.tiles["size"].mode().iloc[0]), final.trained_K, final.plain.confusion_KK,
        {index.name: tiles}, {"probe": f"strength {final.strength:g}"}, (*steps, learned),
    )  # fmt: skip
