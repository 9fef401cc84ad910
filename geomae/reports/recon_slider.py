"""A slider between a tile and its reconstructions, for a page that needs no network."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jinja2 import Environment, PackageLoader
from matplotlib.image import imsave

from geomae.reports.page import Html, data_uri
from geomae.reports.recon_panel import Picture


@dataclass(frozen=True)
class Slide:
    """A tile as pictures (height, width, 3), 0 to 1: the truth, and reconstructions by label."""

    title: str
    truth: Picture
    reconstructions: Mapping[str, Picture]


def slider(slides: Sequence[Slide]) -> Html:
    """The interactive part: choose a tile and a model, and move the border between truth and reconstruction."""
    data = [
        {
            "title": slide.title,
            "truth": data_uri(_png(slide.truth)),
            "models": [[label, data_uri(_png(picture))] for label, picture in slide.reconstructions.items()],
        }
        for slide in slides
    ]
    environment = Environment(loader=PackageLoader("geomae.reports"), autoescape=True, trim_blocks=True)
    return Html(environment.get_template("recon_slider.html").render(data=data))


def _png(picture: Picture) -> bytes:
    png = io.BytesIO()
    imsave(png, np.round(255 * np.clip(picture, 0, 1)).astype(np.uint8), format="png", metadata={"Software": "geomae"})
    return png.getvalue()
