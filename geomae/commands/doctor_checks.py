"""The checks of `geomae doctor`: each yields findings, one line each, with a remedy if something is wrong.

An unexpected error in a check is reported as a finding, so that the other checks still run.
"""

import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from geomae.errors import GeomaeError
from geomae.files import cache_folder

State = Literal["ok", "note", "fault"]  # note: something is slow or limited; fault: something does not work

PACKAGES = (
    "torch", "timm", "lightning-fabric", "numpy", "rasterio", "geopandas", "pyproj", "torchgeo", "xarray", "zarr",
    "scikit-learn", "skada", "mlflow", "pydantic", "safetensors",
)  # fmt: skip
GIB = 2**30
LITTLE_ROOM, NO_ROOM = 5 * GIB, GIB // 4  # free disk space: a run of `tiny` writes 0.1 GiB, one of `base` a few GiB
LITTLE_MEMORY = 4 * GIB
TIMED_S = 2.0  # of training steps
WORTH = 1.1  # speed-up from which a precision is recommended; smaller ones are within the noise of a busy machine


@dataclass(frozen=True)
class Finding:
    """One line of the report; `facts` holds the same as values, for `--json`."""

    check: str
    state: State
    text: str
    remedy: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)


Check = Callable[[], Iterator[Finding]]
Step = Callable[[], None]
NAMES = {"32": "fp32", "bf16": "bf16"}  # of precisions


def examine(checks: Mapping[str, Check]) -> Iterator[Finding]:
    """The findings of each check; an exception becomes a fault under the name of the check."""
    for name, check in checks.items():
        try:
            yield from check()
        except GeomaeError as error:
            yield Finding(name, "fault", " ".join(str(error).split()))
        except Exception as error:
            text = f"{type(error).__name__}: {' '.join(str(error).split())}"
            yield Finding(name, "fault", text, "report it with `geomae doctor --json`")


def worst(findings: Sequence[Finding]) -> State:
    """The most severe state among findings."""
    states = {one.state for one in findings}
    return "fault" if "fault" in states else "note" if "note" in states else "ok"


def versions() -> Iterator[Finding]:
    """Python, geomae and the packages that results depend on; none is imported for it."""
    found: dict[str, str] = {"geomae": version("geomae"), "python": platform.python_version()}
    missing = []
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            missing.append(name)
    text = ", ".join(f"{name} {one}" for name, one in found.items())
    yield Finding("versions", "ok", text, facts=found | {"platform": platform.platform()})
    if missing:
        yield Finding("versions", "fault", f"not installed: {', '.join(missing)}", "reinstall geomae in this Python")


def processor() -> Iterator[Finding]:
    """Cores and free memory that this process may use."""
    cores = _cores()
    threads = os.environ.get("OMP_NUM_THREADS")
    facts: dict[str, Any] = {"cores": cores, "OMP_NUM_THREADS": threads, "processor": _processor_name()}
    yield Finding("processor", "ok", f"{facts['processor']}, {cores} cores", facts=facts)
    if threads is not None and threads.isdigit() and int(threads) < cores:
        text = f"OMP_NUM_THREADS={threads} leaves {cores - int(threads)} of {cores} cores idle in training"
        yield Finding("processor", "note", text, "unset it, unless the machine is shared")
    total, available = _memory()
    if total is None or available is None:
        yield Finding("memory", "note", "cannot be determined on this system")
        return
    facts = {"total_bytes": total, "available_bytes": available}
    text = f"{available / GIB:.1f} of {total / GIB:.1f} GiB are free"
    if available < LITTLE_MEMORY:
        yield Finding("memory", "note", text, "close other programs, or train with a smaller --set batch", facts)
    else:
        yield Finding("memory", "ok", text, facts=facts)


def accelerators() -> Iterator[Finding]:
    """Devices that torch finds, and the one that `--device auto` takes."""
    import torch

    from geomae.runtime.devices import device_for

    chosen = device_for("auto")
    names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    facts: dict[str, Any] = {"auto": chosen, "cuda_devices": names, "cuda_build": torch.version.cuda}
    if names:
        sizes = [torch.cuda.get_device_properties(number).total_memory / GIB for number in range(len(names))]
        listed = ", ".join(f"{name} ({size:.0f} GiB)" for name, size in zip(names, sizes, strict=True))
        yield Finding("devices", "ok", f"{listed}; --device auto takes {chosen}", facts=facts)
    elif torch.version.cuda and Path("/proc/driver/nvidia").exists():
        text = f"an NVIDIA driver is installed, but torch (built for CUDA {torch.version.cuda}) finds no device"
        remedy = "install a driver and a torch that fit together; `nvidia-smi` shows the driver's CUDA version"
        yield Finding("devices", "fault", text, remedy, facts)
    else:
        yield Finding("devices", "ok", f"no GPU; --device auto takes {chosen}", facts=facts)


def formats() -> Iterator[Finding]:
    """The version of GDAL, and the drivers that read and write rasters."""
    from geomae.rasters.opening import DRIVERS, GDAL_VERSION, WRITES, missing_drivers

    missing = missing_drivers()
    facts = {"gdal": GDAL_VERSION, "missing": missing}
    if missing:
        text = f"GDAL {GDAL_VERSION} lacks the drivers {', '.join(missing)}: such files cannot be opened"
        remedy = "install rasterio from its wheel (`pip install --force-reinstall rasterio`)"
        yield Finding("formats", "fault" if set(WRITES) & set(missing) else "note", text, remedy, facts)
        return
    yield Finding("formats", "ok", f"GDAL {GDAL_VERSION} reads {', '.join(DRIVERS)}", facts=facts)


def disks(out: Path) -> Iterator[Finding]:
    """Whether the cache and the folder of runs are writable, and their free space."""
    cache = cache_folder()
    yield from _disk("cache", cache, f"set GEOMAE_CACHE to a writable folder, not {cache}")
    yield from _disk("runs", out.absolute(), "run commands in a folder that you may write to, or name one with --out")


def tracking(uri: str | None) -> Iterator[Finding]:
    """Whether the tracking store is writable."""
    from geomae.tracking.store import check_database, database_path, resolve_uri, without_password

    resolved = resolve_uri(uri)
    shown = without_password(resolved)
    facts = {"uri": shown}
    database = database_path(resolved)
    if database is None:
        yield from _server(resolved, shown)
    elif not database.exists():
        yield Finding("tracking", "ok", f"{shown} will be created by the first run", facts=facts)
    else:
        try:
            check_database(resolved)
        except OSError as error:
            remedy = "stop the program that locks it, or name another store with --tracking-uri"
            yield Finding("tracking", "fault", f"{shown} cannot be written: {error}", remedy, facts)
            return
        yield Finding("tracking", "ok", f"{shown} can be written", facts=facts)


def catalogue(path: Path | None) -> Iterator[Finding]:
    """Whether the catalogue is valid, and whether each data set has files."""
    from geomae.catalog import open_catalog

    file = path or Path("data_catalog.yaml")
    if path is None and not file.exists():
        remedy = "write one with `geomae catalog init FOLDER`, or with --sample for a first trial"
        yield Finding("catalogue", "note", "there is no data_catalog.yaml in this folder", remedy)
        return
    catalog = open_catalog(file)
    yield Finding("catalogue", "ok", f"{file} is valid", facts={"path": str(file), "datasets": sorted(catalog.entries)})
    for name, entry in catalog.entries.items():
        if not entry.paths:  # generated, or found by torchgeo
            continue
        from geomae.tiles.sources import open_source

        scenes = len(open_source(catalog, name).scenes)
        yield Finding("catalogue", "ok", f"{name}: {scenes} scenes; `geomae catalog check` audits them")


def training() -> Iterator[Finding]:
    """Speed of training in both precisions with the model of `tiny`, and whether `auto` takes the faster one."""
    import torch

    from geomae.runtime.devices import device_for
    from geomae.runtime.precision import keep_freed_memory, precision_for

    device = torch.device(device_for("auto"))
    if device.type == "cpu":
        keep_freed_memory()
    chosen = precision_for(device.type, "auto")
    rates = _tiles_per_s(device, ("32", "bf16"))
    facts = {"device": device.type, "auto": chosen, "tiles_per_s": rates, "threads": torch.get_num_threads()}
    faster = max(rates, key=lambda one: rates[one])
    other = "32" if chosen == "bf16" else "bf16"
    text = f"{rates[chosen]:.0f} tiles/s of 64 x 64 x 3 in {NAMES[chosen]}, {rates[other]:.0f} in {NAMES[other]}"
    if _busy():
        text += "; other programs use this machine, so the figures are uncertain"
    elif faster != chosen and rates[faster] > WORTH * rates[chosen]:
        yield Finding("training", "note", text, f"--precision {faster} is faster here than auto", facts)
        return
    yield Finding("training", "ok", f"{text}; --precision auto takes {NAMES[chosen]}", facts=facts)


def _disk(name: str, folder: Path, remedy: str) -> Iterator[Finding]:
    there = next(one for one in (folder, *folder.absolute().parents) if one.exists())
    facts: dict[str, Any] = {"path": str(folder)}
    try:
        with tempfile.NamedTemporaryFile(dir=there, prefix=".geomae-doctor-") as file:
            file.write(b"\0" * 4096)
            file.flush()
    except OSError as error:
        full = shutil.disk_usage(there).free < NO_ROOM
        text = f"{folder} cannot be written ({error.strerror})"
        yield Finding(name, "fault", text, "free some space there" if full else remedy, facts)
        return
    free = shutil.disk_usage(there).free
    facts["free_bytes"] = free
    text = f"{folder} can be written; {free / GIB:.1f} GiB are free"
    if free < LITTLE_ROOM:
        yield Finding(name, "fault" if free < NO_ROOM else "note", text, f"free some space, or {remedy}", facts)
    else:
        yield Finding(name, "ok", text, facts=facts)


def _server(uri: str, shown: str) -> Iterator[Finding]:
    """Whether a tracking server answers at all; stores of other kinds are not tried."""
    import urllib.error
    import urllib.request

    if not uri.startswith(("http://", "https://")):
        yield Finding("tracking", "note", f"{shown}: not tried here; the first run shows whether it can be written")
        return
    try:
        with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=5):
            pass
    except urllib.error.HTTPError:  # it answers, and may ask for a password
        pass
    except OSError as error:
        reason = getattr(error, "reason", error)
        remedy = "start the server, or name another store with --tracking-uri; runs continue without tracking"
        yield Finding("tracking", "fault", f"{shown} does not answer ({reason})", remedy, {"uri": shown})
        return
    yield Finding("tracking", "ok", f"{shown} answers", facts={"uri": shown})


def _tiles_per_s(device: Any, precisions: Sequence[str]) -> dict[str, float]:
    """Training speed in tiles per second of a masked autoencoder of the size of `tiny`, by precision.

    Steps of the precisions alternate, so that a drift of the machine's speed affects both; the median step counts.
    """
    batch = 32
    steps = {precision: _training_step(device, precision, batch) for precision in precisions}
    for step in steps.values():
        step()
    seconds: dict[str, list[float]] = {precision: [] for precision in precisions}
    begun = time.perf_counter()
    while time.perf_counter() - begun < TIMED_S:
        for precision, step in steps.items():
            before = time.perf_counter()
            step()
            seconds[precision].append(time.perf_counter() - before)
    return {precision: batch / statistics.median(taken) for precision, taken in seconds.items()}


def _training_step(device: Any, precision: str, batch: int, side: int = 64, patch: int = 8, bands: int = 3) -> Step:
    """A training step of a new model on tiles of noise; it waits until the device has finished."""
    import torch

    from geomae.config import Decoder
    from geomae.models.architecture import architecture
    from geomae.models.mae import MaskedAutoencoder
    from geomae.models.masking import Mask
    from geomae.runtime.precision import working_precision
    from geomae.training.optimizer import build_optimizer, decayed, guarded_step

    patches = (side // patch) ** 2
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        shape = architecture("tiny", bands=bands, patch=patch, embedding="stacked", decoder=Decoder(kind="cross"))
        model = MaskedAutoencoder(shape).to(device).train()
        pixels_BCHW = torch.randn(batch, bands, side, side).to(device)
        mask = Mask(torch.stack([torch.randperm(patches) for _ in range(batch)]).to(device), patches // 4)
    valid_BCHW, codes_CF = torch.ones_like(pixels_BCHW, dtype=torch.bool), torch.zeros(bands, 1, device=device)
    optimizer = build_optimizer(model, decayed(model), 0.05)

    def step() -> None:
        with working_precision(device, precision):
            loss = model(pixels_BCHW, valid_BCHW, codes_CF, mask).mean()
        loss.backward()
        guarded_step(optimizer, 1e-4, ~torch.isfinite(loss))
        float(loss.detach())

    return step


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _busy() -> bool:
    """Whether the load, without this program, exceeds the number of cores."""
    return hasattr(os, "getloadavg") and os.getloadavg()[0] > _cores() + 1


def _memory() -> tuple[int | None, int | None]:
    """Total memory and memory available to this process, in bytes; a container's limit counts if it is lower."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None, None
    kib = {key: int(value.split()[0]) for key, _, value in (line.partition(":") for line in lines)}
    total, available = kib["MemTotal"] * 1024, kib["MemAvailable"] * 1024
    limit, used = (_number(Path("/sys/fs/cgroup") / name) for name in ("memory.max", "memory.current"))
    if limit is not None and limit < total:
        total, available = limit, min(available, max(limit - (used or 0), 0))
    return total, available


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):  # absent, or `max`
        return None


def _processor_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or sys.platform)
