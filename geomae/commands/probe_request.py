"""What `geomae probe` was asked, checked as far as it goes without reading any data."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from geomae.commands.options import CommonOptions
from geomae.encoders.reference import BASELINE, EncoderSpec, encoder_specs, parse_encoders
from geomae.errors import ConfigError, nearest
from geomae.evaluation.alignment import ALIGNMENTS, NONE
from geomae.metrics.predictions import ALL

CLASSIFICATION, REGRESSION, SEGMENTATION = TASKS = ("classification", "regression", "segmentation")
BASELINES = ("baseline:statistics", "baseline:rcf", "baseline:random")
OF_ANY_BANDS = ("baseline:random",)  # as wide for many bands as for few, where the model is


@dataclass(frozen=True)
class ProbeOptions:
    """The options of the command; None where the user did not say."""

    common: CommonOptions
    train: str
    tests: tuple[str, ...]
    encoders: tuple[str, ...]
    task: str = CLASSIFICATION
    strength: float | None = None
    cross_fit: int | None = None
    baselines: bool = True
    layer: int | None = None
    pooling: str | None = None
    min_class_rows: int = 1
    align: tuple[str, ...] = ()
    own_bands: bool = False

    @property
    def alignments(self) -> tuple[str, ...]:
        """Those that were asked for, after `none`; without any no alignment is fitted."""
        if not self.align:
            return ()
        wanted = ALIGNMENTS if ALL in self.align else self.align
        return (NONE, *(name for name in wanted if name != NONE))

    def asked(self) -> dict[str, Any]:
        """What decides the result, as JSON."""
        names = ("train", "tests", "encoders", "task", "strength", "cross_fit", "baselines", "layer", "pooling")
        return {name: getattr(self, name) for name in names} | {
            "tests": list(self.tests),
            "encoders": list(self.encoders),
            "min_class_rows": self.min_class_rows,
            "align": list(self.align),
            "own_bands": self.own_bands,
            "precision": self.common.precision,
            "device": self.common.device,
        }


def specifications(request: ProbeOptions) -> tuple[EncoderSpec, ...]:
    """Who is in the table: the user's encoders in their order, then the baselines that are not among them.

    Raises ConfigError for an option that cannot be.
    """
    if request.task not in TASKS:
        raise ConfigError(f"--task {request.task}: {nearest(request.task, TASKS)}")
    strength = request.strength
    if strength is not None and not (math.isfinite(strength) and strength > 0):
        raise ConfigError(f"--strength {strength:g}: give a number above 0, or leave it out to have it chosen")
    if request.cross_fit is not None and request.cross_fit < 2:
        raise ConfigError(f"--cross-fit {request.cross_fit}: takes at least 2 folds")
    if request.min_class_rows < 1:
        raise ConfigError(f"--min-class-rows {request.min_class_rows}: takes at least 1")
    _check_align(request)
    own = {text.rpartition("=")[2] if text.endswith(BASELINES) else text for text in request.encoders}
    baselines = OF_ANY_BANDS if request.own_bands else BASELINES
    extra = [text for text in baselines if text not in own] if request.baselines else []
    if not request.encoders and not extra:
        raise ConfigError("there is nothing to probe; name an --encoder")
    references = parse_encoders([*request.encoders, *extra])
    for one in references if request.own_bands else ():
        if one.kind == BASELINE and not one.text.startswith(OF_ANY_BANDS):
            raise ConfigError(f"--own-bands: the features of {one.text} are those of the bands; leave one of them out")
    return encoder_specs(references)


def _check_align(request: ProbeOptions) -> None:
    for name in request.align:
        if name not in (ALL, *ALIGNMENTS):
            raise ConfigError(f"--align {name}: {nearest(name, (ALL, *ALIGNMENTS))}")
    if request.align and request.task != CLASSIFICATION:
        raise ConfigError(f"--align: takes --task {CLASSIFICATION}; the choice among alignments needs classes of tiles")


def labels(specs: Sequence[EncoderSpec]) -> list[str]:
    """The labels in the order of the table."""
    return [one.label for one in specs]
