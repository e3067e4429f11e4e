"""What discrete SAC promises beyond the table of ``test_off_policy.py``."""

from functools import partial
from typing import Any

import gymnasium as gym
import pytest
import torch
from tensordict import TensorDict
from torch import nn
from torchrl.data import Categorical as CategoricalSpec
from torchrl.data import OneHot

from compiled_rl import DiscreteSACLoss, Policy, modules
from compiled_rl.testing import assert_compiles_once
from tests.losses.soft_networks import ACTION, OBSERVATION, indices, one_hots, policy, soft
from tests.losses.test_off_policy import assert_parity, gradients, keywords, pair, total
from tests.losses.transitions import Subject

pytestmark = pytest.mark.filterwarnings("ignore:No target network updater")
INDICES = {"action_space": "categorical", "num_actions": ACTION}
DISCRETE = Subject("DiscreteSACLoss", partial(soft, "categorical"), "", INDICES, indices)
MASKED = DISCRETE._replace(networks=partial(soft, "masked"))


def make(kind: str = "categorical", **arguments: Any) -> DiscreteSACLoss:
    return DiscreteSACLoss(*soft(kind), **(INDICES | arguments))


def masked(*shape: int) -> TensorDict:
    """Steps at which some actions are forbidden."""
    data = MASKED.data(*shape)
    for place in (data, data["next"]):
        place["mask"] = torch.rand(*shape, ACTION) < 0.5
        place["mask"][..., 0] = True
    data["action"] = torch.zeros(shape, dtype=torch.long)
    return data


# ---- options -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        {"alpha_init": 0.2, "target_entropy_weight": 0.5},
        {"target_entropy": 0.3, "loss_function": "l1"},
        {"num_qvalue_nets": 3, "max_alpha": 0.7},
        {"delay_qvalue": False},
        {"skip_done_states": True},
    ],
    ids=str,
)
def test_options_are_the_peers(arguments):
    ours, theirs = pair(DISCRETE, "TD0", torch.float64, **arguments)
    data = DISCRETE.data(20, dtype=torch.float64)
    # TorchRL's takes a truncated state for one without a value where done states are skipped.
    data["next", "terminated"] = data["next", "done"]
    assert data["next", "done"].any()
    assert_parity(ours, theirs, DISCRETE, data)


def test_a_truncated_state_has_a_value_where_done_states_are_skipped():
    data = DISCRETE.data(20)
    data["next", "terminated"] = torch.zeros(20, 1, dtype=torch.bool)
    assert data["next", "done"].any()
    skipped, seen = make(skip_done_states=True)(data), make()(data)
    assert torch.equal(skipped["loss_qvalue"], seen["loss_qvalue"])


def test_states_without_an_action_are_skipped():
    """The policy may have forbidden everything where the task ended, or be undefined there."""
    loss = make("masked", skip_done_states=True)
    data = masked(20)
    ended = data["next", "terminated"].squeeze(-1)
    assert ended.any()
    before = loss(data.clone())
    data["next", "mask"][ended] = False
    data["next", "observation"][ended] = torch.nan
    after = loss(data)
    for name, x in before.items():
        torch.testing.assert_close(after[name], x)


# ---- actions -------------------------------------------------------------------------------------


def test_actions_are_told_by_their_shape():
    loss = make()
    data = DISCRETE.data(6)
    given = keywords(loss, data)
    expected = loss(given)
    for action in (
        data["action"].unsqueeze(-1),
        nn.functional.one_hot(data["action"], ACTION),
        nn.functional.one_hot(data["action"], ACTION).bool(),
    ):
        outputs = loss(given | {"action": action})
        assert all(torch.equal(x, expected[name]) for name, x in outputs.items())
    with pytest.raises(ValueError, match="`action` must have the shape"):
        loss(given | {"action": data["action"][:, None, None]})


def test_what_is_forbidden_is_never_read():
    """TorchRL's loss is NaN."""
    ours, theirs = pair(MASKED, "TD0", torch.float32)
    data = masked(6)
    outputs = ours(data.clone())
    assert all(x.isfinite().all() for x in outputs.values())
    assert all(grad.isfinite().all() for grad in gradients(ours, total(ours, outputs)))
    assert theirs(data)["loss_actor"].isnan()


def test_where_nothing_is_forbidden_a_mask_changes_nothing():
    ours, theirs = pair(MASKED, "TD0", torch.float64)
    data = MASKED.data(6, dtype=torch.float64)
    for place in (data, data["next"]):
        place["mask"] = torch.ones(6, ACTION, dtype=torch.bool)
    assert_parity(ours, theirs, MASKED, data)


@pytest.mark.slow
def test_a_masked_policy_compiles():
    assert_compiles_once(make("masked", skip_done_states=True), [masked(n) for n in (2, 3, 5, 8)])


# ---- the target entropy --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "space", [CategoricalSpec(ACTION), OneHot(ACTION), gym.spaces.Discrete(ACTION)], ids=repr
)
def test_a_spec_says_how_many_actions_there_are(space):
    by_spec = make(action_space=space, num_actions=None)
    assert by_spec.target_entropy == make().target_entropy
    assert make().target_entropy == DISCRETE.theirs().target_entropy
    counted = make(num_actions=gym.spaces.Discrete(ACTION).n)  # NumPy's
    assert counted.target_entropy == make().target_entropy


# ---- networks ------------------------------------------------------------------------------------


def test_plain_networks_are_what_their_wrappers_are():
    actor, q = soft("one_hot")
    wrapped = DiscreteSACLoss(actor, q, target_entropy=0.5)
    family = modules.OneHotCategorical()
    plain = DiscreteSACLoss(Policy(actor.module[0].module, family), q.module, target_entropy=0.5)
    plain.load_state_dict(dict(zip(plain.state_dict(), wrapped.state_dict().values(), strict=True)))
    data = DISCRETE._replace(action=one_hots).data(6)
    given = keywords(plain, data)
    for a, b in zip(plain(**given), wrapped(**given), strict=True):
        assert torch.equal(a, b)


# ---- errors --------------------------------------------------------------------------------------


def test_arguments_are_checked_when_they_are_given():
    actor, q = soft("categorical")
    with pytest.raises(
        ValueError, match="`num_actions` or `target_entropy` must be given where nothing"
    ):
        DiscreteSACLoss(actor, q)
    with pytest.raises(ValueError, match="`action_space` must be 'categorical' or 'one-hot', got"):
        make(action_space="binary")
    for count in (0, "4", 2.0, True):
        with pytest.raises(ValueError, match="`num_actions` must be an integer of at least 1, got"):
            make(num_actions=count)
    with pytest.raises(TypeError, match=r"must have one categorical distribution, got \['TanhNorm"):
        DiscreteSACLoss(policy("tanh_normal"), q, **INDICES)
    with pytest.raises(TypeError, match="`delay_actor` is not an argument"):
        make(delay_actor=True)
    with pytest.raises(ValueError, match="`logits` must have the shape of `action_value"):
        DiscreteSACLoss(actor, [nn.Linear(OBSERVATION, 2) for _ in range(2)], **INDICES)(
            DISCRETE.data(6)
        )
