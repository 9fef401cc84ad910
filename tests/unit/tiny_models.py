"""Models that are small enough for any test, and tiles for them.

B batch, C bands, H W pixels, N patches
"""

import torch
from torch import Tensor

from geomae.config import Decoder
from geomae.models.architecture import Architecture
from geomae.models.folder import Model
from geomae.models.mae import MaskedAutoencoder
from geomae.sensors import sensor
from geomae.sensors.record import SensorRecord

torch.set_num_threads(1)  # on a busy machine, threads of so small products wait for each other most of the time

EMBEDDINGS, TARGETS = ("stacked", "grouped", "spectral"), ("none", "patch", "patch-band")
ONE_TOKEN = ("stacked", "spectral")  # per patch, whatever its bands
MODELS = (*EMBEDDINGS, "cae")  # the convolutional autoencoder, whose embedding is stacked
DECODERS = ("full", "window", "cross")
BANDS = tuple(sensor("sentinel-2-l2a").band(name) for name in ("B02", "B04", "B8A", "B11"))
RECORD = SensorRecord("s2", "reflectance", 10.0, BANDS, (0.05, 0.1, 0.3, 0.2), (0.02, 0.04, 0.1, 0.05))
SIDE = 4  # of a patch, in pixels
GROUPS = ((2, 0), (3, 1))  # of BANDS; not in their order, so that a mix-up shows


def tiny_mae(
    embedding: str = "spectral",
    target: str = "none",
    *,
    bands: int = len(BANDS),
    depth: int = 1,
    decoder: str = "full",
    positions: str = "sincos",
) -> MaskedAutoencoder:
    """A masked or convolutional autoencoder of width 24 with weights that are the same each time, for evaluation."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return MaskedAutoencoder(
            Architecture(
                kind="cae" if embedding == "cae" else "mae",
                embedding="stacked" if embedding == "cae" else embedding,
                bands=bands,
                groups=GROUPS if embedding == "grouped" else None,
                patch=SIDE,
                width=24,
                depth=depth,
                heads=1 if embedding == "cae" else 2,
                decoder=Decoder(kind=decoder, width=16, depth=2 if decoder == "window" else 1, heads=2, window=2),
                target=target,
                positions=positions,
            )
        ).eval()


def tiny_model(embedding: str = "spectral", target: str = "none", *, depth: int = 1) -> Model:
    """A model that knows the sensor of `RECORD`."""
    return Model(tiny_mae(embedding, target, depth=depth), (RECORD,))


def tiles(count: int = 2, height: int = 16, width: int = 12, seed: int = 0, gaps: float = 0.0) -> tuple[Tensor, Tensor]:
    """Tiles (B, C, H, W) in physical units of `RECORD`, and their validity with a share of gaps."""
    rng = torch.Generator().manual_seed(seed)
    mean, std = (torch.tensor(values)[:, None, None] for values in (RECORD.mean_C, RECORD.std_C))
    pixels = mean + std * torch.randn(count, len(BANDS), height, width, generator=rng)
    return pixels, torch.rand(pixels.shape, generator=rng) >= gaps


def orders(count: int, patches: int, seed: int = 0) -> Tensor:
    """A permutation of the patches for each tile: (B, N)."""
    rng = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randperm(patches, generator=rng) for _ in range(count)])
