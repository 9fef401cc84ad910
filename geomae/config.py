"""Configuration: immutable, validated once when it is read from a YAML file and `--set key=value`."""

import copy
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError

from geomae.errors import ConfigError, nearest
from geomae.files import YamlDocument, read_yaml

LEAST_CONTRASTED = 16  # tiles of a step: with fewer negatives the contrastive task is too easy
Embedding = Literal["stacked", "grouped", "spectral"]  # the names of models.band_embedding.EMBEDDINGS
NOT_TERMS = ("temperature",)  # fields of Objective that are no weights; the others are those of models.objective.TERMS
RULE = "rule"  # type of the errors that `refuse` raises
WORDINGS = {  # pydantic's messages use Python's terms; these use those of YAML
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "dict_type": "must be a mapping of keys to values",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "int_from_float": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_type": "must be a whole number",
    "model_type": "must be a mapping of keys to values",
    "string_pattern_mismatch": "must begin with a letter or digit and hold only letters, digits and ._-",
    "string_too_short": "must not be empty",
    "string_type": "must be text (quote it where it looks like a number)",
    "too_short": "must not be empty",
    "tuple_type": "must be a list",
}


class Frozen(BaseModel):
    """Base of all configuration: immutable, no unknown keys, no NaN. Subclasses are strict: text is not a number."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, allow_inf_nan=False)


class Decoder(Frozen, strict=True):
    """The decoder that predicts hidden patches from the visible tokens (He et al. 2022, section 3)."""

    kind: Literal["full", "window", "cross"] = Field(
        "full",
        description="full: all tokens attend to all (He et al. 2022); window: to those in the same shifted window (Liu "
        "et al. 2021); cross: hidden ones to visible ones only (CrossMAE, Fu et al. 2024)",
    )
    width: int = Field(128, gt=0, description="width of the decoder's tokens")
    depth: int = Field(2, ge=1, description="number of transformer blocks")
    heads: int = Field(4, gt=0, description="attention heads; must divide the width")
    window: int = Field(4, gt=1, description="side of a window in patches, for kind window")
    predict: float = Field(1.0, gt=0, le=1, description="share of hidden patches predicted in training, for kind cross")
    positions: bool = Field(True, description="add positions to the decoder's tokens")

    @model_validator(mode="after")
    def _consistent(self) -> "Decoder":
        if self.width % self.heads:
            raise ValueError(f"heads: {self.heads} does not divide the decoder's width {self.width}")
        if self.predict < 1 and self.kind != "cross":
            raise ValueError(f"predict: a share of the hidden patches is an option of kind cross, not of {self.kind}")
        return self


class Masking(Frozen, strict=True):
    """Masking: which patches or bands are hidden from the encoder."""

    kind: Literal["random", "block", "grid", "bands"] = Field(
        "random",
        description="hide random patches, contiguous blocks of them, all but a regular lattice, or whole bands (whole "
        "groups of a grouped embedding)",
    )
    ratio: float = Field(0.75, gt=0, lt=1, description="share of patches (bands: of bands or groups) that is hidden")
    groups: Literal["consistent", "independent"] = Field(
        "consistent", description="a patch is hidden in all groups of a grouped embedding, or masks differ by group"
    )
    band_dropout: float = Field(0.0, ge=0, lt=1, description="probability of hiding a band of a tile in training")


class Objective(Frozen, strict=True):
    """The training objective: a weighted sum of terms. A term of weight 0 is not computed (models/objective)."""

    pixels: float = Field(1.0, ge=0, description="predict the pixels of hidden patches; needs the decoder")
    places: float = Field(
        0.0, ge=0, description="contrastive loss: match a tile with another date or sensor of the same ground, among "
        "the tiles of the step; tiles without such a partner are left out"
    )  # fmt: skip
    contrast: float = Field(
        0.0, ge=0, description="the same with two views of one tile, for tiles without partner or where places is 0"
    )
    textures: float = Field(
        0.0, ge=0, description="predict the responses of fixed filters to the whole tile, or to its partner"
    )
    temperature: float = Field(0.1, gt=0, description="divides the similarities in contrast and places")

    @property
    def paired(self) -> bool:
        """Whether a step needs a second view of every tile."""
        return self.contrast > 0 or self.places > 0

    def weights(self) -> dict[str, float]:
        """Return the terms with weights above 0, pixels first."""
        given = {name: value for name, value in self if name not in NOT_TERMS}
        return {term: weight for term, weight in given.items() if weight > 0}

    @model_validator(mode="after")
    def _consistent(self) -> "Objective":
        if not (self.pixels or self.paired):
            raise ValueError("held-out tiles are scored by pixels, contrast or places: give one of them a weight")
        return self


def check_contrast(objective: Objective, batch: int) -> None:
    """Raise ValueError where a step has too few tiles for the contrastive terms."""
    if objective.paired and batch < LEAST_CONTRASTED:
        raise ValueError(
            f"batch: {batch} tiles are too few for the contrastive terms (objective.contrast, objective.places); take "
            f"{LEAST_CONTRASTED} or more over all devices"
        )


class Views(Frozen, strict=True):
    """Random change of band values in views, beside windows, masks, flips and turns, after standardisation."""

    gain: float = Field(0.1, ge=0, lt=1, description="each band is multiplied by 1 - gain to 1 + gain")
    offset: float = Field(0.1, ge=0, description="largest offset of each band, in standard deviations")


class Optimizer(Frozen, strict=True):
    """AdamW with warm-up and cosine decay, as in He et al. 2022 (appendix A)."""

    base_rate: float = Field(1.5e-4, gt=0, description="learning rate for 256 tiles a step; scaled by batch / 256")
    weight_decay: float = Field(0.05, ge=0, description="not applied to biases, norms and single tokens")
    warmup: float = Field(0.05, ge=0, lt=1, description="share of the steps over which the rate rises from 0")
    floor: float = Field(0.0, ge=0, lt=1, description="final learning rate, as a share of the peak")
    clip: float = Field(1.0, gt=0, description="largest norm of the gradient")


class Data(Frozen, strict=True):
    """Selection, augmentation, reading and caching of tiles."""

    min_valid_patch: float = Field(0.5, gt=0, le=1, description="share of valid pixels a patch needs to be drawn")
    max_quarantined: float = Field(0.1, ge=0, le=1, description="share of scenes the audit may quarantine")
    validation: float = Field(0.1, gt=0, lt=1, description="share of the tiles held out of training")
    scales: list[float] = Field(
        [1.0, 1.0], min_length=2, max_length=2, description="least and largest side of random windows, relative to the "
        "tile; windows lie on the ground of the training tiles and are resampled to the tile's size"
    )  # fmt: skip
    flips: bool = Field(True, description="draw one of the eight flips and quarter turns for each tile")
    readers: int = Field(2, ge=0, description="threads that read tiles ahead of the training step; 0 reads in the step")
    memory_mb: int = Field(1024, ge=0, description="decoded tiles are kept in memory up to this size")
    cache: str | None = Field(None, min_length=1, description="folder of decoded pixels, for all epochs and trainings")
    cache_gb: float = Field(50, gt=0, description="largest size of this folder, in 10^9 bytes")

    @model_validator(mode="after")
    def _consistent(self) -> "Data":
        low, high = self.scales
        if not 0.1 <= low <= 1 <= high <= 10:
            raise ValueError(f"scales: [{low}, {high}] must go from 0.1 or more over 1, the tile itself, to 10 or less")
        return self


class PretrainConfig(Frozen, strict=True):
    """All settings of `geomae pretrain`. Equal configuration and data give equal weights."""

    model: Literal["mae", "cae"] = Field(
        "mae", description="masked autoencoder of transformers, or a convolutional autoencoder of similar size"
    )
    preset: Literal["tiny", "small", "base", "large", "huge"] = Field("tiny", description="size of the encoder")
    patch: int = Field(8, gt=0, description="side of a patch in pixels; must divide the tile")
    embedding: Embedding = Field("spectral", description="how bands become tokens")
    groups: list[list[str]] | None = Field(
        None, description="bands of each group of a grouped embedding, by name; default: those of the sensor"
    )
    left_out: list[str] = Field([], description="bands in no group, which are not read")
    positions: Literal["sincos", "gsd"] = Field(
        "sincos", description="positions in patches, or scaled by gsd_m / reference_gsd_m (Scale-MAE, Reed et al. 2023)"
    )
    reference_gsd_m: float = Field(10.0, gt=0, description="ground sample distance of unscaled positions")
    target: Literal["none", "patch", "patch-band"] = Field("none", description="how the target is normalised")
    masking: Masking = Masking()
    objective: Objective = Objective()
    views: Views = Views()
    decoder: Decoder = Decoder()
    optimizer: Optimizer = Optimizer()
    data: Data = Data()
    steps: int = Field(1000, gt=0, description="optimizer steps; the run stops after them")
    batch: int = Field(64, gt=0, description="tiles per step, over all devices")
    accumulate: int = Field(1, gt=0, description="passes over which a step's tiles are split on each device")
    save_every: int = Field(200, gt=0, description="steps between checkpoints")
    keep: int = Field(2, gt=0, description="number of newest checkpoints kept, in addition to the best")
    eval_every: int = Field(100, gt=0, description="steps between validations")
    picture_every: int = Field(500, gt=0, description="steps between pictures of fixed validation tiles")
    probe_every: int = Field(
        0, ge=0, description="steps between kNN probes of labelled tiles (see --probe); 0 probes never"
    )
    log_every: int = Field(10, gt=0, description="steps between logged training metrics")
    compile: bool = Field(False, description="torch.compile of the blocks; needs a C++ compiler, and time at start")

    @model_validator(mode="after")
    def _consistent(self) -> "PretrainConfig":
        if self.decoder.width % 4:
            raise ValueError(f"decoder.width: {self.decoder.width} is not a multiple of 4, which positions need")
        grouped, narrowed = self.embedding == "grouped", self.decoder.predict < 1 or self.masking.band_dropout > 0
        if (self.groups is not None or self.left_out) and not grouped:
            raise ValueError(f"groups: an option of embedding grouped, not of {self.embedding}")
        if self.masking.groups == "independent" and not grouped:
            raise ValueError(f"masking.groups: independent needs embedding grouped, not {self.embedding}")
        if narrowed and (grouped or self.masking.kind == "bands"):
            raise ValueError(
                "decoder.predict and masking.band_dropout: go neither with embedding grouped nor with masking.kind "
                "bands; leave them out"
            )
        check_contrast(self.objective, self.batch)
        if self.objective.paired and self.accumulate > 1:
            raise ValueError(
                "accumulate: objective.contrast and objective.places compare all tiles of a step, which cannot be "
                "split over passes; leave accumulate out, and take more devices or a smaller batch"
            )
        if self.model == "cae":
            self._check_convolutional()
        return self

    def _check_convolutional(self) -> None:
        who = "a convolutional autoencoder (model: cae)"
        if self.embedding != "stacked":
            raise ValueError(f"embedding: {who} takes fixed bands and needs stacked, not {self.embedding}")
        if self.positions != "sincos":
            raise ValueError(f"positions: {who} has none that {self.positions} could scale; leave it out")
        if self.decoder != Decoder():
            raise ValueError(f"decoder: {who} has a decoder of its own; leave its options out")
        if set(self.objective.weights()) != {"pixels"}:
            raise ValueError(f"objective: {who} learns by pixels alone; leave the other terms out")


class AdaptConfig(Frozen, strict=True):
    """All settings of `geomae adapt`, beside the model and the tiles."""

    method: Literal["full", "last-blocks", "lora", "norm", "heads"] = Field(
        "lora", description="which weights learn; heads: none of the model, for comparison"
    )
    rank: int = Field(8, gt=0, description="rank of the low-rank updates of method lora")
    blocks: int | None = Field(
        None, ge=0, description="last blocks of the encoder that learn in full; default 1 for last-blocks, 0 for lora"
    )
    replay: float = Field(0.25, ge=0, lt=1, description="share of the steps that take source tiles")
    rate: float | None = Field(None, gt=0, description="learning rate for 256 tiles a step; default that of the method")
    masking: Masking = Masking()
    objective: Objective | None = Field(None, description="terms of the loss; default those of the model's training")
    views: Views = Views()
    data: Data = Data(validation=0.2)  # targets are often small, and a tenth would be too few tiles for validation
    steps: int = Field(200, gt=0, description="optimizer steps, unless it is stopped early")
    batch: int = Field(32, gt=0, description="tiles per step")
    eval_every: int = Field(20, gt=0, description="steps between validations on held-out target tiles")
    patience: int = Field(3, gt=0, description="validations without a new best after which it is stopped")
    save_every: int = Field(100, gt=0, description="steps between checkpoints")

    @model_validator(mode="after")
    def _consistent(self) -> "AdaptConfig":
        check_contrast(self.objective or Objective(), self.batch)
        return self

    @property
    def whole_blocks(self) -> int:
        """Number of last blocks that learn in full; 0 for lora: one block and rank 8 exceed a tenth of `tiny`."""
        return self.blocks if self.blocks is not None else int(self.method == "last-blocks")


Config = TypeVar("Config", bound=Frozen)


def load_config(
    kind: type[Config], command: str, name: str | None, changes: Sequence[str] = (),
    options: Mapping[str, object] | None = None,
) -> Config:  # fmt: skip
    """Return the configuration of `command`: a file or shipped `name` (None: the defaults), with `key=value` changes.

    `options` are the command line options whose names are keys, with their values. Raises ConfigError.
    """
    document = _document(command, name) if name is not None else None
    return change_config(kind, document.values if document else {}, changes, document, options)


def change_config(
    kind: type[Config], values: dict[str, Any], changes: Sequence[str], document: YamlDocument | None = None,
    options: Mapping[str, object] | None = None,
) -> Config:  # fmt: skip
    """Validate `values` after changes. Raises ConfigError as `parse` does; for a wrong change it names the option."""
    given = {f"--set {change}": change for change in changes}
    given |= {f"--{key} {value}": f"{key}={value}" for key, value in (options or {}).items()}
    try:
        return kind.model_validate(changed(values, tuple(given.values())))
    except ValidationError as error:
        try:
            kind.model_validate(values)
        except ValidationError:
            raise ConfigError(explain(error, document, kind)) from error
        _, keys, message = _first_fault(error, None, kind)
        raise ConfigError(f"{_blamed(given, keys)}: {message}") from error


def changed(values: dict[str, Any], changes: Sequence[str]) -> dict[str, Any]:
    """Return a copy of `values` with `key=value` changes applied in order."""
    values = copy.deepcopy(values)
    for change in changes:
        _set(values, change)
    return values


def parse(kind: type[Config], values: dict[str, Any], document: YamlDocument | None = None) -> Config:
    """Validate `values`. Raises ConfigError with the file, line, key and remedy of the first error."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise ConfigError(explain(error, document, kind)) from error


def explain(error: ValidationError, document: YamlDocument | None = None, kind: type[BaseModel] | None = None) -> str:
    """Return one line for the error that comes first in `document`: line, key, problem, and how many more there are.

    With `kind`, the validated model, the line also names keys that are not in the document (from `--set`), and the
    most similar known key for an unknown one.
    """
    line_keys, _, message = _first_fault(error, document, kind)
    where = f"{document.where(line_keys)}: " if document else ""
    return f"{where}{message}"


def refuse(message: str, *keys: str | int) -> NoReturn:
    """Raise an error from within a validator; `keys`, relative to the validated value, give the line to report."""
    raise PydanticCustomError(RULE, "{message}", {"message": message, "keys": keys})


def shipped(command: str) -> tuple[str, ...]:
    """Return the names of the configurations that come with geomae for `command`."""
    folder = shipped_path("configs") / command
    return tuple(sorted(path.stem for path in folder.glob("*.yaml")))


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested mappings: `{"a": {"b": 1}}` becomes `{"a.b": 1}`; an empty mapping is kept as a value."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        flat |= flatten(value, f"{name}.") if isinstance(value, Mapping) and value else {name: value}
    return flat


def _first_fault(
    error: ValidationError, document: YamlDocument | None, kind: type[BaseModel] | None
) -> tuple[list[str | int], list[str | int], str]:
    """Return, for the first error by line: the keys of its line, the keys that pydantic reports, and the message."""
    errors = error.errors(include_url=False)
    faults = [_located(fault, document, kind) for fault in errors]
    lines = [document.lines.get(tuple(line_keys), 0) if document else 0 for _, line_keys, _ in faults]
    keys, line_keys, message = faults[first := lines.index(min(lines))]
    more = f" ({len(faults) - 1} more after this one)" if len(faults) > 1 else ""
    path = ".".join(map(str, keys))
    return line_keys, list(errors[first]["loc"]), f"{path}{': ' if path else ''}{message}{more}"


def _blamed(given: Mapping[str, str], keys: Sequence[str | int]) -> str:
    """Return the options, as written, that change the value at `keys` or one above or below it; else all options."""
    at = [str(key) for key in keys]

    def touches(change: str) -> bool:
        return all(one == other for one, other in zip(change.partition("=")[0].strip().split("."), at, strict=False))

    return " ".join(shown for shown, change in given.items() if touches(change)) or " ".join(given)


def _document(command: str, name: str) -> YamlDocument:
    path = Path(name)
    if path.suffix in (".yaml", ".yml") or path.is_file():
        return read_yaml(path)
    path = shipped_path("configs") / command / f"{name}.yaml"
    if not path.is_file():
        raise ConfigError(f"--config {name}: is neither a file nor shipped; {nearest(name, shipped(command))}")
    return read_yaml(path)


def shipped_path(name: str) -> Path:
    """Return the path of a file that comes with the program: in the installed package, or in the top of a checkout."""
    installed = Path(str(resources.files("geomae"))) / name
    return installed if installed.exists() else installed.parent.parent / name


def _set(values: dict[str, Any], change: str) -> None:
    """Apply one `a.b=value` to `values`, in place; the value is parsed as YAML."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    name, equals, text = change.partition("=")
    if not equals or not name.strip():
        raise ConfigError(f"--set {change}: is not KEY=VALUE; write for example --set steps=500")
    *parents, last = name.strip().split(".")
    for parent in parents:
        child = values.get(parent)
        if not isinstance(child, dict):
            child = values[parent] = {}
        values = child
    try:
        values[last] = YAML(typ="safe", pure=True).load(text)
    except YAMLError as error:
        raise ConfigError(f"--set {change}: the value is not valid YAML; quote it") from error


def _fields(kind: type[BaseModel], keys: Sequence[str | int]) -> list[str]:
    """Return the names of the known keys at the nested `keys` of `kind`."""
    for key in keys:
        field = kind.model_fields.get(str(key))
        if field is None or not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)):
            return []
        kind = field.annotation
    return list(kind.model_fields)


def _located(
    fault: ErrorDetails, document: YamlDocument | None, kind: type[BaseModel] | None
) -> tuple[list[str | int], list[str | int], str]:
    """Return the keys to show, the keys of the line to show, and the message of a validation error."""
    keys: list[str | int] = []
    for part in fault["loc"]:  # pydantic adds the names of union branches to the keys of a file
        if kind is not None or document is None or (*keys, part) in document.lines:
            keys.append(part)
    if fault["type"] == RULE:
        return keys, [*keys, *fault["ctx"]["keys"]], fault["msg"]
    if fault["type"] == "missing":
        return keys, keys, f"key {fault['loc'][-1]!r} is missing; add it"
    if fault["type"] == "extra_forbidden" and kind is not None:
        remedy = nearest(str(keys[-1]), _fields(kind, keys[:-1]))
        return [], keys, f"unknown key {'.'.join(map(str, keys))!r}; {remedy}"
    if fault["type"] == "value_error":
        return keys, keys, fault["msg"].removeprefix("Value error, ")
    message = WORDINGS.get(fault["type"]) or fault["msg"].replace("Input should be", "must be")
    return keys, keys, f"{message}, not {_shown(fault['input'])}"


def _shown(value: object) -> str:
    if isinstance(value, Mapping):
        return "a mapping" if value else "an empty mapping"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "a list" if value else "an empty list"
    text = "empty" if value is None else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
