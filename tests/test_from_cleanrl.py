"""The diffs of docs/from_cleanrl.md: each applies, and the script learns the same after it."""

import pytest
import torch

from tests.pages import blocks, patched, read, run

DIFFS = blocks(read("docs/from_cleanrl.md"), "diff")
SCRIPT = read("benchmarks/cleanrl_ppo.py")


def trained(script: str) -> dict[str, torch.Tensor]:
    """The networks after an iteration."""
    names = run([script])
    config = names["Config"](frames=256, steps=32)
    training = names["Training"](names["make_envs"](config.envs), config)
    start = {name: x.clone() for name, x in training.agent.state_dict().items()}
    training.iterate()
    assert any(not torch.equal(x, start[name]) for name, x in training.agent.state_dict().items())
    return training.agent.state_dict()


@pytest.mark.parametrize("steps", [1, 2, pytest.param(3, marks=pytest.mark.slow)])
def test_the_script_learns_the_same_after_each_diff(steps):
    script = SCRIPT
    for diff in DIFFS[:steps]:
        script = patched(script, diff)
    assert len(DIFFS) == 3
    torch.testing.assert_close(trained(script), trained(SCRIPT), rtol=0, atol=1e-5)
