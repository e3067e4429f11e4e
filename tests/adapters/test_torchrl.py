"""TorchRL's own modules in our losses: equal to TorchRL's losses of the same modules."""

import copy

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import InteractionType, TensorDictModule, TensorDictSequential
from torch import nn
from torchrl.data import Bounded, Categorical, Composite
from torchrl.modules import (
    ActorCriticWrapper,
    ActorValueOperator,
    AdditiveGaussianModule,
    EGreedyModule,
    GRUModule,
    IndependentNormal,
    LSTMModule,
    NormalParamExtractor,
    OrnsteinUhlenbeckProcessModule,
    ProbabilisticActor,
    SafeModule,
    SafeSequential,
    TanhNormal,
    ValueOperator,
)
from torchrl.objectives import A2CLoss as TorchRLA2CLoss
from torchrl.objectives import ClipPPOLoss as TorchRLClipPPOLoss

from compiled_rl import A2CLoss, ClipPPOLoss
from tests.losses.networks import ACTION, OBSERVATION, make_data, plain_networks

LOSSES = ("loss_objective", "loss_critic", "loss_entropy")
pairs = pytest.mark.parametrize(
    ("ours", "theirs"), [(ClipPPOLoss, TorchRLClipPPOLoss), (A2CLoss, TorchRLA2CLoss)]
)
computed = pytest.mark.parametrize(
    "drop", [(), ("advantage", "value_target")], ids=["given", "computed"]
)


def actor_of(module: nn.Module, **arguments) -> ProbabilisticActor:
    bounds = Bounded(-torch.ones(ACTION), torch.ones(ACTION))
    defaults = {"distribution_class": IndependentNormal, "spec": bounds, "return_log_prob": True}
    return ProbabilisticActor(module, in_keys=["loc", "scale"], **defaults | arguments)


def network(inputs: int = OBSERVATION, outputs: int = 2 * ACTION) -> nn.Sequential:
    last = [NormalParamExtractor()] if outputs > 1 else []
    return nn.Sequential(nn.Linear(inputs, 8), nn.Tanh(), nn.Linear(8, outputs), *last)


def parameters_of(*networks: nn.Module) -> list[nn.Parameter]:
    return list(dict.fromkeys(p for x in networks for p in x.parameters() if p.requires_grad))


def total(outputs) -> torch.Tensor:
    return sum(outputs[name] for name in LOSSES)


def assert_equal(ours, theirs, data, parameters, names=LOSSES):
    """Outputs and gradients in double precision, with nothing written to the input."""
    before = data.clone()
    mine, expected = ours(data), theirs(data.clone())
    assert (data == before).all()
    assert set(data.keys(True)) == set(before.keys(True))
    for name in names:
        torch.testing.assert_close(mine[name], expected[name], rtol=1e-10, atol=1e-10)
    for x, y in zip(
        torch.autograd.grad(total(mine), parameters, allow_unused=True),
        torch.autograd.grad(total(expected), parameters, allow_unused=True),
        strict=True,
    ):
        torch.testing.assert_close(x, y, rtol=1e-9, atol=1e-9)


def compare(ours, theirs, actor, critic, data, **arguments):
    pair = ours(actor, critic, **arguments), theirs(actor, critic, **arguments)
    if "advantage" not in data.keys():
        # A recurrent critic does not vmap.
        pair[1].make_value_estimator(pair[1].default_value_estimator, deactivate_vmap=True)
    networks = parameters_of(actor, critic)
    assert_equal(pair[0].double(), pair[1].double(), data, networks)


def recorded(shape=(3, 5)) -> TensorDict:
    torch.manual_seed(0)
    data = make_data(plain_networks("normal")[0].double(), shape, torch.float64)
    data["action"] = data["action"].tanh()
    return data.exclude("state_value")  # which TorchRL would want at the next state, too


# ---- wrappers ------------------------------------------------------------------------------------


def tanh_actor():
    limits = {"low": -2.0, "high": 2.0}
    module = TensorDictModule(network(), ["observation"], ["loc", "scale"])
    return actor_of(module, distribution_class=TanhNormal, distribution_kwargs=limits)


def deterministic_actor():
    module = TensorDictModule(network(), ["observation"], ["loc", "scale"])
    return actor_of(module, default_interaction_type=InteractionType.RANDOM, safe=True)


def safe_actor():
    """``safe=True`` projects the parameters, too: such a module is called as it is."""
    bounds = Bounded(-0.1 * torch.ones(ACTION), 0.1 * torch.ones(ACTION), dtype=torch.float64)
    spec = Composite(loc=bounds, scale=None)
    return actor_of(SafeModule(network(), ["observation"], ["loc", "scale"], spec=spec, safe=True))


def sequence_actor():
    return actor_of(
        SafeSequential(
            SafeModule(nn.Linear(OBSERVATION, 6), ["observation"], [("inner", "hidden")]),
            SafeModule(network(6), [("inner", "hidden")], ["loc", "scale"]),
        )
    )


ACTORS = {f.__name__: f for f in (tanh_actor, deterministic_actor, safe_actor, sequence_actor)}


@pairs
@computed
@pytest.mark.parametrize("kind", ACTORS)
def test_actors(ours, theirs, drop, kind):
    torch.manual_seed(0)
    actor, critic = ACTORS[kind](), ValueOperator(network(outputs=1), ["observation"])
    arguments = {"entropy_bonus": False} if kind == "tanh_actor" else {}
    losses = ours(actor, critic, **arguments), theirs(actor, critic, **arguments)
    names = LOSSES[:2] if arguments else LOSSES
    data = recorded().exclude(*drop)
    mine, expected = losses[0].double()(data), losses[1].double()(data.clone())
    networks = parameters_of(actor, critic)
    for name in names:
        torch.testing.assert_close(mine[name], expected[name], rtol=1e-7, atol=1e-7)
    sums = [sum(outputs[name] for name in names) for outputs in (mine, expected)]
    for x, y in zip(*[torch.autograd.grad(x, networks) for x in sums], strict=True):
        torch.testing.assert_close(x, y, rtol=1e-6, atol=1e-7)


def operator_of(kind: str):
    policy = actor_of(TensorDictModule(network(6), ["hidden"], ["loc", "scale"]))
    if kind == "operator":
        common = SafeModule(nn.Linear(OBSERVATION, 6), ["observation"], ["hidden"])
        return ActorValueOperator(common, policy, ValueOperator(network(6, 1), ["hidden"]))
    policy = actor_of(TensorDictModule(network(), ["observation"], ["loc", "scale"]))
    return ActorCriticWrapper(policy, ValueOperator(network(outputs=1), ["observation"]))


@pairs
@computed
@pytest.mark.parametrize("kind", ["operator", "wrapper"])
@pytest.mark.parametrize("separate_losses", [False, True])
def test_operators(ours, theirs, drop, kind, separate_losses):
    torch.manual_seed(0)
    operator = operator_of(kind)
    networks = operator.get_policy_operator(), operator.get_value_operator()
    data = recorded().exclude(*drop)
    compare(ours, theirs, *networks, data, separate_losses=separate_losses)


@pairs
@computed
def test_several_nested_and_privileged_inputs(ours, theirs, drop):
    class Joined(nn.Module):
        def __init__(self, inputs, outputs):
            super().__init__()
            self.network = network(inputs, outputs)

        def forward(self, *tensors):
            return self.network(torch.cat(tensors, -1))

    torch.manual_seed(0)
    goal, secret = ("task", "goal"), ("privileged", "state")
    actor = actor_of(
        TensorDictModule(
            Joined(OBSERVATION + 2, 2 * ACTION), ["observation", goal], ["loc", "scale"]
        )
    )
    critic = ValueOperator(Joined(OBSERVATION + 3, 1), ["observation", secret])
    data = recorded().exclude(*drop)
    for key, size in {goal: 2, secret: 3}.items():
        data[key] = torch.randn(3, 5, size, dtype=torch.float64)
        data["next", *key] = torch.randn(3, 5, size, dtype=torch.float64)
    compare(ours, theirs, actor, critic, data)


# ---- exploration ---------------------------------------------------------------------------------


def noises():
    bounds = Bounded(-torch.ones(ACTION), torch.ones(ACTION))
    return {
        "epsilon greedy": EGreedyModule(spec=Categorical(ACTION)),
        "gaussian": AdditiveGaussianModule(spec=bounds),
        "ornstein uhlenbeck": OrnsteinUhlenbeckProcessModule(spec=bounds),
    }


@pytest.mark.parametrize("kind", noises())
def test_noise_is_left_out(kind):
    torch.manual_seed(0)
    actor = deterministic_actor()
    critic = ValueOperator(network(outputs=1), ["observation"])
    noisy = TensorDictSequential(actor, noises()[kind])
    data = recorded((4,)).float()
    loss = ClipPPOLoss(noisy, critic)
    assert torch.equal(total(loss(data)), total(ClipPPOLoss(actor, critic)(data)))
    inside = TensorDictSequential(TensorDictSequential(actor, noises()[kind]), noises()[kind])
    assert torch.equal(total(loss(data)), total(ClipPPOLoss(inside, critic)(data)))
    assert len(list(loss.modules())) > len(list(actor.modules()))


# ---- recurrent -----------------------------------------------------------------------------------


def recurrent_module(kind: type, name: str) -> nn.Module:
    """With states called ``<name>_h`` and, of an LSTM, ``<name>_c``."""
    states = [f"{name}_{x}" for x in ("hc" if kind is LSTMModule else "h")]
    return kind(
        input_size=OBSERVATION,
        hidden_size=6,
        in_keys=["observation", *states],
        out_keys=[f"{name}_features", *[("next", state) for state in states]],
    )


def recurrent_networks(kind: type):
    torch.manual_seed(0)
    head = TensorDictModule(network(6), ["actor_features"], ["loc", "scale"])
    actor = actor_of(TensorDictSequential(recurrent_module(kind, "actor"), head))
    value = ValueOperator(network(6, 1), ["critic_features"])
    return actor, TensorDictSequential(recurrent_module(kind, "critic"), value)


def sequences(*state_keys: str) -> TensorDict:
    """Three sequences of six steps; in two of them another episode begins."""
    data = recorded((3, 6))
    done = torch.zeros(3, 6, 1, dtype=torch.bool)
    done[1, 2] = done[2, 1] = done[2, 4] = True
    terminated = done.clone()
    terminated[2, 4] = False
    data["is_init"] = torch.cat([torch.ones(3, 1, 1, dtype=torch.bool), done[:, :-1]], 1)
    data["next", "is_init"] = torch.zeros_like(done)
    data["next", "done"], data["next", "terminated"] = done, terminated
    for key in state_keys:
        data[key] = torch.randn(3, 6, 1, 6, dtype=torch.float64)
        data["next", key] = torch.randn(3, 6, 1, 6, dtype=torch.float64)
    return data


def states_of(kind: type) -> list[str]:
    return [f"{x}_{s}" for x in ("actor", "critic") for s in ("hc" if kind is LSTMModule else "h")]


recurrent = pytest.mark.parametrize("kind", [LSTMModule, GRUModule])


@pairs
@computed
@recurrent
@pytest.mark.parametrize("separate_losses", [False, True])
def test_recurrent_networks(ours, theirs, drop, kind, separate_losses):
    data = sequences(*states_of(kind)).exclude(*drop)
    networks = recurrent_networks(kind)
    compare(ours, theirs, *networks, data, separate_losses=separate_losses)


@pairs
@recurrent
def test_a_recurrent_trunk_of_both(ours, theirs, kind):
    """What it says of the next state is not what was recorded there."""
    torch.manual_seed(0)
    trunk = recurrent_module(kind, "common")
    head = TensorDictModule(network(6), ["common_features"], ["loc", "scale"])
    actor = actor_of(TensorDictSequential(trunk, head))
    critic = TensorDictSequential(trunk, ValueOperator(network(6, 1), ["common_features"]))
    data = sequences(*[f"common_{x}" for x in ("hc" if kind is LSTMModule else "h")])
    compare(ours, theirs, actor, critic, data.exclude("advantage", "value_target"))


@pairs
@recurrent
def test_states_need_not_be_recorded(ours, theirs, kind):
    compare(ours, theirs, *recurrent_networks(kind), sequences())


@recurrent
@computed
def test_recurrent_networks_of_torchrl_do_not_compile_whole(kind, drop):
    """In no loss: they break the graph themselves. Ours compiles, see ``modules.GRU``."""
    data = sequences(*states_of(kind)).exclude(*drop)
    for loss_class in (A2CLoss, TorchRLA2CLoss):
        loss = loss_class(*recurrent_networks(kind)).double()
        if drop:
            loss.make_value_estimator(loss.default_value_estimator, deactivate_vmap=True)
        loss(data.clone())
        whole = torch.compile(loss, fullgraph=True, backend="eager")
        with pytest.raises(torch._dynamo.exc.Unsupported):
            whole(data.clone())


@recurrent
def test_an_episode_does_not_see_the_one_before(kind):
    loss = A2CLoss(*recurrent_networks(kind), reduction="none").double()
    data, other = sequences(), sequences()
    other["observation"][1, 1] += 1
    same = loss(data)["loss_objective"] == loss(other)["loss_objective"]
    expected = torch.ones(3, 6, dtype=torch.bool)
    expected[1, 1:3] = False
    assert torch.equal(same.reshape(3, 6), expected)


@recurrent
def test_a_recurrent_critic_remembers_what_it_left(kind):
    """Valued in one call, the state entered has the memory of the states before it."""
    actor, critic = recurrent_networks(kind)
    loss = ClipPPOLoss(actor, critic).double()
    data = sequences().exclude("advantage", "value_target", ("next", "is_init"))
    with pytest.raises(ValueError, match="a recurrent critic must be `shifted`, so that one call"):
        loss(data)
    # Where an episode goes on, the state entered is the next step's.
    data["next", "observation"][:, :-1] = data["observation"][:, 1:]
    data["next", "observation"][2, 4] = torch.randn(OBSERVATION, dtype=torch.float64)
    loss.make_value_estimator("td0", shifted=True, shifted_budget=2, gamma=1.0)
    _, target = loss.value_estimator(
        **{
            key if isinstance(key, str) else "_".join(key): data[key]
            for key in loss.value_estimator.in_keys
            if key in data.keys(True)
        }
    )
    for row, start, stop in ((0, 0, 6), (1, 0, 3), (1, 3, 6), (2, 0, 2), (2, 2, 5), (2, 5, 6)):
        episode = data[row, start:stop]
        seen = torch.cat([episode["observation"], episode["next", "observation"][-1:]])
        value = alone(critic, kind, seen)[1:]
        expected = episode["next", "reward"][:, 0] + value * ~episode["next", "terminated"][:, 0]
        torch.testing.assert_close(target[row, start:stop, 0], expected)


def alone(critic: nn.Module, kind: type, observation: torch.Tensor) -> torch.Tensor:
    """The critic's values of one episode, by torch alone."""
    memory, head = critic[0], critic[1]
    rnn = memory.lstm if kind is LSTMModule else memory.gru
    return head.module(rnn(observation[None])[0])[0, :, 0]


@recurrent
def test_copies_of_recurrent_losses(kind):
    loss = ClipPPOLoss(*recurrent_networks(kind), delay_actor=True).double()
    data = sequences(*states_of(kind))
    expected = total(loss(data))
    twin = copy.deepcopy(loss)
    with torch.no_grad():
        for p in loss.parameters():
            p.mul_(1.1)
    assert torch.equal(total(twin(data)), expected)
    assert not torch.equal(total(loss(data)), expected)
