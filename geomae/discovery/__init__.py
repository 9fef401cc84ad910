"""A first catalogue: inferred from what lies in a folder (`infer_catalog(folder, catalog_file)`), or searched for."""

from geomae.discovery.stac_search import Search, collection_text, search_items

__all__ = ["Search", "collection_text", "search_items"]
