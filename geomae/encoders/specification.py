"""Parsing of the text by which users name an encoder: `[LABEL=]ENCODER`.

LIBRARIES is the registry of encoders of other libraries: a new one is a module and an entry there (CONTRIBUTING.md).
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Any

from geomae.errors import ConfigError, nearest

LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")  # used in names of files and metrics; MLflow refuses other characters
FOLDER, MLFLOW, TIMM, TORCHGEO, BASELINE = "folder", "mlflow", "timm", "torchgeo", "baseline"
GALILEO = "galileo"
MODEL_FILE = "config.json"  # what a model folder holds
RANDOM_SEEDS = 5  # number of untrained encoders that `baseline:random` stands for
BASELINES = ("statistics", "rcf", "random", "pixels")
BASELINE_OPTIONS = {"random": ("seed",), "idw": ("power",)}
VALUES = {"pretrained": ("true", "false"), "bands": ("all",)}
COUNTS = {"month": 12, "patch": 64}  # integer options, from 1 to this value


@dataclass(frozen=True)
class Library:
    """Encoders that are written `kind:NAME?option=value`, or `kind:FOLDER` where `folder` is true.

    `home` is `module:function`. The function is called with (Reference, layer, pooling, SensorRecord, device) and
    returns an Encoder; it is imported on first use, since a text is checked without torch.
    """

    home: str
    options: tuple[str, ...] = ()
    folder: bool = False

    @property
    def named(self) -> str:
        """What stands behind the colon."""
        return "FOLDER" if self.folder else "NAME"

    def load(self, *given: Any) -> Any:
        """Return the encoder that `home` makes of `given`."""
        module, _, function = self.home.partition(":")
        load: Callable[..., Any] = getattr(import_module(module), function)
        return load(*given)


LIBRARIES: Mapping[str, Library] = {
    TIMM: Library("geomae.encoders.timm_models:timm_encoder", ("pretrained", "checkpoint", "bands")),
    TORCHGEO: Library("geomae.encoders.torchgeo_models:torchgeo_encoder", ("checkpoint",)),
    GALILEO: Library("geomae.encoders.galileo:galileo_encoder", ("month", "patch"), folder=True),
}
OF_LIBRARIES = tuple(f"{kind}:{library.named}" for kind, library in LIBRARIES.items())
KINDS = ("mlflow:RUN_ID", "models:/NAME/VERSION", *OF_LIBRARIES, "baseline:NAME")


@dataclass(frozen=True)
class Reference:
    """A parsed ENCODER: `text` is what the user wrote, without the label; the other fields are its parts."""

    label: str
    text: str
    kind: str
    name: str
    options: Mapping[str, str]


@dataclass(frozen=True)
class EncoderSpec:
    """One encoder of a comparison, or several that differ only in their seed."""

    label: str
    references: tuple[Reference, ...]
    seeds: tuple[int | None, ...] = (None,)

    @property
    def baseline(self) -> bool:
        """Whether it is a baseline, without training."""
        return self.references[0].kind == BASELINE


def encoder_specs(references: Sequence[Reference]) -> tuple[EncoderSpec, ...]:
    """Return one specification per reference; `baseline:random` without a seed becomes RANDOM_SEEDS encoders."""
    return tuple(_with_seeds(one) for one in references)


def parse_encoders(texts: Sequence[str], baselines: Sequence[str] = BASELINES) -> tuple[Reference, ...]:
    """Parse `[LABEL=]ENCODER` texts. Labels are made unique: repeated default labels get `-2`, `-3`, ...

    The default label is the name of the run's folder (`first` of `runs/first/model`) or of Galileo's folder, else the
    text reduced to letters, digits and `._-`. Raises ConfigError for an unknown kind, name or option, with the nearest
    known one, for a folder that is absent or is that of a run, and for a label that is given twice.
    """
    pairs = [split_label(text) for text in texts]
    given = [label for label, _ in pairs if label is not None]
    twice = next((label for label in given if given.count(label) > 1), None)
    if twice is not None:
        raise ConfigError(f"{twice}=: two encoders have this label; give each its own")
    used = set(given)
    references: list[Reference] = []
    for label, text in pairs:
        parsed = parse_encoder(text, baselines)
        references.append(replace(parsed, label=label or _unique(parsed.label, used)))
        used.add(references[-1].label)
    return tuple(references)


def parse_encoder(text: str, baselines: Sequence[str] = BASELINES) -> Reference:
    """Parse one ENCODER without a label. Raises ConfigError as `parse_encoders` does."""
    head, colon, rest = text.partition(":")
    if text.startswith(("mlflow:", "models:")):
        return Reference(_plain(text), text, MLFLOW, text, MappingProxyType({}))
    library = LIBRARIES.get(head)
    if colon and (library or head == BASELINE):
        name, mark, options = rest.partition("?")
        if head == BASELINE and name not in baselines:
            raise ConfigError(f"{text}: there is no baseline {name!r}; {nearest(name, baselines)}")
        if not name:
            raise ConfigError(f"{text}: names no model; write {head}:{library.named if library else 'NAME'}")
        folder = library is not None and library.folder
        if folder and not Path(name).is_dir():
            raise ConfigError(f"{text}: there is no folder {name}; check the path")
        known = library.options if library else BASELINE_OPTIONS.get(name, ())
        label = _plain(Path(name).absolute().name) if folder else _plain(text)
        return Reference(label, text, head, name, MappingProxyType(_options(text, options if mark else "", known)))
    if Path(text).is_dir():
        if not (Path(text) / MODEL_FILE).is_file() and (Path(text) / "model" / MODEL_FILE).is_file():
            raise ConfigError(f"{text}: is the folder of a run; its model is {Path(text) / 'model'}, name that")
        return Reference(_folder_label(Path(text)), text, FOLDER, text, MappingProxyType({}))
    if colon and re.fullmatch(r"\w+", head) and not Path(text).exists():
        close = nearest(head, ("mlflow", "models", *LIBRARIES, BASELINE))
        raise ConfigError(f"{text}: {head}: is no kind of encoder; {close} (a model folder, or {', '.join(KINDS)})")
    raise ConfigError(
        f"{text}: is neither a model folder nor an MLflow reference; check the path (others: {', '.join(KINDS[2:])})"
    )


def absolute(text: str) -> str:
    """Return the ENCODER text with absolute paths, so that it is valid from any folder."""
    one = parse_encoder(text)
    if one.kind == FOLDER:
        return str(Path(text).absolute())
    library = LIBRARIES.get(one.kind)
    name = str(Path(one.name).absolute()) if library and library.folder else one.name
    options = {key: str(Path(value).absolute()) if key == "checkpoint" else value for key, value in one.options.items()}
    if (name, options) == (one.name, dict(one.options)):
        return text
    listed = "&".join(f"{key}={value}" for key, value in options.items())
    return f"{one.kind}:{name}" + (f"?{listed}" if listed else "")


def _with_seeds(reference: Reference) -> EncoderSpec:
    if reference.text != "baseline:random":
        return EncoderSpec(reference.label, (reference,))
    seeds = tuple(range(RANDOM_SEEDS))
    seeded = (
        replace(
            reference,
            label=f"{reference.label}-{seed}",
            text=f"{reference.text}?seed={seed}",
            options={"seed": str(seed)},
        )
        for seed in seeds
    )
    return EncoderSpec(reference.label, tuple(seeded), seeds)


def split_label(text: str) -> tuple[str | None, str]:
    """Split off the label (None without one). `a=b` is not split where a file or folder of that name exists."""
    label, mark, rest = text.partition("=")
    if mark and LABEL.fullmatch(label) and not Path(text).exists():
        return label, rest
    return None, text


def _options(text: str, options: str, known: Sequence[str]) -> dict[str, str]:
    chosen: dict[str, str] = {}
    for part in re.split(r"&(?=\w+=)", options) if options else []:  # a file name may contain an ampersand
        key, mark, value = part.partition("=")
        if key not in known:
            raise ConfigError(f"{text}: unknown option {key!r}; {nearest(key, known)}")
        if not mark or not value or key in chosen:
            raise ConfigError(f"{text}: write {key}=VALUE once")
        if key in VALUES and value not in VALUES[key]:
            raise ConfigError(f"{text}: {key} is {value!r}; {nearest(value, VALUES[key])}")
        if key == "seed" and not re.fullmatch(r"\d{1,18}", value):
            raise ConfigError(f"{text}: seed is {value!r}; give a whole number, 0 or more")
        if key in COUNTS and not (re.fullmatch(r"[1-9]\d?", value) and int(value) <= COUNTS[key]):
            raise ConfigError(f"{text}: {key} is {value!r}; give a whole number from 1 to {COUNTS[key]}")
        chosen[key] = value
    return chosen


def _folder_label(folder: Path) -> str:
    """Return the name of the run's folder: training writes its model to `RUN/model`."""
    folder = folder.absolute()
    return _plain(folder.parent.name if folder.name == "model" else folder.name)


def _plain(text: str) -> str:
    """Return the text reduced to letters, digits and `._-`, starting with a letter or digit."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-._") or "encoder"


def _unique(label: str, used: set[str]) -> str:
    number = 1
    candidate = label
    while candidate in used:
        number += 1
        candidate = f"{label}-{number}"
    return candidate
