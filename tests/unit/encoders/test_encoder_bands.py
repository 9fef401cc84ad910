"""Our own models on the bands, the unit and the statistics of another data set."""

from dataclasses import replace

import pytest
import torch
from tiny_models import BANDS, EMBEDDINGS, RECORD, tiles, tiny_mae, tiny_model

from geomae.encoders import load_encoder
from geomae.errors import BandMismatchError, ConfigError, ModelError
from geomae.models.folder import Model, save_model
from geomae.sensors import sensor
from geomae.sensors.record import SensorRecord


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A model folder for each embedding."""
    root = tmp_path_factory.mktemp("models")
    for embedding in EMBEDDINGS:
        save_model(tiny_model(embedding), root / embedding)
    return root


def imagery(name, names, *, unit="reflectance", gsd_m=30.0):
    """A data set of a published sensor, with statistics that differ from the model's."""
    bands = tuple(sensor(name).band(one) for one in names)
    return SensorRecord(name, unit, gsd_m, bands, (0.2,) * len(bands), (0.1,) * len(bands))


def known(*names):
    """The sensor of the model with other bands, statistics and gsd."""
    bands = tuple(sensor("sentinel-2-l2a").band(one) for one in names)
    return SensorRecord("s2", "reflectance", 20.0, bands, (0.9,) * len(bands), (0.5,) * len(bands))


def test_a_known_sensor_keeps_the_statistics_of_the_model(folders):
    encoder = load_encoder(folders / "spectral", imagery=known("B11", "B03", "B02"))
    assert [band.name for band in encoder.bands] == ["B11", "B02"]
    assert encoder.model.record.mean_C == (0.2, 0.05)
    assert encoder.gsd_m == 20.0
    assert "bands that the model has no statistics for are left out: B03" in encoder.notes
    assert "bands of the model that the data set lacks: B04, B8A" in encoder.notes
    with pytest.raises(BandMismatchError, match="knows B02, B04, B11, B8A of s2, and the data set has none"):
        load_encoder(folders / "spectral", imagery=known("B03"))


def test_the_same_bands_in_a_data_set_of_another_name_are_known(folders):
    for embedding in EMBEDDINGS:
        encoder = load_encoder(folders / embedding, imagery=replace(known("B02", "B04", "B8A", "B11"), name="valley"))
        assert encoder.model.record.mean_C == load_encoder(folders / embedding).model.record.mean_C
        assert not any("was not trained on" in note for note in encoder.notes)


def test_other_bands_in_a_data_set_of_the_same_name_are_not(folders):
    met = known("B02", "B11")
    other = replace(met, bands=(replace(met.bands[0], wavelength_um=0.443, fwhm_um=0.02), met.bands[1]))
    encoder = load_encoder(folders / "spectral", imagery=other)
    assert encoder.model.record == other
    assert any("was not trained on s2 in reflectance" in note for note in encoder.notes)
    assert "bands of the model that the data set lacks: B02, B04, B8A" in encoder.notes


def test_an_unknown_sensor_is_standardised_by_itself_and_that_is_said(folders):
    other = imagery("hls-l30", ("B02", "B05", "B10"))
    encoder = load_encoder(folders / "spectral", imagery=other)
    assert encoder.model.record == other
    assert any("by its own train split, which is an alignment in itself" in note for note in encoder.notes)
    assert "bands of the model that the data set lacks: B04, B11" in encoder.notes


def test_another_unit_is_another_sensor(folders):
    numbers = replace(known("B02", "B04", "B8A", "B11"), unit="digital_number", mean_C=(500.0,) * 4, std_C=(100.0,) * 4)
    for embedding in EMBEDDINGS:
        encoder = load_encoder(folders / embedding, imagery=numbers)
        assert encoder.model.record.mean_C == (500.0,) * 4
        assert any("in digital_number: standardised by its own" in note for note in encoder.notes)


@pytest.mark.parametrize("embedding", ["stacked", "grouped"])
def test_a_fixed_embedding_takes_its_bands_in_its_order(folders, embedding):
    shuffled = known("B11", "B03", "B8A", "B04", "B02")
    encoder = load_encoder(folders / embedding, imagery=shuffled)
    assert encoder.bands == BANDS
    pixels, valid = tiles()
    torch.testing.assert_close(
        encoder.embed(pixels, valid), load_encoder(folders / embedding).embed(pixels, valid), atol=1e-6, rtol=0
    )
    across = load_encoder(folders / embedding, imagery=imagery("landsat-8-oli", ("B7", "B6", "B5", "B4", "B3", "B2")))
    assert [band.name for band in across.bands] == ["B2", "B4", "B5", "B6"]
    assert "bands of s2: B02 by B2, B04 by B4, B8A by B5, B11 by B6" in across.notes


@pytest.mark.parametrize("embedding", ["stacked", "grouped"])
def test_bands_that_are_missing_are_named_with_what_would_do(folders, embedding):
    for data in (known("B02", "B04"), imagery("naip", ("red", "green", "blue", "nir"), unit="digital_number")):
        with pytest.raises(BandMismatchError) as caught:
            load_encoder(folders / embedding, imagery=data)
        message = str(caught.value)
        assert f"its {embedding} embedding needs B" in message
        assert "B11" in message
        assert "an encoder with the spectral embedding takes any bands" in message


def test_digests_name_what_decides_an_embedding(folders):
    path = folders / "spectral"
    digests = [
        load_encoder(path).digest,
        load_encoder(path, layer=None, pooling="cls").digest,
        load_encoder(path, pooling="mean-std").digest,
        load_encoder(path, imagery=known("B02", "B04")).digest,
        load_encoder(path, imagery=known("B04", "B02")).digest,
        load_encoder(folders / "stacked").digest,
    ]
    assert len(set(digests)) == len(digests)
    assert load_encoder(path).digest == digests[0]
    assert load_encoder(path, imagery=RECORD).digest == digests[0]


def test_tiles_that_do_not_fit_are_refused_before_any_is_read(folders):
    with pytest.raises(ConfigError, match="a patch of 4 pixels does not divide a tile of 18 x 18 pixels"):
        load_encoder(folders / "spectral", tile=18)
    save_model(Model(tiny_mae(positions="gsd"), (RECORD,)), folders / "scaled")
    with pytest.raises(ModelError, match="add gsd_m to the catalogue"):
        load_encoder(folders / "scaled", imagery=replace(RECORD, gsd_m=None))
