"""Precisions that differ: networks under autocast, and rewards finer than the networks."""

import pytest
import torch

from tests.losses.peers import LOSSES, gradients, make, sequences, total
from tests.losses.test_off_policy import every_loss, with_noise

estimators = pytest.mark.parametrize("value_type", ["gae", "td0", "td1", "td_lambda", "vtrace"])


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("estimated", [False, True], ids=["given", "estimated"])
@pytest.mark.parametrize("head", ["normal", "categorical"])
def test_a_loss_under_autocast_is_near_that_without(name, estimated, head):
    loss = make(name, head, clip_value=None if estimated else 0.2).eval()
    data = sequences(loss, estimated)
    expected = loss(data)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = loss(data)
    slopes = [gradients(total(x), loss) for x in (outputs, expected)]
    for key, x in outputs.items():
        assert x.dtype == torch.float32, key
        if not key.endswith("_fraction"):  # a single sample may cross the bound
            torch.testing.assert_close(x, expected[key], rtol=0.03, atol=0.03)
    for a, b in zip(*slopes, strict=True):
        torch.testing.assert_close(a, b, rtol=0.1, atol=0.05)
    assert not torch.equal(total(outputs), total(expected))


@every_loss
@pytest.mark.filterwarnings("ignore:No target network updater")
def test_a_loss_of_action_values_under_autocast_is_near_that_without(subject):
    loss = subject.ours()
    data = with_noise(loss, subject.data(30))
    expected = loss(data)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = loss(data)
    for key, x in outputs.items():
        assert x.dtype == torch.float32, key
        torch.testing.assert_close(x, expected[key], rtol=0.1, atol=0.1, msg=key)
    assert not torch.equal(outputs["td_error"], expected["td_error"])
    sum(outputs[name] for name in loss.minimised).backward()
    assert all(p.grad is None or p.grad.dtype == torch.float32 for p in loss.parameters())


@estimators
def test_every_estimator_takes_values_of_another_precision(value_type):
    loss = make("A2CLoss").make_value_estimator(value_type)
    data = sequences(loss)
    expected = loss(data)
    with torch.autocast("cpu", torch.bfloat16):
        for key, x in loss(data).items():
            torch.testing.assert_close(x, expected[key], rtol=0.03, atol=0.03)
    finer = data.clone()
    finer["next", "reward"] = data["next", "reward"].double()
    outputs = loss(finer)
    assert outputs["loss_objective"].dtype == outputs["loss_critic"].dtype == torch.float64
    torch.testing.assert_close(outputs, expected, check_dtype=False)
    for a, b in zip(gradients(total(outputs), loss), gradients(total(expected), loss), strict=True):
        torch.testing.assert_close(a, b)
    advantage = loss.value_estimator(finer)["advantage"]
    assert advantage.dtype == torch.float64


@pytest.mark.parametrize("distance", ["l1", "l2", "smooth_l1"])
@pytest.mark.parametrize("name", LOSSES)
def test_targets_finer_than_the_critic(name, distance):
    loss = make(name, clip_value=0.2, loss_critic_type=distance).eval()
    data = sequences(loss, estimated=False)
    expected = loss(data)
    for key in ("advantage", "value_target"):
        data[key] = data[key].double()
    outputs = loss(data)
    for a, b in zip(gradients(total(outputs), loss), gradients(total(expected), loss), strict=True):
        assert a.dtype == torch.float32
        torch.testing.assert_close(a, b)
