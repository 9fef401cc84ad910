"""A first catalogue: inferred from the files of a folder (`infer_catalog(folder, catalog_file)`), or from STAC."""

from geomae.discovery.stac_search import Search, collection_text, search_items

__all__ = ["Search", "collection_text", "search_items"]
