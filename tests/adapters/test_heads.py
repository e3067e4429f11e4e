"""A critic that reads what the actor computed: one call of the trunk, two where it must value."""

import copy

import pytest
import torch
from tensordict.nn import ProbabilisticTensorDictSequential, TensorDictModule, TensorDictSequential
from torch import nn
from torch.func import functional_call
from torchrl.modules import (
    ActorValueOperator,
    IndependentNormal,
    NormalParamExtractor,
    ProbabilisticActor,
    ValueOperator,
)
from torchrl.objectives import ClipPPOLoss as TorchRLClipPPOLoss

from compiled_rl import A2CLoss, ClipPPOLoss
from compiled_rl.testing import assert_compiles_once
from tests.losses.networks import ACTION, OBSERVATION, as_keywords, make_data, plain_networks

LOSSES = ("loss_objective", "loss_critic", "loss_entropy")
losses = pytest.mark.parametrize("loss_class", [ClipPPOLoss, A2CLoss])
separate = pytest.mark.parametrize("separate_losses", [False, True])


def networks():
    """The parts of an actor and a critic with a common trunk."""
    torch.manual_seed(0)
    common = TensorDictModule(nn.Linear(OBSERVATION, 6), ["observation"], ["hidden"])
    parameters = nn.Sequential(nn.Linear(6, 2 * ACTION), NormalParamExtractor())
    actor_head = ProbabilisticActor(
        TensorDictModule(parameters, ["hidden"], ["loc", "scale"]),
        in_keys=["loc", "scale"],
        distribution_class=IndependentNormal,
        return_log_prob=True,
    )
    return common, actor_head, ValueOperator(nn.Linear(6, 1), ["hidden"])


def as_heads(common, actor_head, value_head, note=False):
    """One call of the trunk: as the documentation of TorchRL's PPO losses notes it, or simpler."""
    model = ActorValueOperator(common, actor_head, value_head) if note else common
    return ProbabilisticTensorDictSequential(model, actor_head), value_head


def as_operators(common, actor_head, value_head):
    """Each with the trunk."""
    model = ActorValueOperator(common, actor_head, value_head)
    return model.get_policy_operator(), model.get_value_operator()


def data_of(*drop, shape=(3, 5)):
    return make_data(plain_networks("normal")[0], shape).exclude(*drop)


def total(outputs):
    return sum(outputs[name] for name in LOSSES)


computed = pytest.mark.parametrize(
    "drop", [(), ("advantage", "value_target")], ids=["given", "computed"]
)


@losses
@computed
@pytest.mark.parametrize("note", [False, True])
@separate
def test_a_head_is_the_whole_critic(loss_class, drop, note, separate_losses):
    parts = networks()
    head = loss_class(*as_heads(*parts, note=note), separate_losses=separate_losses)
    whole = loss_class(*as_operators(*parts), separate_losses=separate_losses)
    data = data_of(*drop)
    before = data.clone()
    parameters = list(nn.ModuleList(parts).parameters())
    calls = []
    parts[0].module.register_forward_hook(lambda *_: calls.append(1))
    mine = head(data)
    assert len(calls) == (2 if drop else 1)
    expected = whole(data)
    assert (data == before).all()
    for name in LOSSES:
        torch.testing.assert_close(mine[name], expected[name])
    for loss in ("loss_critic", "loss_objective"):
        for x, y in zip(
            torch.autograd.grad(mine[loss], parameters, allow_unused=True, retain_graph=True),
            torch.autograd.grad(expected[loss], parameters, allow_unused=True, retain_graph=True),
            strict=True,
        ):
            torch.testing.assert_close(x, y)
    trunk = parts[0].module.weight
    (reached,) = torch.autograd.grad(mine["loss_critic"], trunk, allow_unused=True)
    assert (reached is None) == separate_losses


@separate
def test_parity_with_torchrl(separate_losses):
    """Of a flat policy, the advantage given: TorchRL 0.14.1 raises on a head that is a policy
    itself, and has no ``hidden`` at the next state.
    """
    common, actor_head, value_head = parts = networks()
    pair = ProbabilisticTensorDictSequential(common, *actor_head.module), value_head
    data = data_of()
    mine = ClipPPOLoss(*pair, separate_losses=separate_losses)(data.clone())
    expected = TorchRLClipPPOLoss(*pair, separate_losses=separate_losses)(data.clone())
    parameters = list(nn.ModuleList(parts).parameters())
    for name in LOSSES:
        torch.testing.assert_close(mine[name], expected[name])
    for x, y in zip(
        *[torch.autograd.grad(total(x), parameters) for x in (mine, expected)], strict=True
    ):
        torch.testing.assert_close(x, y)


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("estimator", ["gae", "td0", "td1", "td_lambda", "vtrace"])
def test_every_estimator_values_the_next_state(estimator, shifted):
    parts = networks()
    head, whole = ClipPPOLoss(*as_heads(*parts)), ClipPPOLoss(*as_operators(*parts))
    data = data_of("advantage", "value_target")
    data["next", "done"][:] = False
    data["next", "terminated"][:] = False
    data["next", "observation"][:, :-1] = data["observation"][:, 1:]
    for loss in (head, whole):
        loss.make_value_estimator(estimator, shifted=shifted)
    torch.testing.assert_close(total(head(data)), total(whole(data)))


def test_recorded_features_of_the_next_state_are_taken():
    loss = ClipPPOLoss(*as_heads(*networks()))
    data = data_of("advantage", "value_target")
    expected = loss(data)
    data["next", "hidden"] = torch.randn(3, 5, 6)
    assert loss(data)["loss_critic"] != expected["loss_critic"]
    without = loss(data.exclude(("next", "observation")))
    assert torch.equal(without["loss_critic"], loss(data)["loss_critic"])


def test_the_old_value_is_the_recorded_one():
    """The model of the note computes a value, too."""
    data = data_of()
    parts = networks()
    note, simple = [
        ClipPPOLoss(*as_heads(*parts, note=x), clip_value=0.1)(data)["loss_critic"]
        for x in (True, False)
    ]
    assert torch.equal(note, simple)


class WithValue(nn.Module):
    """A head of an actor that gives a value, too."""

    def __init__(self, head):
        super().__init__()
        self.head = head

    def forward(self, x):
        return *self.head(x), x[..., :1] ** 2


@computed
@losses
def test_recorded_values_are_not_those_that_the_actor_gives(loss_class, drop):
    """Of one call, so that the value cannot be left out."""
    common, actor_head, value_head = networks()
    data = data_of(*drop)
    data["next", "state_value"] = torch.randn(3, 5, 1)
    results = []
    for module, keys in (
        (actor_head.module[0].module, ["loc", "scale"]),
        (WithValue(actor_head.module[0].module), ["loc", "scale", "state_value"]),
    ):
        head = TensorDictModule(module, ["hidden"], keys)
        actor = ProbabilisticTensorDictSequential(common, head, actor_head.module[-1])
        loss = loss_class(actor, value_head, clip_value=0.1)
        loss.make_value_estimator("gae", skip_existing=True)
        results.append(loss(data).to_dict())
    torch.testing.assert_close(*results, rtol=0, atol=0)


@pytest.mark.parametrize("shifted", [False, True])
def test_no_gradient_reaches_the_trunk_through_an_advantage(shifted):
    data = data_of("advantage", "value_target")
    data["next", "hidden"] = torch.randn(3, 5, 6)
    parts = networks()
    loss, reached = ClipPPOLoss(*as_heads(*parts)), []
    for differentiable in (True, False):
        loss.make_value_estimator("gae", shifted=shifted, differentiable=differentiable)
        objective = loss(data)["loss_objective"]
        reached.append(torch.autograd.grad(objective, list(parts[0].parameters())))
    torch.testing.assert_close(*reached, rtol=0, atol=0)


def test_what_neither_has_is_named():
    common, actor_head, _ = networks()
    actor = ProbabilisticTensorDictSequential(common, actor_head)
    loss = ClipPPOLoss(actor, ValueOperator(nn.Linear(6, 1), ["features"]))
    with pytest.raises(KeyError, match="the network input `features` was not found"):
        loss(data_of())
    loss = ClipPPOLoss(*as_heads(*networks()))
    data = data_of("advantage", "value_target", ("next", "observation"))
    with pytest.raises(KeyError, match=r"inputs \['next_observation'\] at the next state were not"):
        loss(data)


def test_copies_and_functional_calls():
    loss = ClipPPOLoss(*as_heads(*networks()))
    data = data_of("advantage", "value_target")
    expected, twin = total(loss(data)), copy.deepcopy(loss)
    changed = {name: 1.5 * p.detach() for name, p in loss.named_parameters()}
    called = total(functional_call(loss, changed, (data,)))
    with torch.no_grad():
        for p in loss.parameters():
            p.mul_(1.5)
    assert torch.equal(total(loss(data)), called)
    assert torch.equal(total(twin(data)), expected)


def test_a_trunk_that_stands_twice_stays_what_it_was():
    """``torch.func.functional_call`` would leave tensors of the call where parameters were."""
    parts = networks()
    loss = ClipPPOLoss(*as_heads(*parts, note=True), separate_losses=True)
    before = list(nn.ModuleList(parts).parameters())
    loss(data_of("advantage", "value_target"))
    after = [p for part in nn.ModuleList(parts).modules() for p in part._parameters.values()]
    assert {id(p) for p in after} == {id(p) for p in before}


@pytest.mark.slow
@losses
def test_it_compiles(loss_class):
    loss = loss_class(*as_heads(*networks()))
    batches = [data_of("advantage", "value_target", shape=(n, 4)) for n in (2, 3, 5, 8)]
    assert_compiles_once(loss, batches)
    assert_compiles_once(loss, [as_keywords(batch) for batch in batches])


def test_a_replaced_trunk_is_noticed():
    actor, critic = as_heads(*networks())
    loss = ClipPPOLoss(actor, critic)
    actor.module[0].module = nn.Linear(OBSERVATION, 6)
    with pytest.raises(RuntimeError, match="was replaced or hooked after the loss was made"):
        loss(data_of())


def test_a_critic_may_be_the_model_itself():
    """Of all that it computes, the value alone is."""
    common, actor_head, value_head = networks()
    actor, critic = as_operators(common, actor_head, value_head)
    model = ActorValueOperator(common, actor_head, value_head)
    data = data_of("advantage", "value_target")
    whole, calls = ClipPPOLoss(actor, model), []
    actor_head.module[0].module.register_forward_hook(lambda *_: calls.append(1))
    assert torch.equal(total(whole(data)), total(ClipPPOLoss(actor, critic)(data)))
    assert len(calls) == 2
    sequence = TensorDictSequential(common, value_head)
    assert torch.equal(total(ClipPPOLoss(actor, sequence)(data)), total(whole(data)))


def test_what_the_policy_does_not_need_is_not_computed():
    *_, value_head = parts = networks()
    value_head.module.register_forward_hook(lambda *_: pytest.fail("the value was computed"))
    actor, _ = as_heads(*parts, note=True)
    assert ClipPPOLoss(actor)(data_of())["loss_objective"].isfinite()


def test_what_only_the_critic_needs_is_computed():
    common, actor_head, value_head = networks()
    aside = TensorDictModule(nn.Linear(6, 6), ["hidden"], ["aside"])
    actor = ProbabilisticTensorDictSequential(common, aside, actor_head)
    loss = ClipPPOLoss(actor, ValueOperator(value_head.module, ["aside"]))
    for data in (data_of(), data_of("advantage", "value_target")):
        outputs = loss(data)
        (reached,) = torch.autograd.grad(outputs["loss_critic"], aside.module.weight)
        assert reached.abs().sum() > 0
