"""What samples estimate where no formula exists: their number, their noise, their gradients."""

import pytest
import torch

from compiled_rl import KLPENPPOLoss
from tests.losses.peers import ACTION, HEADS, networks, record

SAMPLES = 5


def test_the_divergence_is_the_mean_over_the_samples_of_the_noise_that_is_given():
    """A truncated normal's: of ``[*B, ACTION, samples]`` uniform noise, each sample weighs one."""
    actor, critic = networks("truncated_normal")
    loss = KLPENPPOLoss(actor, critic, samples_mc_kl=SAMPLES, reduction="none", adapt_beta=False)
    data = record(actor, (4, 3))
    old = HEADS["truncated_normal"].distribution(data["loc"], data["scale"], low=-1.5, high=0.5)
    new = actor.get_dist(data.clone())
    noise = torch.rand(4, 3, ACTION, SAMPLES)
    family = loss._actor.heads[0].family
    actions = [family.sample((data["loc"], data["scale"]), noise[..., i]) for i in range(SAMPLES)]
    divergence = torch.stack([old.log_prob(x) - new.log_prob(x) for x in actions]).mean(0)
    ratio = (new.log_prob(data["action"]) - data["action_log_prob"]).exp()
    expected = divergence - ratio * data["advantage"].squeeze(-1)
    data["kl_noise"] = noise
    outputs = loss(data)
    torch.testing.assert_close(outputs["kl"], divergence.mean(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(outputs["loss_objective"], expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(loss(data)["kl"], outputs["kl"])


@pytest.mark.parametrize("samples", [1, SAMPLES])
def test_as_many_samples_are_drawn_as_were_asked_for(samples, monkeypatch):
    actor, critic = networks("truncated_normal")
    loss = KLPENPPOLoss(actor, critic, samples_mc_kl=samples)
    family, drawn = loss._actor.heads[0].family, []
    draw = family.draw_noise

    def counted(params):
        drawn.append(draw(params))
        return drawn[-1]

    monkeypatch.setattr(family, "draw_noise", counted)
    data = record(actor, (4, 3))
    mean = loss(data)["kl"]
    assert [x.shape for x in drawn] == [(samples, 4, 3, ACTION)]
    data["kl_noise"] = drawn[0].movedim(0, -1)
    assert torch.equal(loss(data)["kl"], mean)
