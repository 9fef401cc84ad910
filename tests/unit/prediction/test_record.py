"""The codes of a map: those of the label raster where they fit, else new ones, which is said."""

import numpy as np
import pytest

from geomae.prediction.record import PredictorRecord
from geomae.sensors import Band
from geomae.sensors.record import SensorRecord

IMAGERY = SensorRecord("naip", "reflectance", 5.0, (Band("R", "red", 0.65, 0.06, 5.0),), (0.2,), (0.1,))


@pytest.mark.parametrize(
    ("codes", "own", "said"),
    [
        ((7, 40), (7, 40), None),
        ((0, 254), (0, 254), None),
        ((7, 255), (1, 2), "do not fit 0 to 254 are renumbered: a 7 as 1, b 255 as 2"),
        ((-1, 3), (1, 2), "a -1 as 1, b 3 as 2"),
        ((None, None), (1, 2), None),
    ],
)
def test_codes_of_the_label_raster_stand_in_the_map_where_they_fit(codes, own, said):
    record = PredictorRecord(
        "segmentation", ("a", "b"), codes, ("#000000", "#ffffff"), "", IMAGERY, 32, np.array([0.5, 0.5]), None, {}
    )
    assert record.map_codes == own
    assert (record.renumbered is None) if said is None else (said in record.renumbered)
