"""The benchmark of the training step runs where there is little beside torch: on a bare GPU machine."""

import subprocess
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
ABSENT = ("rasterio", "torchgeo", "mlflow", "lightning_fabric", "pandas", "geopandas", "xarray", "sklearn")
STEP = f"""
import sys
sys.modules.update(dict.fromkeys({ABSENT!r}))
sys.path.insert(0, {str(BENCHMARKS)!r})
import torch
from candidates import Case, ours
from geomae.runtime.precision import precision_for
import training_step
case = Case(2, 32, 8, (24, 1, 2), (16, 1, 2))
for kind, share in (("full", 1.0), ("cross", 0.25)):
    ours(case, torch.device("cpu"), precision_for("cpu", "32"), kind, share)()
print(case.products())
"""


def test_a_step_needs_neither_rasters_nor_tracking():
    done = subprocess.run([sys.executable, "-c", STEP], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    # By hand, for two tiles, three passes, two operations per product. 16 patches, of which 4 are seen: with the class
    # token, 5 go through the encoder (width 24) and 17 through the decoder (width 16).
    encoder = 12 * 5 * 24**2 + 2 * 25 * 24
    decoder = 12 * 17 * 16**2 + 2 * 17**2 * 16
    ends = 5 * (192 * 24 + 24 * 16) + 12 * 16 * 192
    assert float(done.stdout) == 2 * 3 * 2 * (encoder + decoder + ends)
