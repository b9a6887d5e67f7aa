"""The course's Adam against torch's: same weights, same state, same hooks."""

import copy
import pickle
import subprocess
import sys

import pytest
import torch
from torch import nn

from course_lib import training


def twins(dtype: torch.dtype = torch.float32) -> tuple[nn.Module, nn.Module]:
    networks = []
    for _ in range(2):
        torch.manual_seed(0)
        networks.append(
            nn.Sequential(nn.Linear(7, 33), nn.BatchNorm1d(33), nn.ReLU(), nn.Linear(33, 5))
        )
    return tuple(network.to(dtype) for network in networks)


def descend(network: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    first = next(network.parameters())
    x = torch.randn(6, 7, generator=torch.Generator().manual_seed(seed)).to(first.dtype)
    optimizer.zero_grad()
    network(x).square().sum().backward()
    optimizer.step()


def assert_same(left: nn.Module, right: nn.Module) -> None:
    for a, b in zip(left.parameters(), right.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("fused", [True, False, None])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"weight_decay": 0.1},
        {"weight_decay": 0.1, "decoupled_weight_decay": True},
        {"maximize": True},
        {"eps": 1e-2},
    ],
)
def test_weights_and_state_are_those_of_torch(dtype, fused, options):
    mine, theirs = twins(dtype)
    ours = training.Adam(mine.parameters(), 1e-2, (0.5, 0.99), fused=fused)
    ours.param_groups[0] |= options
    reference = torch.optim.Adam(theirs.parameters(), 1e-2, (0.5, 0.99), fused=fused, **options)
    for seed in range(20):
        descend(mine, ours, seed)
        descend(theirs, reference, seed)
    assert_same(mine, theirs)
    held, expected = ours.state_dict(), reference.state_dict()
    assert held["param_groups"] == expected["param_groups"]
    for i, moments in expected["state"].items():
        assert moments.keys() == held["state"][i].keys()
        for key, value in moments.items():
            assert torch.equal(value, held["state"][i][key])


@pytest.mark.parametrize("fused", [True, False])
def test_decay_is_that_of_adamw(fused):
    mine, theirs = twins()
    ours = training.Adam(mine.parameters(), 1e-2, fused=fused, weight_decay=0.3)
    reference = torch.optim.AdamW(theirs.parameters(), 1e-2, fused=fused, weight_decay=0.3)
    for seed in range(20):
        descend(mine, ours, seed)
        descend(theirs, reference, seed)
    assert_same(mine, theirs)
    with pytest.raises(ValueError, match="weight_decay"):
        training.Adam(mine.parameters(), weight_decay=-0.1)


def test_state_goes_over_to_torch_and_back():
    mine, theirs = twins()
    ours = training.Adam(mine.parameters())
    for seed in range(3):
        descend(mine, ours, seed)
    theirs.load_state_dict(mine.state_dict())
    reference = torch.optim.Adam(theirs.parameters())
    reference.load_state_dict(copy.deepcopy(ours.state_dict()))
    descend(mine, ours, 3)
    descend(theirs, reference, 3)
    assert_same(mine, theirs)
    ours.load_state_dict(copy.deepcopy(reference.state_dict()))
    descend(mine, ours, 4)
    descend(theirs, reference, 4)
    assert_same(mine, theirs)


def test_parameters_without_gradient_stay():
    mine, theirs = twins()
    ours = training.Adam(mine.parameters())
    reference = torch.optim.Adam(theirs.parameters(), fused=True)
    for network in (mine, theirs):
        network[0].requires_grad_(False)
    before = mine[0].weight.clone()
    for seed in range(3):
        descend(mine, ours, seed)
        descend(theirs, reference, seed)
    for network in (mine, theirs):  # their first moments are made late
        network[0].requires_grad_(True)
    assert torch.equal(mine[0].weight, before)
    for seed in range(3, 6):
        descend(mine, ours, seed)
        descend(theirs, reference, seed)
    assert_same(mine, theirs)


def test_no_gradient_at_all_is_no_update():
    mine, theirs = twins()
    training.Adam(mine.parameters()).step()
    assert_same(mine, theirs)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))])
def test_a_copy_of_a_network_with_its_optimizer_counts_for_itself(copied):
    mine, theirs = twins()
    ours = training.Adam(mine.parameters())
    reference = torch.optim.Adam(theirs.parameters(), fused=True)
    for seed in range(3):
        descend(mine, ours, seed)
        descend(theirs, reference, seed)
    other, others = copied((mine, ours))
    for seed in range(3, 6):
        descend(mine, ours, seed)
        descend(other, others, seed)
        descend(theirs, reference, seed)
    assert_same(mine, theirs)
    assert_same(other, theirs)
    for moments in (*ours.state.values(), *others.state.values()):
        assert moments["step"].item() == 6


@pytest.mark.parametrize("groups", ["two rates", "two types", "amsgrad", "differentiable"])
def test_unusual_groups_are_updated_as_torch_does(groups):
    results = []
    for kind in (training.Adam, torch.optim.Adam):
        torch.manual_seed(1)
        weights = [nn.Parameter(torch.randn(4, 3)), nn.Parameter(torch.randn(5))]
        if groups == "two types":
            weights[1] = nn.Parameter(weights[1].data.double())
        optimizer = kind(weights[:1] if groups == "two rates" else weights, fused=True)
        if groups == "two rates":
            optimizer.add_param_group({"params": weights[1:], "lr": 0.1})
        elif groups != "two types":
            optimizer.param_groups[0][groups] = True
        if groups == "differentiable":
            optimizer.param_groups[0]["fused"] = False
        for _ in range(4):
            optimizer.zero_grad()
            sum(w.double().pow(4).sum() for w in weights).backward()
            optimizer.step()
        results.append([w.detach() for w in weights])
    for mine, theirs in zip(*results, strict=True):
        assert torch.equal(mine, theirs)


def test_hooks_and_closures_are_honoured():
    network, _ = twins()
    optimizer = training.Adam(network.parameters())
    calls = []
    optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
    optimizer.register_step_post_hook(lambda *_: calls.append("after"))
    descend(network, optimizer, 0)
    assert calls == ["before", "after"]

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = network(torch.ones(2, 7)).square().sum()
        value.backward()
        return value

    before = network[3].weight.clone()
    assert optimizer.step(loss).item() > 0
    assert not torch.equal(before, network[3].weight)


def test_zero_grad_forgets_or_zeroes():
    network, _ = twins()
    optimizer = training.Adam(network.parameters())
    descend(network, optimizer, 0)
    optimizer.zero_grad(set_to_none=False)
    assert all(not p.grad.any() for p in network.parameters())
    optimizer.zero_grad()
    assert all(p.grad is None for p in network.parameters())


def test_a_wrong_rate_is_refused():
    with pytest.raises(ValueError, match="learning rate"):
        training.Adam(twins()[0].parameters(), -1.0)


def test_an_update_does_not_import_the_compiler():
    code = (
        "import sys, torch\n"
        "from course_lib import training\n"
        "w = torch.nn.Parameter(torch.ones(3))\n"
        "adam = training.Adam([w])\n"
        "w.sum().backward(); adam.step(); adam.zero_grad()\n"
        "adam.load_state_dict(adam.state_dict())\n"
        "print('torch._dynamo' in sys.modules)\n"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert printed.stdout == "False\n", printed.stderr
