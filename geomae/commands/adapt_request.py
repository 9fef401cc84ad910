"""What `geomae adapt` was asked, checked as far as it goes without reading any data; works without torch."""

from dataclasses import dataclass
from typing import Any

from geomae.catalog import resolve_selectors
from geomae.commands.options import CommonOptions
from geomae.config import AdaptConfig, load_config
from geomae.errors import ConfigError


@dataclass(frozen=True)
class AdaptOptions:
    """The options of the command; None where the user did not say."""

    common: CommonOptions
    model: str
    target: str
    source: str | None = None
    config: str | None = None
    changes: tuple[str, ...] = ()
    method: str | None = None
    rank: int | None = None
    blocks: int | None = None
    replay: float | None = None
    steps: int | None = None
    probe_train: str | None = None
    probe_test: str | None = None
    min_class_rows: int = 1
    again: bool = False
    register: str | None = None


def read_request(request: AdaptOptions) -> AdaptConfig:
    """The configuration. Raises ConfigError or CatalogError for options and selectors that do not fit together."""
    named = {key: getattr(request, key) for key in ("method", "rank", "blocks", "replay", "steps")}
    said = [f"{key}={value}" for key, value in named.items() if value is not None]
    config = load_config(AdaptConfig, "adapt", request.config, (*request.changes, *said))
    for option, methods in (("rank", ("lora",)), ("blocks", ("lora", "last-blocks"))):
        if named[option] is not None and config.method not in methods:
            raise ConfigError(f"--{option}: belongs to --method {' or '.join(methods)}; leave it out")
    if config.method == "last-blocks" and not config.whole_blocks:
        raise ConfigError("--blocks 0: leaves --method last-blocks none; give 1 or more, or choose --method norm")
    if config.replay and request.replay is not None and request.source is None:
        raise ConfigError(f"--replay {request.replay:g}: takes tiles of the source; name them with --source SELECTOR")
    if (request.probe_train is None) != (request.probe_test is None):
        raise ConfigError(
            "--probe-train and --probe-test: a probe takes both, labelled tiles of the source to learn from and of the "
            "target to be asked"
        )
    if request.min_class_rows < 1:
        raise ConfigError(f"--min-class-rows {request.min_class_rows}: takes at least 1")
    for pair in ((request.target, request.source), (request.probe_train, request.probe_test)):
        _check_pair(request.common, *pair)
    return config if request.source is not None else config.model_copy(update={"replay": 0.0})


def _check_pair(common: CommonOptions, target: str | None, source: str | None) -> None:
    """Two selectors must exist and differ."""
    chosen = [resolve_selectors(common.open_catalog(), [one], None) for one in (target, source) if one is not None]
    if len(chosen) == 2 and chosen[0] == chosen[1]:
        raise ConfigError(f"{chosen[0][0]}: is named as source and as target; name tiles of two domains")


def asked(request: AdaptOptions, config: AdaptConfig) -> dict[str, Any]:
    """What decides the result, as JSON."""
    names = ("model", "target", "source", "probe_train", "probe_test", "min_class_rows")
    return {name: getattr(request, name) for name in names} | {"config": config.model_dump(mode="json")}
