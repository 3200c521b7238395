"""The averaged weights: the right decay, tied weights once, buffers untouched."""

import pytest
import torch
from torch import nn

from hybridpolicy.errors import CheckpointError
from hybridpolicy.training.average import WeightAverage, copy_weights, live_weights


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(2, 2)
        self.second = nn.Linear(2, 2)
        self.second.weight = self.first.weight
        self.register_buffer("mean", torch.tensor([float("nan")]))


def test_decay_rises_to_its_value_and_buffers_stay_out():
    module = Tied()
    average = WeightAverage(module, decay=0.5)
    assert sorted(average.weights) == ["first.bias", "first.weight", "second.bias"]
    expected = module.first.weight.detach().clone()
    for n in range(1, 12):
        with torch.no_grad():
            module.first.weight.add_(1)
        average.update()
        decay = min(0.5, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * module.first.weight.detach()
        assert torch.allclose(average.weights["first.weight"], expected)
    present = module.first.weight.detach().clone()
    with average.applied():
        assert torch.allclose(module.second.weight, expected)
    assert torch.equal(module.second.weight, present)


def test_no_decay_exports_the_last_weights():
    module = Tied()
    average = WeightAverage(module, decay=0.0)
    average.update()
    present = module.first.weight.detach().clone()
    with average.applied():
        assert torch.equal(module.first.weight, present)


def test_weights_of_another_policy_are_refused():
    weights = live_weights(Tied())
    with pytest.raises(CheckpointError, match=r"missing \['first.bias'\]"):
        copy_weights({name: t for name, t in weights.items() if name != "first.bias"}, weights, "x")
    with pytest.raises(CheckpointError, match=r"first.bias has shape \(3,\), the policy needs \(2,\)"):
        copy_weights(weights | {"first.bias": torch.zeros(3)}, weights, "x")
