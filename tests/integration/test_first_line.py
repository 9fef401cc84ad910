"""Commands begin with their tiles: what takes seconds to import is not there yet when these are named."""

import json
import subprocess
import sys

from tests.helpers import write_catalog, write_scenes

ARGUMENTS = [
    ["pretrain", "--dataset", "tiny", "--set", "patch=8"],
    ["embed", "--dataset", "tiny", "--encoder", "model"],
    ["embed-pca", "--dataset", "tiny", "--encoder", "baseline:statistics"],
    ["probe", "--train", "tiny", "--test", "other", "--encoder", "model"],
    ["gap", "--source", "tiny", "--target", "other", "--encoder", "model"],
    ["adapt", "--model", "model", "--target", "tiny"],
    ["finetune", "--model", "model", "--train", "tiny", "--eval", "other"],
    ["compare-recon", "--dataset", "tiny", "--model", "model"],
    ["predict", "--dataset", "tiny", "--model", "model"],
]
SCRIPT = """
import contextlib, importlib.abc, io, json, sys
class TorchError(Exception):
    pass
class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            raise TorchError
sys.meta_path.insert(0, Absent())
from geomae.cli import app
said = {}
for arguments in json.loads(sys.argv[1]):
    heard = io.StringIO()
    with contextlib.redirect_stderr(heard), contextlib.suppress(TorchError, SystemExit):
        app(arguments, standalone_mode=False)
    said[arguments[0]] = heard.getvalue()
slow = {"torch", "lightning_fabric", "timm", "mlflow", "torchgeo", "skada", "matplotlib"} & set(sys.modules)
print(json.dumps([said, sorted(slow)]))
"""


def test_each_command_names_its_tiles_before_torch_is_imported(tmp_path):
    write_scenes(tmp_path / "scenes", scenes=1, side=32)
    entry = "path: scenes/*.tif\n    sensor: naip\n    bands: [red, green, blue, nir]\n    tile: {size: 16}\n"
    write_catalog(tmp_path, f"version: 1\ndatasets:\n  tiny:\n    {entry}  other:\n    {entry}")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    command = [sys.executable, "-c", SCRIPT, json.dumps(ARGUMENTS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True, cwd=tmp_path)
    said, slow = json.loads(done.stdout)
    for name, text in said.items():
        assert text.startswith("tiny: 4 tiles") or "\ntiny: 4 tiles" in text, f"{name}: {text}"
    assert not slow
