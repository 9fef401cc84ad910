"""The rate as a function of the step, the two groups of parameters, and steps that are not finite."""

import math
from itertools import pairwise

import pytest
import torch
from tiny_models import MODELS, RECORD, orders, tiles, tiny_mae
from torch.utils._python_dispatch import TorchDispatchMode

from geomae.config import Optimizer, PretrainConfig
from geomae.errors import TrainingError
from geomae.models.band_embedding import band_codes
from geomae.models.folder import sensor_tensors, standardise
from geomae.models.masking import Mask
from geomae.training.loop import Clock, StepResult, check_finite
from geomae.training.optimizer import build_optimizer, decayed, guarded_step, learning_rate, plain_name


def config(steps=1000, batch=512, **optimizer):
    return PretrainConfig(steps=steps, batch=batch, optimizer=Optimizer(base_rate=1e-3, **optimizer))


def test_warm_up_peak_and_floor():
    one = config(warmup=0.1, floor=0.2)
    peak = 1e-3 * 512 / 256
    rates = [learning_rate(step, one) for step in range(1001)]
    assert rates[0] == pytest.approx(peak / 100)
    assert rates[:100] == pytest.approx([peak * (step + 1) / 100 for step in range(100)])
    assert max(rates) == rates[99] == rates[100] == pytest.approx(peak)
    assert rates[550] == pytest.approx(peak * 0.6)  # half way down between the peak and the floor
    assert rates[1000] == pytest.approx(0.2 * peak)
    assert all(before > after for before, after in pairwise(rates[100:]))
    assert min(rates[100:]) >= 0.2 * peak * (1 - 1e-12)


def test_no_warm_up_begins_at_the_peak_and_ends_above_zero():
    one = config(warmup=0.0, batch=256)
    assert learning_rate(0, one) == pytest.approx(1e-3)
    assert 0 < learning_rate(999, one) < 1e-7
    assert learning_rate(250, one) == pytest.approx(1e-3 * 0.5 * (1 + math.cos(math.pi / 4)))
    assert learning_rate(0, config(steps=1, warmup=0.9)) == pytest.approx(2e-3)


def test_the_rate_is_a_pure_function_of_the_step():
    one = config(warmup=0.05)
    forward = [learning_rate(step, one) for step in range(300)]
    assert [learning_rate(step, one) for step in reversed(range(300))] == forward[::-1]


@pytest.mark.parametrize("embedding", MODELS)
def test_decay_acts_neither_on_biases_nor_norms_nor_single_tokens(embedding):
    mae = tiny_mae(embedding)
    decay = decayed(mae)
    shapes = {name: value.ndim for name, value in mae.named_parameters()}
    for name, ndim in shapes.items():
        single = name.endswith(("bias", "cls_token", "mask_token")) or ".norm" in name
        assert (name in decay) == (not single), name
        assert ndim > 1 or name not in decay
    optimizer = build_optimizer(mae, decay, 0.05)
    with_decay, without = optimizer.param_groups
    assert (with_decay["weight_decay"], without["weight_decay"]) == (0.05, 0.0)
    assert len(with_decay["params"]) == len(decay)
    assert len(with_decay["params"]) + len(without["params"]) == len(shapes)
    assert with_decay["betas"] == (0.9, 0.95)


class NoCopies(TorchDispatchMode):
    """Raises where a tensor is copied, as from the host to a device, which on a GPU waits for all that is queued."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert "copy" not in func.__name__, func
        return func(*args, **(kwargs or {}))


def test_statistics_are_copied_to_a_device_once():
    pixels, valid = (values.to("meta") for values in tiles())
    sensor = sensor_tensors(RECORD, torch.device("meta"))
    with NoCopies():
        sensor.standardise(pixels, valid)
    with pytest.raises(AssertionError, match="copy"), NoCopies():
        tiles()[0].to("meta")


def test_names_are_the_same_in_any_wrapper():
    assert plain_name("_forward_module.module.encoder.norm.bias") == "encoder.norm.bias"
    assert plain_name("_fsdp_wrapped_module._orig_mod.encoder.norm.bias") == "encoder.norm.bias"
    assert plain_name("encoder.norm.bias") == "encoder.norm.bias"


@pytest.fixture
def trained():
    """A model and its optimizer after one sound step, and a function that fills in the gradient of the next."""
    mae = tiny_mae("spectral")
    optimizer = build_optimizer(mae, decayed(mae), 0.05)
    pixels, valid = tiles()
    inputs, codes = standardise(pixels, valid, RECORD), band_codes(RECORD.bands)

    def backward():
        mae(inputs, valid, codes, Mask(orders(2, 12), 4)).mean().backward()

    backward()
    guarded_step(optimizer, 1e-3, torch.tensor(False))
    return mae, optimizer, backward


def everything(mae, optimizer):
    """Copies of all weights and moments."""
    moments = [value.clone() for state in optimizer.state.values() for value in state.values()]
    return [value.detach().clone() for value in mae.parameters()] + moments


def test_a_broken_step_changes_no_weight_and_no_moment(trained):
    mae, optimizer, backward = trained
    before = everything(mae, optimizer)
    backward()
    next(mae.parameters()).grad.fill_(torch.nan)
    guarded_step(optimizer, 1e-3, torch.tensor(True))
    assert all(torch.equal(a, b) for a, b in zip(before, everything(mae, optimizer), strict=True))
    assert all(value.grad is None for value in mae.parameters())


def test_a_sound_step_changes_every_weight_and_moment(trained):
    mae, optimizer, backward = trained
    before = everything(mae, optimizer)
    backward()
    guarded_step(optimizer, 1e-3, torch.tensor(False))
    assert not any(torch.equal(a, b) for a, b in zip(before, everything(mae, optimizer), strict=True))


def test_after_a_broken_step_training_goes_on_as_if_it_had_not_been(trained):
    mae, optimizer, backward = trained
    start = {name: value.clone() for name, value in mae.state_dict().items()}
    saved = {id(p): {k: v.clone() for k, v in state.items()} for p, state in optimizer.state.items()}
    backward()
    guarded_step(optimizer, 1e-3, torch.tensor(False))
    expected = everything(mae, optimizer)
    mae.load_state_dict(start)
    for p, state in optimizer.state.items():
        for k, value in state.items():
            value.copy_(saved[id(p)][k])
    for value in mae.parameters():
        value.grad = torch.full_like(value, torch.inf)
    guarded_step(optimizer, 1.0, torch.tensor(True))
    backward()
    guarded_step(optimizer, 1e-3, torch.tensor(False))
    assert all(torch.equal(a, b) for a, b in zip(expected, everything(mae, optimizer), strict=True))


def test_the_first_step_may_be_broken():
    mae = tiny_mae()
    optimizer = build_optimizer(mae, decayed(mae), 0.05)
    before = [value.detach().clone() for value in mae.parameters()]
    for value in mae.parameters():
        value.grad = torch.full_like(value, torch.nan)
    guarded_step(optimizer, 1e-3, torch.tensor(True))
    assert all(torch.equal(a, b) for a, b in zip(before, mae.parameters(), strict=True))
    assert all((value == 0).all() for state in optimizer.state.values() for value in state.values())


def pulse(loss, norm, per_tile):
    values = torch.tensor([0.0, norm, loss, 10.0], dtype=torch.float64)
    pooled = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]])
    return StepResult(values, {"pixels": 1.0}, ("a:0:0", "b:8:0", "c:0:8"), torch.tensor(per_tile), pooled)


def test_steps_that_are_not_finite_stop_the_run_and_name_the_tiles():
    check_finite(None)
    check_finite(pulse(5.0, 1.0, [1.0, 2.0, 2.0]))
    with pytest.raises(TrainingError, match=r"the loss is not finite, no weight was changed; tiles: b:8:0; look at"):
        check_finite(pulse(math.nan, math.nan, [1.0, math.nan, 2.0]))
    with pytest.raises(TrainingError, match=r"the gradient is not finite.*tiles: a:0:0, b:8:0, c:0:8; look at"):
        check_finite(pulse(5.0, math.inf, [1.0, 2.0, 2.0]))
    with pytest.raises(TrainingError, match="the gradient is not finite"):  # of another rank's tiles
        check_finite(pulse(math.inf, 1.0, [1.0, 2.0, 2.0]))


def test_figures_of_a_step():
    one = pulse(5.0, 2.0, [1.0, 2.0, 2.0])
    found = one.figures()
    assert found == {"loss": 0.5, "gradient_norm": 2.0, "effective_rank": pytest.approx(1.755, abs=1e-3)}
    assert not one.stopping
    nothing = torch.zeros(0), torch.zeros(0, 2)
    assert StepResult(torch.tensor([1.0, 2.0, 5.0, 10.0]), {"pixels": 1.0}, (), *nothing).stopping


def test_figures_of_several_terms_are_weighted():
    values = torch.tensor([0.0, 1.0, 6.0, 3.0, 8.0, 2.0])
    one = StepResult(values, {"pixels": 1.0, "places": 0.5}, ("a",), torch.zeros(1), torch.zeros(1, 2))
    found = one.figures()
    assert found == {"loss": 4.0, "pixels": 2.0, "places": 4.0, "gradient_norm": 1.0, "effective_rank": 0.0}


def test_the_clock_tells_waiting_from_work(monkeypatch):
    now = iter([0.0, 1.0, 4.0, 10.0, 10.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(now))
    clock = Clock()
    with clock.waiting():
        pass
    clock.count(30)
    assert clock.lap() == {"tiles_per_s": 3.0, "data_wait_share": 0.3}
