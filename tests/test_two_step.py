"""The two-step game: what QMIX and VDN learn of it, and what neither can say."""

import pytest
import torch

from examples import qmix_two_step
from examples.qmix_two_step import NON_MONOTONIC, TWO_STEP, every_step, learn

STEPS = 300
LEARNED = {
    "qmix": [[[6.93, 6.93], [7.92, 7.92]], [[7.0, 7.0], [7.0, 7.0]], [[0.0, 1.0], [1.0, 8.0]]],
    "vdn": [[[6.93, 6.93], [6.435, 6.435]], [[7.0, 7.0], [7.0, 7.0]], [[-1.5, 2.5], [2.5, 6.5]]],
}


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("kind", LEARNED)
def test_the_tables_of_the_paper(kind, seed):
    values = learn(TWO_STEP, kind, seed, STEPS)
    torch.testing.assert_close(
        torch.tensor(values), torch.tensor(LEARNED[kind]), rtol=0.0, atol=0.05
    )


def test_the_additive_fit_is_all_that_vdn_can_say():
    values = torch.tensor(learn(NON_MONOTONIC, "vdn", steps=STEPS))[0]
    fit = [[-6.22, -4.89, -4.89], [-4.89, -3.56, -3.56], [-4.89, -3.56, -3.56]]
    torch.testing.assert_close(values, torch.tensor(fit), rtol=0.0, atol=0.05)


def test_qmix_misses_the_best_joint_action_of_a_payoff_that_is_not_monotonic():
    """It orders the actions of one agent alike, whatever the other does; the payoff does not."""
    values = torch.tensor(learn(NON_MONOTONIC, "qmix", steps=STEPS))[0]
    payoff = torch.tensor(NON_MONOTONIC.payoff[0]).float()
    assert payoff.argmax() == 0
    assert values[0, 0] < values[1, 0] < values[1, 1]
    assert (values - payoff).abs().max() > 10
    torch.testing.assert_close(values[1:, 1:], payoff[1:, 1:], rtol=0.0, atol=0.05)


def test_every_joint_action_of_every_state_is_a_step():
    batch = every_step(TWO_STEP)
    assert batch["agents_action"].tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]] * 3
    assert batch["next_reward"].tolist() == [0, 0, 0, 0, 7, 7, 7, 7, 0, 1, 1, 8]
    assert batch["next_terminated"].tolist() == [False] * 4 + [True] * 8
    assert batch["next_state"][:4].argmax(-1).tolist() == [1, 1, 2, 2]
    assert batch["agents_observation"].shape == (12, 2, 5)


def test_the_tables_are_printed(capsys):
    qmix_two_step.main(steps=2)
    printed = capsys.readouterr().out
    for words in ("QMIX, the two-step game", "VDN, payoffs", "2B", "second: C"):
        assert words in printed
