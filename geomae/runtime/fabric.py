"""Lightning Fabric, imported without torchmetrics.

Fabric imports torchmetrics to check its version, for a detector of loss spikes that is not used here. torchmetrics
imports pyplot and most of scipy, which would delay every command. So it is marked as absent during the import.
"""

import sys

IMPORTED = "torchmetrics" in sys.modules
if not IMPORTED:
    sys.modules["torchmetrics"] = None  # type: ignore[assignment]
try:
    from lightning_fabric import Fabric
    from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
    from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
finally:
    if not IMPORTED:
        del sys.modules["torchmetrics"]

__all__ = ["Fabric", "SLURMEnvironment", "TorchElasticEnvironment"]
