"""A model of ours for the bands, the unit and the statistics of one data set."""

from collections.abc import Sequence
from dataclasses import replace

from geomae.errors import BandMismatchError
from geomae.models.convert.weights_in import PICTURES
from geomae.models.folder import Model
from geomae.models.standardise import SensorRecord
from geomae.sensors import match_bands

ANY_BANDS = "an encoder with the spectral embedding takes any bands"


def fit_model(model: Model, imagery: SensorRecord, text: str) -> tuple[Model, tuple[str, ...]]:
    """The model for the data set that `imagery` describes, and what was adapted, in words.

    A sensor that the model knows is standardised by the model's own statistics, as in training; any other by those of
    the imagery. Raises BandMismatchError where a stacked or grouped embedding misses a band, or no band is known.
    """
    known = next((one for one in model.sensors if (one.name, one.unit) == (imagery.name, imagery.unit)), None)
    if model.mae.architecture.embedding != "spectral":
        return _fixed(model, known, imagery, text)
    if known is None:
        return model.using(imagery), (_aligned(imagery), *_missing(model.record, imagery))
    stored = {band.name for band in known.bands}
    names = [band.name for band in imagery.bands if band.name in stored]
    if not names:
        raise BandMismatchError(
            f"{text}: knows {', '.join(sorted(stored))} of {known.name}, and the data set has none of these; train on "
            "its bands"
        )
    left = [band.name for band in imagery.bands if band.name not in stored]
    unseen = (f"bands that the model has no statistics for are left out: {', '.join(left)}",) if left else ()
    return model.using(replace(known.select(names), gsd_m=imagery.gsd_m)), (*unseen, *_missing(known, imagery))


def _fixed(model: Model, known: SensorRecord | None, imagery: SensorRecord, text: str) -> tuple[Model, tuple[str, ...]]:
    """For an embedding that needs its bands in their order."""
    if known is not None:
        names = {band.name for band in imagery.bands}
        missing = [band.name for band in known.bands if band.name not in names]
        if missing:
            raise _mismatch(missing, model, imagery, text)
        return model.using(replace(known, gsd_m=imagery.gsd_m)), ()
    tries = [(record, _places(record, imagery)) for record in model.sensors]
    for record, places in tries:
        chosen = [imagery.bands[place].name for place in places if place is not None]
        if len(set(chosen)) == len(record.bands):
            met = ", ".join(f"{a.name} by {b}" for a, b in zip(record.bands, chosen, strict=True))
            return model.using(imagery.select(chosen)), (f"bands of {record.name}: {met}", _aligned(imagery))
    record, places = tries[0]
    missing = [band.name for band, place in zip(record.bands, places, strict=True) if place is None]
    raise _mismatch(missing or [band.name for band in record.bands], model, imagery, text)


def _places(record: SensorRecord, imagery: SensorRecord) -> tuple[int | None, ...]:
    """For each band of the model, the band of the imagery that measures the same: pictures by name, else wavelength."""
    if record.name != PICTURES:
        return match_bands(record.bands, imagery.bands, same_sensor=record.name == imagery.name)
    names = [band.common_name for band in imagery.bands]
    return tuple(names.index(band.common_name) if band.common_name in names else None for band in record.bands)


def _missing(record: SensorRecord, imagery: SensorRecord) -> tuple[str, ...]:
    """A note of the bands of the model that the imagery lacks, where there are such."""
    places = _places(record, imagery)
    missing = [band.name for band, place in zip(record.bands, places, strict=True) if place is None]
    return (f"bands of the model that the data set lacks: {', '.join(missing)}",) if missing else ()


def _mismatch(missing: Sequence[str], model: Model, imagery: SensorRecord, text: str) -> BandMismatchError:
    return BandMismatchError(
        f"{text}: its {model.mae.architecture.embedding} embedding needs {', '.join(missing)}, which the data set "
        f"({imagery.name}: {', '.join(band.name for band in imagery.bands)}) has not; {ANY_BANDS}"
    )


def _aligned(imagery: SensorRecord) -> str:
    return (
        f"the model was not trained on {imagery.name} in {imagery.unit}: standardised by its own train split, which is "
        "an alignment in itself"
    )
