"""Radiometric adjustment: maps pixels of a target domain to the measurements of a source domain, without labels.

Each band of the source is predicted as a weighted sum of bands of the target, followed by a curve. `radiometry_fits`
fits these maps.

radiometry.json         the method, both selectors, the bands that are used, and the sensor record of mapped pixels
radiometry.safetensors  weights (D, C), offsets (D), and the curves (D, Q), in float64

C bands of the target that are used, D bands of the source, H W pixels, Q knots of a curve; X any leading dimensions
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from geomae.errors import GeomaeError, ModelError
from geomae.files import digest, file_digest, publish_file, read_json, write_json
from geomae.sensors.record import SensorRecord

QUANTILES, INVARIANT, ADJUSTMENT = RADIOMETRY = ("quantiles", "invariant-pixels", "band-adjustment")
FORMAT = 1
RECORD, WEIGHTS = "radiometry.json", "radiometry.safetensors"

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Radiometry:
    """A map of pixels. `taken` names the bands of the target that it uses; `imagery` describes the mapped pixels.

    A curve is linear between its knots; beyond them it continues with its mean slope. Without knots (Q is 0) there is
    no curve. `about` describes the data of the fit.
    """

    method: str
    source: str
    target: str
    taken: tuple[str, ...]
    imagery: SensorRecord
    weight_DC: Floats
    offset_D: Floats
    knot_DQ: Floats
    value_DQ: Floats
    about: str = ""

    @property
    def bands(self) -> tuple[str, ...]:
        """Names of the bands of mapped pixels."""
        return tuple(band.name for band in self.imagery.bands)

    @property
    def digest(self) -> str:
        """A digest of everything that determines the mapped pixels."""
        arrays = (self.weight_DC, self.offset_D, self.knot_DQ, self.value_DQ)
        return digest([self.method, self.taken, self.imagery.to_dict(), [one.tolist() for one in arrays]])

    def apply(
        self, pixels_XCHW: NDArray[np.float32], valid_XCHW: NDArray[np.bool_]
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Mapped pixels and their validity (..., D, H, W): a pixel is valid where all bands that it uses are."""
        pixels, valid = np.moveaxis(pixels_XCHW, -3, 0), np.moveaxis(valid_XCHW, -3, 0)
        mapped = np.zeros((len(self.weight_DC), *pixels.shape[1:]), dtype=np.float32)
        known = np.zeros(mapped.shape, dtype=np.bool_)
        for band, weight_C in enumerate(self.weight_DC):
            used = np.flatnonzero(weight_C)
            known[band] = valid[used].all(0)
            sums = np.tensordot(weight_C[used], pixels[used].astype(np.float64), axes=1) + self.offset_D[band]
            mapped[band] = np.where(known[band], self._curve(band, sums), 0)
        return np.moveaxis(mapped, 0, -3), np.moveaxis(known, 0, -3)

    def _curve(self, band: int, sums: Floats) -> Floats:
        knot_Q, value_Q = self.knot_DQ[band], self.value_DQ[band]
        if not len(knot_Q):
            return sums
        slope = (value_Q[-1] - value_Q[0]) / (knot_Q[-1] - knot_Q[0])
        beyond = np.minimum(sums - knot_Q[0], 0) + np.maximum(sums - knot_Q[-1], 0)
        return np.asarray(np.interp(sums, knot_Q, value_Q) + slope * beyond)

    def save(self, folder: Path) -> None:
        """Publish it in a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        arrays = {
            "weight": self.weight_DC, "offset": self.offset_D, "knots": self.knot_DQ, "values": self.value_DQ
        }  # fmt: skip
        with publish_file(folder / WEIGHTS) as temporary:
            save_file({name: np.ascontiguousarray(one) for name, one in arrays.items()}, temporary)
        record = {
            "format": FORMAT, "method": self.method, "source": self.source, "target": self.target, "taken": self.taken,
            "imagery": self.imagery.to_dict(), "about": self.about, "weights": file_digest(folder / WEIGHTS),
        }  # fmt: skip
        write_json(folder / RECORD, record)

    @classmethod
    def load(cls, folder: Path) -> "Radiometry":
        """Load what `save` wrote. Raises ModelError for a folder that holds something else."""
        try:
            record = read_json(folder / RECORD)
            if record["weights"] != file_digest(folder / WEIGHTS):
                raise ModelError(f"{folder}: {WEIGHTS} is not the one that {RECORD} describes; fit it again")
            arrays = load_file(folder / WEIGHTS)
            imagery = SensorRecord.from_dict(record["imagery"])
            loaded = cls(
                str(record["method"]), str(record["source"]), str(record["target"]), tuple(map(str, record["taken"])),
                imagery, arrays["weight"], arrays["offset"], arrays["knots"], arrays["values"], str(record["about"]),
            )  # fmt: skip
            shapes = [one.shape for one in (loaded.weight_DC, loaded.offset_D, loaded.value_DQ)]
            bands = len(imagery.bands)
            if shapes != [(bands, len(loaded.taken)), (bands,), loaded.knot_DQ.shape] or len(loaded.knot_DQ) != bands:
                raise ValueError(f"arrays of {shapes} do not fit {bands} bands")
        except ModelError:
            raise
        except (GeomaeError, OSError, KeyError, TypeError, ValueError, SafetensorError) as error:
            raise ModelError(f"{folder}: holds no radiometry ({error}); name the folder that a run wrote") from error
        return loaded
