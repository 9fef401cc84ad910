"""The only package that opens rasters: reads pixels with their validity and labels, audits files, writes COGs."""

from geomae.rasters.audit import audit
from geomae.rasters.audit_report import AuditReport, Problem
from geomae.rasters.environment import sweeping
from geomae.rasters.grids import Grid, Window, scene_grid
from geomae.rasters.opening import describe_bands
from geomae.rasters.reading import read, read_labels, read_map
from geomae.rasters.writing import MapClasses, cog_in_strips, write_cog

__all__ = [
    "AuditReport",
    "Grid",
    "MapClasses",
    "Problem",
    "Window",
    "audit",
    "cog_in_strips",
    "describe_bands",
    "read",
    "read_labels",
    "read_map",
    "scene_grid",
    "sweeping",
    "write_cog",
]
