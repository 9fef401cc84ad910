"""STAC items of rasters that lie in a folder, and the kinds of files in which items come."""

import functools
import http.server
import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pystac
import rasterio
import shapely
from rasterio.warp import transform_bounds

TIME = "2021-06-07T10:30:00Z"


def item_of(raster: Path, base: str, *, version: str = "1.0.0", **properties: Any) -> dict[str, Any]:
    """The item of a raster with all bands in one asset, `image`, whose address is `base` and the file's name.

    It says what STAC 1.0 (eo and raster extensions) or 1.1 (`bands`) can say of the file.
    """
    with rasterio.open(raster) as dataset:
        names, nodata, crs, shape = dataset.descriptions, dataset.nodata, dataset.crs, dataset.shape
        bounds = transform_bounds(crs, "EPSG:4326", *dataset.bounds)
    asset: dict[str, Any] = {"href": f"{base}{raster.name}", "roles": ["data"], "proj:shape": list(shape)}
    figures = {"scale": 0.0001, "offset": 0}
    if version == "1.0.0":
        asset |= {"eo:bands": [{"name": name} for name in names]}
        asset |= {"raster:bands": [{**figures, "nodata": nodata} for _ in names]}
        properties["proj:epsg"] = crs.to_epsg()
    else:
        asset |= {"bands": [{"name": name} for name in names], "nodata": nodata}
        asset |= {f"raster:{key}": value for key, value in figures.items()}
        properties["proj:code"] = crs.to_string()
    return {
        "type": "Feature",
        "stac_version": version,
        "id": raster.stem,
        "geometry": shapely.geometry.mapping(shapely.box(*bounds)),
        "bbox": list(bounds),
        "properties": {"datetime": TIME, **properties},
        "links": [],
        "assets": {"image": asset},
    }


def write_collection(path: Path, items: Sequence[dict[str, Any]]) -> None:
    """An ItemCollection in JSON."""
    path.write_text(json.dumps({"type": "FeatureCollection", "features": list(items)}), encoding="utf-8")


def write_lines(path: Path, items: Sequence[dict[str, Any]]) -> None:
    """One item a line."""
    path.write_text("".join(f"{json.dumps(item)}\n" for item in items), encoding="utf-8")


def write_table(path: Path, items: Sequence[dict[str, Any]]) -> None:
    """A stac-geoparquet file: properties as columns, the geometry as WKB, times as timestamps."""
    rows = [
        {
            **{key: item[key] for key in ("type", "stac_version", "id", "assets", "links")},
            **({"collection": item["collection"]} if "collection" in item else {}),
            "bbox": dict(zip(("xmin", "ymin", "xmax", "ymax"), item["bbox"], strict=True)),
            "geometry": shapely.to_wkb(shapely.geometry.shape(item["geometry"])),
            **item["properties"],
        }
        for item in items
    ]
    table = pa.Table.from_pylist(rows)
    time = pa.compute.strptime(table["datetime"], format="%Y-%m-%dT%H:%M:%SZ", unit="us").cast(
        pa.timestamp("us", "UTC")
    )
    pq.write_table(table.set_column(table.schema.get_field_index("datetime"), "datetime", time), path)


def write_static(folder: Path, items: Sequence[dict[str, Any]]) -> None:
    """A static catalogue, `catalog.json` in `folder`, with a collection below it that links to the items."""
    extent = pystac.Extent(pystac.SpatialExtent([[-180, -90, 180, 90]]), pystac.TemporalExtent([[None, None]]))
    collection = pystac.Collection("scenes", "scenes", extent)
    for item in items:
        made = pystac.Item.from_dict(item)
        made.set_self_href(str(folder / "item.json"))  # what the addresses of assets are relative to
        made.make_asset_hrefs_absolute()
        collection.add_item(made)
    root = pystac.Catalog("root", "all")
    root.add_child(collection)
    root.normalize_hrefs(str(folder))
    root.make_all_asset_hrefs_relative()
    root.save(catalog_type=pystac.CatalogType.SELF_CONTAINED)


class RangeHandler(http.server.SimpleHTTPRequestHandler):
    """Serves files of a folder in parts, as object stores do and http.server alone does not."""

    protocol_version = "HTTP/1.1"

    def send_head(self) -> Any:
        """Answer with the bytes that are asked for."""
        path, wanted = Path(self.translate_path(self.path.partition("?")[0])), self.headers.get("Range")
        if not path.is_file():
            self.send_error(404)
            return None
        size = path.stat().st_size
        first, last = (wanted or "bytes=0-").removeprefix("bytes=").split("-")
        start, stop = int(first), min(int(last or size - 1), size - 1)
        self.send_response(206 if wanted else 200)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(stop - start + 1))
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{stop}/{size}")
        self.end_headers()
        if self.command == "GET":
            with path.open("rb") as file:
                file.seek(start)
                self.wfile.write(file.read(stop - start + 1))
        return None

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@contextmanager
def serving(handler: Any) -> Iterator[str]:
    """The address of a server on the loopback address while the block runs."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=functools.partial(server.serve_forever, poll_interval=0.01), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()
