"""Mutated catalogues and damaged rasters: a hundred of each, and with `-m slow` the whole campaigns.

A campaign watches what its process opens and how much memory it takes, so it has a process of its own.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def campaign(name: str, *arguments: object, timeout: int) -> dict:
    """The figures of a campaign; fails with what it found."""
    done = subprocess.run(
        [sys.executable, str(HERE / name), *map(str, arguments)],
        cwd=HERE.parents[1], env=os.environ | {"PYTHONPATH": str(HERE.parents[1])}, capture_output=True, text=True,
        timeout=timeout, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-6000:]
    figures = json.loads(done.stdout.splitlines()[-1])
    print(figures)
    return figures


def test_a_hundred_mutated_catalogues_keep_within_the_bounds():
    figures = campaign("fuzz_catalogue.py", 100, timeout=300)
    assert figures["cases"] >= 90
    assert set(figures["outcomes"]) == {"passed", "refused"}


def test_a_hundred_damaged_rasters_are_named_or_harmless():
    figures = campaign("fuzz_rasters.py", 100, timeout=600)
    assert figures["cases"] >= 80
    assert figures["outcomes"]["named"] > figures["cases"] / 2


@pytest.mark.slow
def test_twenty_thousand_mutated_catalogues_keep_within_the_bounds():
    assert campaign("fuzz_catalogue.py", 20_000, timeout=7200)["cases"] >= 19_000


@pytest.mark.slow
def test_all_damaged_rasters_are_named_or_harmless():
    assert campaign("fuzz_rasters.py", timeout=7200)["cases"] >= 900
