"""An encoder that never learned anything: what its architecture alone is worth, and the baseline to fear."""

import torch

from geomae.models.architecture import Architecture, architecture
from geomae.models.folder import Model
from geomae.models.mae import MaskedAutoencoder
from geomae.models.standardise import SensorRecord
from geomae.randomness import key

TINY_PATCH = 8  # of configs/pretrain/tiny.yaml


def untrained(seed: int, like: Model | None, imagery: SensorRecord) -> Model:
    """A model without decoder whose weights are a function of `seed`, of the shape of `like`, else of `tiny`'s.

    It knows the sensors that `like` knows, so that nothing but the weights differs.
    """
    shape = tiny_shape(imagery)
    sensors: tuple[SensorRecord, ...] = (imagery,)
    if like is not None:
        shape, sensors = like.mae.architecture.model_copy(update={"decoder": None}), like.sensors
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(key(seed, "baseline:random") % 2**63)
        mae = MaskedAutoencoder(shape)
    return Model(mae.eval(), sensors)


def tiny_shape(imagery: SensorRecord) -> Architecture:
    """The encoder of the configuration `tiny`."""
    return architecture("tiny", bands=len(imagery.bands), patch=TINY_PATCH, decoder=None)
