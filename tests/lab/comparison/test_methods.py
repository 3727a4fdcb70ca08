import pytest
import torch
from torch import nn

from overparam import EndToEnd, Factored, Radial
from overparam.lab.comparison.methods import parse_method


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("adamw", torch.optim.AdamW),
        ("NAdam", torch.optim.NAdam),
        ("momentum", torch.optim.SGD),
        ("adamw+factors:2", Factored),
        ("sgd(momentum=0.9)+rule:2.5", EndToEnd),
        ("adamw(betas=(0.9, 0.95))+radial:4", Radial),
        ("adamw+model:2", torch.optim.AdamW),
        ("adamw+rwf:1", torch.optim.AdamW),
        ("muon", EndToEnd),
        ("muon+factors:2", Factored),
    ],
)
def test_methods_are_made_of_the_shipped_optimizers_and_take_a_step(name, kind):
    model = network()
    optimizer = parse_method(name).make(model, 0.01)
    assert type(optimizer) is kind
    model(torch.ones(3, 4)).square().mean().backward()
    before = [p.detach().clone() for p in model.parameters()]
    optimizer.step()
    assert all(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert {group["lr"] for group in optimizer.param_groups} == {0.01}


def test_options_reach_the_inner_optimizer():
    optimizer = parse_method("adamw(betas=(0.9, 0.95), weight_decay=0)+radial:4").make(network(), 1)
    group = optimizer.param_groups[0]
    assert (group["betas"], group["weight_decay"], group["radial"]) == ((0.9, 0.95), 0, 4.0)
    assert parse_method("momentum").make(network(), 1).param_groups[0]["momentum"] == 0.9


def test_excluded_weights_get_no_depth():
    optimizer = parse_method("sgd+factors:2").make(network(), 0.1, exclude=("2",))
    assert [name for name, p in optimizer.param_groups[0].items() if name == "depth"]
    assert "excluded" in str(optimizer.routing())


@pytest.mark.parametrize(
    ("kind", "sides"),
    [("model", [2]), ("sides", [(1, 1), (5, 5), (1, 1)]), ("kernels", [(3, 3), (3, 3)])],
)
def test_a_convolution_is_read_in_three_ways(kind, sides):
    torch.manual_seed(0)
    model = nn.Conv2d(2, 4, 5, padding=2)
    images = torch.randn(1, 2, 8, 8)
    before = model(images)
    parse_method(f"sgd+{kind}:2").make(model, 0.1)
    factors = [p for name, p in model.named_parameters() if "bias" not in name]
    found = [len(factors)] if kind == "model" else [tuple(f.shape[2:]) for f in factors]
    assert found == sides
    torch.testing.assert_close(model(images), before, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["factors:2", "rule:2", "radial:2", "model:2", "rwf:1"])
def test_depth_that_changes_nothing_is_refused(kind):
    method = parse_method(f"sgd+{kind}")
    for model, exclude in ((nn.LayerNorm(4), ()), (nn.Linear(4, 2), ("weight",))):
        with pytest.raises(ValueError, match="no weight of the model is read as a matrix"):
            method.make(model, 0.1, exclude)


def test_baselines_and_their_names():
    assert parse_method("sgd(momentum=0.9)").is_baseline
    deep = parse_method("sgd(momentum=0.9)+rule:2")
    assert not deep.is_baseline
    assert deep.plain_name == "sgd(momentum=0.9)"
    assert parse_method("adamw+radial:2").plain_name == "adamw"


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ('momentum(granularity="entry")+rule:2', "momentum"),
        ("muon(imbalance=1.0,both_sides=True)+rule:2", "muon"),
        ('sgd(momentum=0.9,imbalance=(0, 1, 2),normalize="metric")+rule:3', "sgd(momentum=0.9)"),
        ('radam(betas=(0.9, 0.95), metric="euclidean")+radial:2', "radam(betas=(0.9, 0.95))"),
    ],
)
def test_a_plain_optimizer_has_no_options_of_depth(name, plain):
    method = parse_method(name)
    assert method.plain_name == plain
    for each in (method, parse_method(plain), parse_method(f"{plain}+radial:2")):
        each.make(nn.Linear(3, 2), 0.1)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("adm", "Did you mean 'adam'"),
        ("adamw+factor:2", "Did you mean 'factors'"),
        ("adamw+factors:2.5", "whole number"),
        ("adamw+rule:half", "not a number"),
        ("adamw+rule:0.5", "at least 1"),
        ("adamw+sides:2.5", "whole number"),
        ("adamw+rwf:-1", "not understood"),
        ("adamw+rwf:inf", "not a finite number"),
        ("sgd(0.9)", "write options as sgd"),
        ("sgd(lr=0.1)", "always tuned"),
        ("adamw+", "not understood"),
    ],
)
def test_a_wrong_name_gets_a_remedy(name, message):
    with pytest.raises(ValueError, match=message):
        parse_method(name)
