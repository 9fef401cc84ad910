"""A folder of cubes becomes a catalogue that reads them."""

import numpy as np
import pytest
import xarray as xr

from geomae.catalog import open_catalog
from geomae.discovery.draft_catalog import infer_catalog, unresolved
from geomae.tiles.cube_sources import resolve_cube

BANDS = ("B8A", "B02", "SCL")


def save(folder, suffix, names, *, dates=2):
    stored = {"scale_factor": 0.0001, "add_offset": -0.1}
    for name in names:
        made = xr.Dataset(
            {
                one: (("time", "y", "x"), np.ones((dates, 32, 40), "uint16"), stored if one != "SCL" else {})
                for one in BANDS
            },
            coords={"time": np.array(["2021-06-07", "2021-08-07"], "M8[ns]")[:dates]},
        )
        if suffix == "nc":
            made.to_netcdf(folder / f"{name}.nc", engine="h5netcdf")
        else:
            made.to_zarr(folder / f"{name}.zarr", consolidated=False)


@pytest.mark.parametrize(
    ("suffix", "names", "path"), [("nc", ["a", "b"], "'*.nc'"), ("zarr", ["s2 [x]"], "'s2 [[]x].zarr'")]
)
def test_a_folder_of_cubes(tmp_path, suffix, names, path):
    save(tmp_path, suffix, names)
    found = infer_catalog(tmp_path, tmp_path / "c.yaml")
    assert not found.problems
    (entry,) = found.entries.values()
    assert (entry.scenes, entry.bands, entry.tile) == (2 * len(names), ("B02", "B8A"), 32)
    text = found.text()
    assert f"cube: {{path: {path}}}  # each of 2 dates is a scene" in text.replace('"', "'")
    assert "bands: {B02: B02, B8A: B8A}" in text and "mask: {band: SCL" in text
    (tmp_path / "c.yaml").write_text(text)
    assert unresolved(tmp_path / "c.yaml") == []
    (name,) = found.entries
    source = resolve_cube(open_catalog(tmp_path / "c.yaml"), name)
    assert source.scale_C == (0.0001, 0.0001) and source.offset_C == (-0.1, -0.1)
    assert {scene.time for scene in source.scenes} == {"2021-06-07", "2021-08-07"}


def test_a_file_that_is_no_cube_is_told_and_left_out(tmp_path):
    save(tmp_path, "zarr", ["a"], dates=1)
    (tmp_path / "old.nc").write_bytes(b"CDF\x01")
    found = infer_catalog(tmp_path, tmp_path / "c.yaml")
    assert list(found.entries) == ["a"]
    assert "old.nc: is classic NetCDF; rewrite it" in found.problems[0]


def test_an_array_that_is_a_mask_by_its_name_is_no_band(tmp_path):
    arrays = {name: (("y", "x"), np.full((32, 32), 0.1, "float32")) for name in ("B02", "B03", "B04", "B08")}
    clouds = {"cloud_mask": (("y", "x"), np.zeros((32, 32), "uint8"))}
    xr.Dataset(arrays | clouds).to_netcdf(tmp_path / "cube.nc", engine="h5netcdf")
    found = infer_catalog(tmp_path, tmp_path / "c.yaml")
    (entry,) = found.entries.values()
    assert (entry.sensor, entry.bands) == ("sentinel-2-l2a", ("B02", "B03", "B04", "B08"))
    assert (
        "# check: cloud_mask is not taken as a band; if it marks invalid pixels: mask: {band: cloud_mask,"
        in found.text()
    )
