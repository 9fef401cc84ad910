"""The first catalogue of a folder, for tests of `catalog init`."""

from geomae.catalog import open_catalog
from geomae.discovery.draft_catalog import infer_catalog, unresolved


def draft(folder):
    """The catalogue that `init` writes, opened; the name of its only entry; its text. Nothing is left to fill in."""
    path = folder / "c.yaml"
    text = infer_catalog(folder, path).text()
    path.write_text(text, encoding="utf-8")
    assert unresolved(path) == []
    catalog = open_catalog(path)
    (name,) = catalog.entries
    return catalog, name, text
