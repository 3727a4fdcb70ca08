import dataclasses
import math

import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from overparam.data import ImageData
from overparam.lab.problems.mnist_cnn.network import initial_network, network_inputs
from overparam.lab.problems.mnist_cnn.study import VARIANTS, CnnStudy, random_source
from overparam.lab.problems.mnist_cnn.training import CnnTraining

STUDY = CnnStudy(
    data="made", seeds=(0, 1), steps=30, side=8, channels=(2, 3), hidden=6, batch=10, epoch=55,
    penalty=0.2, init_std=0.3, held_out=20, record_every=8, evaluate_every=16,
)  # fmt: skip


def made(images=83, seed=0):
    """Images whose class is the place of a bright spot: easy to learn in a few steps."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 10, (images + 30,), generator=generator)
    pixels = torch.randint(0, 60, (images + 30, 8, 8), generator=generator, dtype=torch.uint8)
    for index, label in enumerate(labels.tolist()):
        row, column = divmod(label, 4)
        pixels[index, 2 * row : 2 * row + 3, 2 * column : 2 * column + 3] += 190
    return ImageData(
        "made", "made up", pixels[:images], labels[:images], pixels[images:], labels[images:], 10,
        "generated", "embedded",
    )  # fmt: skip


DATA = made()


def run_to_the_end(study=STUDY, variant="product", rate=0.05, seed=0, data=DATA):
    run = CnnTraining(study, variant, rate, seed, data)
    run.advance(10_000)
    assert run.finished
    return run


def reference(study, variant, rate, seed, data):
    """The same training in float64, with autograd of the whole loss and TensorFlow's step."""
    _, depth, on = VARIANTS[variant]
    start = initial_network(study.shape, depth, study.init_std, random_source(seed, "weights"))
    parameters = [tensor.double().requires_grad_() for tensor in start.tensors()]
    velocities = [torch.zeros_like(parameter) for parameter in parameters]
    count = len(data.images) - study.held_out
    losses = []
    for step in range(study.steps):
        conv1, bias1, conv2, bias2, *dense = parameters
        hidden_factors, hidden_bias = dense[:depth], dense[depth]
        last_factors, last_bias = dense[depth + 1 : -1], dense[-1]
        offset = (step * study.batch) % (count - study.batch)
        images = data.images[study.held_out :][offset : offset + study.batch]
        labels = data.labels[study.held_out :][offset : offset + study.batch]
        hidden = network_inputs(images, study.side).double()
        hidden = F.max_pool2d(torch.relu(F.conv2d(hidden, conv1, bias1, padding=2)), 2)
        hidden = F.max_pool2d(torch.relu(F.conv2d(hidden, conv2, bias2, padding=2)), 2)
        weight, last = hidden_factors[0], last_factors[0]
        for factor in hidden_factors[1:]:
            weight = factor @ weight
        for factor in last_factors[1:]:
            last = factor @ last
        hidden = torch.relu(hidden.flatten(1) @ weight.T + hidden_bias)
        logits = hidden @ last.T + last_bias
        cross_entropy = -logits.log_softmax(1)[torch.arange(study.batch), labels].mean()
        penalized = {
            "weights": [weight, last, hidden_bias, last_bias],
            "factors": [*hidden_factors, *last_factors, hidden_bias, last_bias],
            "none": [],
        }[on]
        penalty = study.penalty * sum((tensor**2).sum() / 2 for tensor in penalized)
        losses.append((cross_entropy.item(), float(torch.as_tensor(penalty).detach())))
        gradients = torch.autograd.grad(cross_entropy + penalty, parameters)
        for parameter, velocity, gradient in zip(parameters, velocities, gradients, strict=True):
            velocity.mul_(study.momentum).add_(gradient)
            parameter.data -= rate * study.decay ** (step * study.batch // study.epoch) * velocity
    return losses, parameters


@pytest.mark.parametrize("variant", VARIANTS)
def test_training_is_the_written_out_one(variant):
    study = dataclasses.replace(STUDY, dropout=0.0, record_every=1)
    losses, parameters = reference(study, variant, 0.05, 1, DATA)
    run = run_to_the_end(study, variant, 0.05, 1)
    # Here the mean since the previous record is that of a single batch, before its own step.
    for step, (cross_entropy, penalty) in enumerate(losses):
        assert run.records[step + 1][2] == pytest.approx(cross_entropy, rel=2e-3, abs=1e-4)
        assert run.records[step][3] == pytest.approx(penalty, rel=1e-4)
    assert losses[-1][0] < losses[0][0] - 0.05
    for found, expected in zip(run.network.tensors(), parameters, strict=True):
        torch.testing.assert_close(found.double(), expected, rtol=1e-2, atol=2e-4)


def test_variants_differ_by_depth_and_penalty_as_they_say():
    study = dataclasses.replace(STUDY, steps=20)
    ends = {name: run_to_the_end(study, name).records[-1] for name in VARIANTS}
    assert ends["plain_unpenalized"][3] == ends["product_unpenalized"][3] == 0
    assert len({end[1] for end in ends.values()}) == len(VARIANTS)


def test_the_batch_recorded_is_the_one_trained_last_after_its_step():
    """As the tutorial prints it; without dropout it can be recomputed from the final weights."""
    study = dataclasses.replace(STUDY, dropout=0.0, steps=9)
    run = run_to_the_end(study, "plain")
    step, batch_cross_entropy, *_ = run.records[-1]
    assert step == 9
    batch = slice(20 + 80 % 53, 20 + 80 % 53 + 10)
    with torch.no_grad():
        hidden = network_inputs(DATA.images[batch], 8)
        for (weight,), bias in run.network.convolutions:
            hidden = F.max_pool2d(torch.relu(F.conv2d(hidden, weight, bias, padding=2)), 2)
        first, last = run.network.dense
        hidden = torch.relu(F.linear(hidden.flatten(1), first.factors[0], first.bias))
        logits = F.linear(hidden, last.factors[0], last.bias)
        expected = F.cross_entropy(logits, DATA.labels[batch]).item()
    assert batch_cross_entropy == pytest.approx(expected, rel=1e-6)


def test_errors_are_shares_of_wrong_classes():
    run = run_to_the_end(dataclasses.replace(STUDY, dropout=0.0), "plain")
    steps = [record[0] for record in run.records if not math.isnan(record[5])]
    assert steps == [0, 16, 30]
    assert all(math.isnan(r[4]) == math.isnan(r[5]) for r in run.records)
    with torch.no_grad():
        hidden = network_inputs(DATA.test_images, 8)
        for (weight,), bias in run.network.convolutions:
            hidden = F.max_pool2d(torch.relu(F.conv2d(hidden, weight, bias, padding=2)), 2)
        for layer in run.network.dense[:1]:
            hidden = torch.relu(F.linear(hidden.flatten(1), layer.factors[0], layer.bias))
        found = F.linear(hidden, run.network.dense[1].factors[0], run.network.dense[1].bias)
    wrong = (found.argmax(dim=1) != DATA.test_labels).double().mean().item()
    assert run.records[-1][5] == pytest.approx(wrong, abs=1e-12)
    fewer = run_to_the_end(dataclasses.replace(STUDY, dropout=0.0, evaluated=7), "plain")
    assert round(7 * fewer.records[-1][5], 6).is_integer()
    assert fewer.records[-1][:4] == run.records[-1][:4]


def test_it_learns():
    easy = made(400, seed=5)
    study = dataclasses.replace(STUDY, steps=400, channels=(4, 8), hidden=16, penalty=5e-4)
    for variant in ("plain", "product"):
        run = run_to_the_end(study, variant, 0.05, data=easy)
        assert run.records[-1][2] < 0.5 * run.records[0][2]
        assert run.records[-1][5] < 0.3 < run.records[0][5]


def test_dropout_leaves_out_half_and_doubles_the_rest(monkeypatch):
    masks = []
    from overparam.lab.problems.mnist_cnn import training

    original = training.logits

    def spy(network, inputs, kept=None):
        if kept is not None:
            masks.append(kept)
        return original(network, inputs, kept)

    monkeypatch.setattr(training, "logits", spy)
    study = dataclasses.replace(STUDY, hidden=200, steps=10, dropout=0.25, record_every=100)
    run_to_the_end(study, "plain")
    values = torch.cat(masks).unique()
    torch.testing.assert_close(values, torch.tensor([0.0, 4 / 3]))
    assert (torch.cat(masks) == 0).double().mean().item() == pytest.approx(0.25, abs=0.01)
    assert not torch.equal(masks[0], masks[1])


def test_recording_more_often_does_not_change_the_training():
    often = run_to_the_end(dataclasses.replace(STUDY, record_every=1, evaluate_every=1))
    seldom = run_to_the_end(dataclasses.replace(STUDY, record_every=29))
    for one, other in zip(often.network.tensors(), seldom.network.tensors(), strict=True):
        assert torch.equal(one, other)


def test_seeds_differ_and_variants_of_a_seed_share_their_masks():
    first, second = run_to_the_end(seed=0), run_to_the_end(seed=1)
    assert first.records[0][1] != second.records[0][1]
    plain = run_to_the_end(variant="plain")
    assert torch.equal(plain._dropout.get_state(), first._dropout.get_state())


def test_the_mean_is_over_the_batches_since_the_last_record():
    every = run_to_the_end(dataclasses.replace(STUDY, record_every=1))
    some = run_to_the_end()
    means = {record[0]: record[2] for record in every.records}
    for before, after in zip(some.records, some.records[1:], strict=False):
        between = [means[step] for step in range(before[0] + 1, after[0] + 1)]
        assert after[2] == pytest.approx(sum(between) / len(between), rel=1e-12)


def test_it_continues_bit_for_bit_from_any_step():
    whole = run_to_the_end()
    run = CnnTraining(STUDY, "product", 0.05, 0, DATA)
    for steps in (1, 0, 7, 1, 1, 13, 100):
        run.advance(steps)
        resumed = CnnTraining(STUDY, "product", 0.05, 0, DATA)
        resumed.load_state_dict(run.state_dict())
        run = resumed
    assert run.finished
    assert str(run.records) == str(whole.records)
    for one, other in zip(run.network.tensors(), whole.network.tensors(), strict=True):
        assert torch.equal(one, other)


def test_a_run_that_diverges_ends_there():
    run = CnnTraining(STUDY, "product", 1e6, 0, DATA)
    run.advance(10_000)
    assert run.finished
    assert run.diverged_at is not None
    assert 0 < run.diverged_at < STUDY.steps
    assert run.step == run.diverged_at
    assert all(record[0] <= run.diverged_at for record in run.records)
    assert run.records[0][0] == 0


@pytest.mark.parametrize("change", [{"held_out": 73}, {"batch": 63}])
def test_too_few_images(change):
    with pytest.raises(ValueError, match=r"made has 83 images to train on, .* smaller held_out"):
        CnnTraining(dataclasses.replace(STUDY, **change), "plain", 0.1, 0, DATA)
