"""Lightning Fabric, without a package that it imports only to ask for its version.

torchgeo brings torchmetrics, whose import would add seconds to every start of the program.
"""

import sys
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType

_ASKED = ModuleType("torchmetrics")
_stand_in = _ASKED.__name__ not in sys.modules
if _stand_in:
    try:
        _ASKED.__version__ = version(_ASKED.__name__)  # type: ignore[attr-defined]
        sys.modules[_ASKED.__name__] = _ASKED
    except PackageNotFoundError:
        _stand_in = False
try:
    from lightning_fabric import Fabric
    from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
    from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
finally:
    if _stand_in:
        del sys.modules[_ASKED.__name__]

__all__ = ["Fabric", "SLURMEnvironment", "TorchElasticEnvironment"]
