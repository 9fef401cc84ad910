"""A first catalogue inferred from what lies in a folder: `infer_catalog(folder, catalog_file)`."""
