"""The documentation site: Sphinx reads the Markdown beside this file, and the pages that the program tells of itself.

`.ci/site SITE` builds it.
"""

import sys
from pathlib import Path

from sphinx.application import Sphinx

sys.path.insert(0, str(Path(__file__).parent))

from generated_pages import write_pages

import geomae

project, author, version = "geomae", "The geomae developers", geomae.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["_build"]

# Markdown as GitHub shows it: headings are anchors, links name files.
myst_heading_anchors = 4

# Docstrings are plain English in which single backticks mark code.
default_role = "code"
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
nitpick_ignore_regex = [("py:.*", r"(?!geomae\.load_|geomae\.open_).*")]  # types of other libraries have no page here

html_theme = "pydata_sphinx_theme"
html_title = "geomae"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_copy_source = False
html_sidebars = {page: [] for page in ("index", "quickstart", "concepts")}  # no pages below them
html_theme_options = {
    "navbar_end": ["theme-switcher"],
    "navbar_persistent": ["search-button"],
    "footer_start": ["copyright"],
    "footer_end": [],
    "secondary_sidebar_items": {"**": ["page-toc"], "index": [], "results": []},  # its table takes the room
    "show_prev_next": True,
    "navigation_with_keys": False,
    "header_links_before_dropdown": 8,
}
copyright = author


def setup(app: Sphinx) -> None:
    """Write the generated pages before Sphinx looks which pages there are."""
    app.connect("config-inited", lambda app, config: write_pages(Path(app.srcdir) / "generated"))
