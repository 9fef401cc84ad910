"""What `geomae gap` was asked, checked as far as it goes without reading any data."""

from dataclasses import dataclass
from typing import Any

from geomae.commands.options import CommonOptions
from geomae.encoders import EncoderSpec
from geomae.encoders.reference import parse_encoders
from geomae.errors import ConfigError

STATISTICS = "baseline:statistics"


@dataclass(frozen=True)
class GapOptions:
    """The options of the command; None where the user did not say."""

    common: CommonOptions
    source: str
    target: str
    encoders: tuple[str, ...]
    baselines: bool = True
    layer: int | None = None
    pooling: str | None = None

    def asked(self) -> dict[str, Any]:
        """What decides the result, as JSON."""
        names = ("source", "target", "baselines", "layer", "pooling")
        return {name: getattr(self, name) for name in names} | {
            "encoders": list(self.encoders),
            "precision": self.common.precision,
            "device": self.common.device,
        }


def read_request(request: GapOptions) -> tuple[EncoderSpec, ...]:
    """The user's encoders in their order, and band statistics beside them. Raises ConfigError for what cannot be."""
    if request.source == request.target:
        raise ConfigError(f"--source and --target are both {request.source}; a gap is one between two domains")
    named = any(text.rpartition("=")[2] == STATISTICS for text in request.encoders)
    extra = [STATISTICS] if request.baselines and not named else []
    if not request.encoders and not extra:
        raise ConfigError("there is nothing to embed the tiles with; name an --encoder")
    return tuple(EncoderSpec(one.label, (one,)) for one in parse_encoders([*request.encoders, *extra]))
