"""Signals are noted, not died of; devices and precisions that are not there are refused."""

import os
import signal

import pytest
import torch

from geomae.errors import ConfigError
from geomae.runtime import devices
from geomae.runtime.precision import precision_for
from geomae.runtime.signals import STOPPING, watch


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGUSR1, 138), (signal.SIGTERM, 143)])
def test_the_first_signal_decides_the_exit_code(number, code):
    before = [signal.getsignal(one) for one in STOPPING]
    with watch() as stop:
        assert (stop.signal, stop.exit_code) == (0, 0)
        os.kill(os.getpid(), number)
        assert (stop.signal, stop.exit_code) == (number, code)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.exit_code == code
    assert [signal.getsignal(one) for one in STOPPING] == before


def test_a_second_interrupt_ends_the_run_at_once():
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), watch():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) == before


def test_devices_that_are_not_there_are_refused():
    with pytest.raises(ConfigError, match="--device tpu: choose auto, cpu, cuda or mps"):
        devices.device_for("tpu")
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="--device cuda: there is none on this machine; --device auto"):
            devices.device_for("cuda")
    with pytest.raises(ConfigError, match="--precision 16: choose auto, 32 or bf16"):
        precision_for("cpu", "16")
    with pytest.raises(ConfigError, match="--strategy zero: choose auto, ddp or fsdp"):
        devices.build_fabric("cpu", 1, 1, "zero")
    with pytest.raises(ConfigError, match="--strategy fsdp: needs CUDA devices, not cpu"):
        devices.build_fabric("cpu", 1, 1, "fsdp")


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("flags\t: fpu avx2 avx512_bf16", "bf16"),
        ("flags\t: fpu avx2", "32"),
        ("Features\t: fp asimd bf16", "bf16"),
        ("", "32"),
    ],
)
def test_precision_follows_the_processor(monkeypatch, flags, expected):
    monkeypatch.setattr("pathlib.Path.read_text", lambda *args, **kwargs: f"processor\t: 0\n{flags}\n")
    assert precision_for("cpu", "auto") == expected
    assert precision_for("cpu", "32") == "32"
    assert precision_for("cpu", "bf16") == "bf16"
