"""The document of scale: its job scripts run, and its table is what the model gives."""

import os
import re
import subprocess
from pathlib import Path

import pytest
from helpers import called, write_catalog, write_scenes

from pipelines.scale_model import PARAMETERS, Assumed, Measured, plan, reduce_seconds, table

DOCUMENT = Path(__file__).parents[2] / "docs/scale.md"
SCRIPTS = re.findall(r"```bash\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
STUB = '#!/bin/bash\nwhile [ "$1" != geomae ]; do shift; done\nprintf "%s\\n" "${@:2}" > words\nexit ${CODE:-0}\n'


def run_script(script, folder, **variables):
    """Run a job script with stand-ins for the starters: what they were to start, and whether it was queued again."""
    programs = folder / "programs"
    programs.mkdir(exist_ok=True)
    for name, text in {"srun": STUB, "torchrun": STUB, "scontrol": "#!/bin/bash\necho $* > queued\n"}.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    known = {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "SLURM_JOB_ID": "7",
        "HEAD": "node0",
    }
    done = subprocess.run(["bash", "-u", "-c", script], cwd=folder, env=known | variables, check=False)
    assert done.returncode == int(variables.get("CODE", 0))
    return (folder / "words").read_text().splitlines(), (folder / "queued").exists()


@pytest.mark.parametrize("script", SCRIPTS, ids=["slurm", "torchrun"])
def test_a_job_script_starts_a_training_that_would_run(script, tmp_path):
    words, queued = run_script(script, tmp_path)
    assert words[0] == "pretrain" and "--out" in words and not queued
    write_scenes(tmp_path / "scenes", scenes=2, side=32)
    write_catalog(tmp_path)
    done = called(*words, "--dry-run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "4096" in done.stdout
    assert not (tmp_path / "runs").exists()


def test_a_job_that_was_stopped_in_time_is_queued_and_goes_on(tmp_path):
    assert not run_script(SCRIPTS[0], tmp_path, CODE="1")[1]
    assert run_script(SCRIPTS[0], tmp_path, CODE="138")[1]
    (tmp_path / "runs/7/checkpoints").mkdir(parents=True)
    words, _ = run_script(SCRIPTS[0], tmp_path)
    assert words == ["pretrain", "--resume", "runs/7"]


def test_the_options_for_slurm_fit_each_other():
    asked = dict(re.findall(r"#SBATCH --([a-z-]+)=(\S+)", SCRIPTS[0]))
    ranks = int(asked["nodes"]) * int(asked["ntasks-per-node"])
    (batch,) = re.findall(r"batch=(\d+)", SCRIPTS[0])
    assert asked["ntasks-per-node"] == asked["gpus-per-node"]
    assert int(batch) % ranks == 0


def test_the_table_is_what_the_model_gives():
    known = (PARAMETERS["base"], 12, 100)
    lines = table(plan(*known, tiles, gpus, Measured(), Assumed()) for tiles in (10**6, 10**9) for gpus in (1, 1024))
    for line in lines.splitlines():
        assert line in DOCUMENT.read_text(encoding="utf-8")


def test_a_ring_sends_twice_what_is_summed_but_for_its_own_share():
    assert reduce_seconds(100, 1, 10) == 0
    assert reduce_seconds(100, 2, 10) == 10
    assert reduce_seconds(100, 1024, 10) == pytest.approx(20, rel=1e-3)


def test_what_limits_is_the_slowest_part():
    def limit(gpus, tiles=1e9, bands=1, **changes):
        return plan(85e6, bands, 100, tiles, gpus, Measured(decoded_per_core=1e6), Assumed(**changes)).limit

    assert limit(1) == "computation"
    assert limit(8, storage_bytes_s=1e6).startswith("storage")
    assert limit(16, between_bytes_s=1e8).startswith("network")
    assert plan(85e6, 12, 100, 1e9, 1, Measured(decoded_per_core=1.0), Assumed()).limit.startswith("decoding")
    assert "steps too few" in limit(1024, tiles=1e6)
    assert "index too large" in limit(8, bands=12)
    assert plan(6e9, 1, 1, 1e6, 8, Measured(), Assumed()).strategy == "FSDP"
