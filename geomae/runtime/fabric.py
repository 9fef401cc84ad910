"""Lightning Fabric, imported without torchmetrics.

Fabric imports torchmetrics to compare its version, for a detector of spikes that nothing here uses, and with it pyplot
and most of scipy, which every command would wait for. While torchmetrics stands as absent, Fabric does without.
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
