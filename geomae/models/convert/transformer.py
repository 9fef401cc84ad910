"""What exports and other bands are made for: an encoder of transformers."""

from geomae.errors import ModelError
from geomae.models.encoder import Encoder
from geomae.models.folder import Model


def transformer(model: Model, what: str) -> Encoder:
    """The encoder of a masked autoencoder. Raises ModelError for a convolutional one, for which there is no `what`."""
    encoder = model.mae.encoder
    if not isinstance(encoder, Encoder):
        raise ModelError(
            f"this model is a convolutional autoencoder, for which there is no {what}; take a masked autoencoder "
            "(--config tiny)"
        )
    return encoder
