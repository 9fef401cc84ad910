"""The session of a command of analysis: catalogue, tiles and devices. Selecting tiles needs no slow import."""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geomae.catalog import Catalog, Selector
from geomae.commands.options import CommonOptions, check_new, check_writable, output_folder
from geomae.config import flatten
from geomae.errors import ConfigError, StorageError
from geomae.files import read_json
from geomae.runtime.console import Screen
from geomae.runtime.ranks import alone, leads
from geomae.tiles.selection import Selection, select_tiles
from geomae.tracking import as_params

RECORD = "run.json"  # in the folder of a run: its request
SHOWN = 5  # differences

if TYPE_CHECKING:  # each takes seconds to import
    from geomae.encoders.selections import EmbeddingSpec, EncoderLoader
    from geomae.runtime.devices import Compute, Fabric
    from geomae.runtime.signals import Stop


@dataclass(frozen=True)
class Session:
    """Catalogue, tiles and devices of a command of analysis; every rank has a session.

    `one_process` names a command that does not run on several ranks.
    """

    common: CommonOptions
    catalog: Catalog
    one_process: str | None = None

    @cached_property
    def screen(self) -> Screen:
        """The terminal output; only the first rank prints."""
        return Screen(shown=not self.common.quiet and self.leads)

    @property
    def leads(self) -> bool:
        """Whether this process writes the results; known also before the others are started."""
        return leads()

    @cached_property
    def compute(self) -> "Compute":
        """Devices and precision. Raises ConfigError for impossible requests."""
        from geomae.runtime.devices import open_compute

        common = self.common
        compute = open_compute(common.device, common.precision, common.devices, common.nodes)
        if self.one_process is not None and compute.fabric.world_size > 1:
            raise ConfigError(f"{self.one_process} runs in one process; start it without several tasks or devices")
        return compute

    @property
    def fabric(self) -> "Fabric":
        """Devices and ranks."""
        return self.compute.fabric

    @property
    def precision(self) -> str:
        """`32` or `bf16`."""
        return self.compute.precision

    def select(self, chosen: Sequence[str | Selector]) -> list[Selection]:
        """The tiles of the selectors; if a scheduler started the ranks, the first rank measures for all."""
        with self.fabric.rank_zero_first() if self._started_by_scheduler() else contextlib.nullcontext():
            selections = select_tiles(self.catalog, chosen, self.screen.step, self.screen.warn)
        self.screen.close()
        for one in selections:
            self.screen.say(f"{one.name}: {len(one.index)} tiles")
        return selections

    def loader(self, spec: "EmbeddingSpec", selections: Sequence[Selection]) -> "EncoderLoader":
        """Loads encoders for the data sets of the selections."""
        from geomae.encoders.selections import EncoderLoader

        return EncoderLoader(spec, selections, self.fabric.device, self.common.tracking_uri)

    def launch(self) -> None:
        """Start the other ranks; called after all checks of the request, so that an error is printed once."""
        from geomae.runtime.devices import launch

        if not self._started_by_scheduler():
            launch(self.fabric)

    def stopped(self, stop: "Stop") -> int:
        """The exit code of a rank whose work was stopped."""
        return stop.exit_code or 143 if self.fabric.is_global_zero or self._started_by_scheduler() else 0

    @staticmethod
    def _started_by_scheduler() -> bool:
        if alone():
            return False
        from geomae.runtime.devices import external

        return external()


def check_out(out: Path, request: Mapping[str, Any]) -> None:
    """Raise StorageError if `out` holds anything other than a run of the same request.

    `request` holds what is known before any tile is read; settings that are None there are not compared.
    """
    if not (out / RECORD).is_file():
        check_new(out)
        return
    known = {key: value for key, value in flatten(request).items() if value is not None}
    stored = flatten(read_json(out / RECORD))
    check_same(out, {key: value for key, value in stored.items() if key in known}, known)


def check_same(out: Path, stored: Mapping[str, Any], request: Mapping[str, Any]) -> None:
    """Raise StorageError, naming the differences, if the stored request of a run differs from `request`."""
    old, new = as_params(stored), as_params(request)
    keys = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    different = [f"{key} ({old.get(key)} there, {new.get(key)} here)" for key in keys]
    if different:
        raise StorageError(
            f"--out {out}: holds the results of another request, which differs in {'; '.join(different[:SHOWN])}; "
            "choose another folder"
        )


def open_session(
    common: CommonOptions, one_process: str | None = None, request: Mapping[str, Any] | None = None
) -> Session:
    """Open the catalogue and the devices. Raises ConfigError and CatalogError for impossible requests.

    `request` holds the command and the options that its result depends on. A folder with other results raises
    StorageError here, before tiles are read. Default devices are opened later, when first needed: importing torch and
    Fabric takes seconds, and default devices need no check.
    """
    session = Session(common, common.open_catalog(), one_process)
    if request is not None and common.out is not None and session.leads:
        from geomae import __version__

        always = {"version": __version__, "catalog": str(session.catalog.path.absolute()), "seed": common.seed}
        check_out(common.out, {**request, **always})
    if request is not None and not common.dry_run and session.leads:
        check_writable(output_folder(str(request["command"]), common.out))
    chosen = (common.device, common.precision, common.devices, common.nodes)
    usual = CommonOptions()
    if not alone() or chosen != (usual.device, usual.precision, usual.devices, usual.nodes):
        _ = session.compute
    return session
