"""What may be opened, and how open files are kept: formats, addresses, threads, forks."""

import os
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.errors import NotGeoreferencedWarning

from geomae.errors import RasterError
from geomae.rasters import describe_bands, write_cog
from geomae.rasters.environment import environment
from geomae.rasters.opening import _ALL_HANDLES, LARGEST_CACHE, borrowed, header, stamp

VRT = """<VRTDataset rasterXSize="4" rasterYSize="4"><VRTRasterBand dataType="Byte" band="1"><SimpleSource>
<SourceFilename>{path}</SourceFilename><SourceBand>1</SourceBand></SimpleSource></VRTRasterBand></VRTDataset>"""


@pytest.fixture
def plain(tmp_path) -> Path:
    write_cog(tmp_path / "plain.tif", np.ones((1, 4, 4), "uint8"), descriptions=["B02"])
    return tmp_path / "plain.tif"


def test_a_renamed_vrt_does_not_open(plain):
    renamed = plain.with_name("renamed.tif")
    renamed.write_text(VRT.format(path=plain))
    with pytest.warns(NotGeoreferencedWarning), rasterio.open(renamed) as file:  # without a list of drivers it would
        assert file.count == 1
    with pytest.raises(RasterError, match=r"renamed\.tif: is a VRT, which names other files"):
        describe_bands(str(renamed))


def test_a_name_that_is_no_utf8_is_one_line(plain):
    odd = plain.rename(plain.with_name(os.fsdecode(b"caf\xe9.tif")))
    with pytest.raises(RasterError, match=r"has a name that is not UTF-8, which GDAL needs; rename the file"):
        describe_bands(str(odd))


def test_tags_of_scale_and_offset_that_are_no_number_are_none(plain):
    side = "<PAMDataset><PAMRasterBand band='1'><Scale>nan</Scale><Offset>inf</Offset></PAMRasterBand></PAMDataset>"
    plain.with_name("plain.tif.aux.xml").write_text(side)
    info = header(str(plain))
    assert (info.scales, info.offsets) == ((1.0,), (0.0,))


def test_a_georeference_that_is_not_finite_is_refused(plain):
    side = "<PAMDataset><GeoTransform>0, inf, 0, 5e6, 0, nan</GeoTransform></PAMDataset>"
    plain.with_name("plain.tif.aux.xml").write_text(side)
    with pytest.raises(RasterError, match=r"plain\.tif: its georeference has numbers that are not finite; correct"):
        header(str(plain))


def test_a_vrt_beside_a_raster_does_not_open_as_its_mask(plain):
    plain.with_name("plain.tif.msk").write_text(VRT.format(path=plain))
    with pytest.raises(RasterError, match=r"plain\.tif\.msk: .*is no TIFF"):
        describe_bands(str(plain))


@pytest.mark.parametrize(
    "path",
    ["https://localhost:1/a.tif", "s3://bucket/a.tif", "/vsicurl/https://localhost:1/a.tif", "/vsizip/a.zip/a.tif"],
)
def test_remote_addresses_need_leave(path):
    with pytest.raises(RasterError, match="add `remote: true`"):
        describe_bands(path)


@pytest.mark.parametrize("path", ["http://localhost:1/a.tif", "/vsizip/a.zip/a.tif", "ftp://localhost/a.tif"])
def test_other_addresses_are_never_read(path):
    with pytest.raises(RasterError, match=r"use one of https://, s3://, gs://"):
        describe_bands(path, remote=True)


def test_a_remote_file_that_is_not_there_is_named():
    with pytest.raises(RasterError, match=r"https://localhost:1/a\.tif: cannot be read"):
        describe_bands("https://localhost:1/a.tif", remote=True)


@pytest.mark.parametrize("name", ["a#b.tif", "a?b.tif", "zip+s3:a!b.tif", "späť.tif", "a b.tif"])
def test_local_names_are_taken_as_they_are(tmp_path, name):
    write_cog(tmp_path / name, np.ones((1, 4, 4), "uint8"), descriptions=["B02"])
    assert describe_bands(str(tmp_path / name)) == ("B02",)


def test_missing_and_damaged_files_are_named(plain):
    with pytest.raises(RasterError, match=r"gone\.tif: cannot be opened \(No such file"):
        describe_bands(str(plain.with_name("gone.tif")))
    plain.write_bytes(plain.read_bytes()[:30])
    with pytest.raises(RasterError, match=r"plain\.tif: cannot be read"):
        describe_bands(str(plain))


def test_complex_values_are_refused(tmp_path):
    shape = {"count": 1, "height": 4, "width": 4, "dtype": "complex64"}
    place = {"crs": "EPSG:32633", "transform": rasterio.Affine(10, 0, 5e5, 0, -10, 5e6)}
    with rasterio.open(tmp_path / "slc.tif", "w", driver="GTiff", **shape, **place) as file:
        file.write(np.ones((1, 4, 4), "complex64"))
    with pytest.raises(RasterError, match="convert them to intensity first"):
        describe_bands(str(tmp_path / "slc.tif"))


def test_no_warning_about_missing_georeferencing_leaks(tmp_path):
    write_cog(tmp_path / "a.tif", np.ones((1, 4, 4), "uint8"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert describe_bands(str(tmp_path / "a.tif")) == (None,)


def test_a_thread_keeps_few_files_open_and_closes_them_when_it_ends(tmp_path):
    paths = [tmp_path / f"{i}.tif" for i in range(LARGEST_CACHE + 6)]
    for path in paths:
        write_cog(path, np.ones((1, 2, 2), "uint8"))
    seen = []

    def work():
        for path in paths:
            with environment(remote=False), borrowed(str(path), stamp(str(path), remote=False), remote=False) as file:
                seen.append(file)
        assert sum(not file.closed for file in seen) == LARGEST_CACHE

    before = len(_ALL_HANDLES)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert len(seen) == len(paths)
    assert all(file.closed for file in seen)
    assert len(_ALL_HANDLES) == before


FORK = """
import os, sys, threading
import numpy as np
from geomae.rasters.environment import environment
from geomae.rasters.opening import borrowed, header, stamp

path = sys.argv[1]

def open_file():
    with environment(remote=False), borrowed(path, stamp(path, remote=False), remote=False) as file:
        return file, int(file.read().sum())

leave, ready = threading.Event(), threading.Event()

def other():
    open_file()
    ready.set()
    leave.wait()

thread = threading.Thread(target=other)
thread.start()
ready.wait()
parents, total = open_file()
child = os.fork()
if child == 0:
    mine, again = open_file()
    os._exit(0 if mine is not parents and again == total and not parents.closed else 3)
code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
same = open_file()[0] is parents and not parents.closed
leave.set()
thread.join()
sys.exit(code or (0 if same else 4))
"""


def test_a_forked_child_opens_its_own_files(plain):
    arguments = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORK, str(plain)]
    result = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr


def test_import_takes_neither_torch_nor_pandas():
    code = "import sys, geomae.rasters; print([m for m in ('torch', 'pandas', 'mlflow') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
