"""TensorDict modules that do more than call a module with tensors: called as they are."""

import copy
import pickle

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import (
    ProbabilisticTensorDictModule,
    ProbabilisticTensorDictSequential,
    TensorDictModule,
    TensorDictModuleBase,
    TensorDictSequential,
    WrapModule,
)
from torch import nn
from torch.func import functional_call
from torchrl.objectives import ClipPPOLoss as TorchRLClipPPOLoss

from compiled_rl import ClipPPOLoss, KLPENPPOLoss
from compiled_rl.adapters import PlainForm
from compiled_rl.testing import assert_compiles_once
from tests.losses.networks import as_keywords, make_data, plain_networks, tensordict_networks

slow = pytest.mark.slow
ESTIMATED = ("advantage", "value_target")


class Overridden(TensorDictModule):
    def forward(self, tensordict):
        return super().forward(tensordict)


class FromBase(TensorDictModuleBase):
    """What a user writes: it reads and writes the TensorDict itself."""

    def __init__(self, network, out_key):
        super().__init__()
        self.network, self.in_keys, self.out_keys = network, ["observation"], [out_key]

    def forward(self, tensordict):
        assert tensordict.batch_size == tensordict["observation"].shape[:-1]
        return tensordict.set(self.out_keys[0], self.network(tensordict["observation"]))


class ByName(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, *, x):
        return self.network(x)

    def other(self, x, factor):
        return self.network(x) * factor


def hooked(network):
    module = TensorDictModule(network, ["observation"], ["state_value"])
    module.register_forward_hook(lambda module, args, output: None)
    return module


def selected(network):
    module = TensorDictModule(lambda x: (x, network(x)), ["observation"], ["other", "state_value"])
    module.network = network
    return module.select_out_keys("state_value")


KINDS = {
    "overridden": lambda net: Overridden(net, ["observation"], ["state_value"]),
    "from base": lambda net: FromBase(net, "state_value"),
    "hooked": hooked,
    "by name": lambda net: TensorDictModule(ByName(net), {"x": "observation"}, ["state_value"]),
    "method": lambda net: TensorDictModule(
        ByName(net), ["observation"], ["state_value"], method="other", method_kwargs={"factor": 1.0}
    ),
    "selected": selected,
    "partial": lambda net: TensorDictSequential(
        TensorDictModule(net, ["observation"], ["state_value"]),
        TensorDictModule(nn.Linear(7, 1), ["missing"], ["other"]),
        partial_tolerant=True,
    ),
}
kinds = pytest.mark.parametrize("kind", KINDS)


def losses_of(kind, **arguments):
    """With a critic of the kind, and with the same critic plain."""
    actor, critic = plain_networks("normal")
    arguments = {"loss_critic_type": "l2"} | arguments
    return ClipPPOLoss(actor, KINDS[kind](critic), **arguments), ClipPPOLoss(
        actor, critic, **arguments
    )


def total(outputs):
    return outputs["loss_objective"] + outputs["loss_critic"] + outputs["loss_entropy"]


def gradients(loss, data):
    parameters = [p for name, p in loss.named_parameters() if "1.module" not in name]
    return torch.autograd.grad(total(loss(data)), parameters)


@kinds
@pytest.mark.parametrize("separate_losses", [False, True])
@pytest.mark.parametrize("drop", [(), ("advantage", "value_target")], ids=["given", "computed"])
def test_a_critic_is_called_as_it_is(kind, separate_losses, drop):
    loss, plain = losses_of(kind, separate_losses=separate_losses)
    data = make_data(loss.actor_network, (3, 5)).exclude(*drop)
    before = data.clone()
    for mine, expected in zip(gradients(loss, data), gradients(plain, data), strict=True):
        assert torch.equal(mine, expected)
    keywords = loss(**as_keywords(data))
    assert torch.equal(total(keywords._asdict()), total(plain(data)))
    assert (data == before).all()
    assert set(data.keys(True)) == set(before.keys(True))


@kinds
def test_copies_and_functional_calls(kind):
    loss, _ = losses_of(kind)
    data = make_data(loss.actor_network, (3, 5)).exclude("advantage", "value_target")
    expected = total(loss(data))
    others = {name: 2 * p.detach() for name, p in loss.named_parameters()}
    changed = functional_call(loss, others, (data,))
    assert not torch.equal(total(changed), expected)
    # What cannot be pickled here is the test's own lambda.
    copies = [copy.deepcopy(loss)]
    if kind not in ("hooked", "selected"):
        copies.append(pickle.loads(pickle.dumps(loss)))
    with torch.no_grad():
        for p in loss.parameters():
            p.mul_(2)
    # Not to the bit: some processors sum in another order where tensors begin elsewhere in memory.
    torch.testing.assert_close(total(loss(data)), total(changed))
    for twin in copies:
        torch.testing.assert_close(total(twin(data)), expected)


@pytest.mark.parametrize(
    "kind",
    ["overridden", *[pytest.param(k, marks=slow) for k in ("from base", "by name", "method")]],
)
@pytest.mark.parametrize(
    "drop",
    [pytest.param((), id="given"), pytest.param(ESTIMATED, marks=slow, id="computed")],
)
def test_what_compiles_by_itself_compiles_inside(kind, drop):
    loss, _ = losses_of(kind)
    batches = [make_data(loss.actor_network, (n, 5)).exclude(*drop) for n in (2, 3, 4, 7)]
    assert_compiles_once(loss, [as_keywords(batch) for batch in batches])
    assert_compiles_once(loss, batches)


def policy_of(*parts):
    head = ProbabilisticTensorDictModule(
        ["logits"], ["action"], distribution_class=torch.distributions.Categorical
    )
    return ProbabilisticTensorDictSequential(*parts, head)


class ByKey(nn.Module):
    """Other outputs than are asked for, and in another order."""

    def __init__(self, network, form):
        super().__init__()
        self.network, self.form = network, form

    def forward(self, x):
        loc, scale = self.network(x)
        outputs = {"scale": scale, "other": x, "loc": loc}
        return TensorDict(outputs, x.shape[:-1]) if self.form == "TensorDict" else outputs


@pytest.mark.parametrize("form", ["dict", pytest.param("TensorDict", marks=slow)])
def test_a_network_may_return_its_outputs_by_key(form):
    actor, critic = plain_networks("normal")
    plain, _ = tensordict_networks(actor, critic)

    def policy(*keys):
        network = TensorDictModule(ByKey(actor.network, form), ["observation"], list(keys))
        return ProbabilisticTensorDictSequential(network, plain.module[-1])

    data = make_data(actor, (3, 5)).exclude("advantage", "value_target")
    expected = ClipPPOLoss(plain, critic)(data)
    loss = ClipPPOLoss(policy("loc", "scale"), critic)
    torch.testing.assert_close(loss(data).to_dict(), expected.to_dict())
    theirs = TorchRLClipPPOLoss(policy("loc", "scale"), tensordict_networks(actor, critic)[1])
    given = make_data(actor, (3, 5))
    torch.testing.assert_close(loss(given)["loss_objective"], theirs(given)["loss_objective"])
    assert_compiles_once(loss, [data[:n] for n in (2, 3)])
    loss = ClipPPOLoss(policy("loc", "scale", "missing"), critic)
    with pytest.raises(KeyError, match=r"by key must return .*'missing'.* got \['scale', 'other'"):
        loss(data)


def test_a_policys_network_is_called_as_it_is():
    actor, critic = plain_networks("categorical")
    plain, _ = tensordict_networks(actor, critic)
    called = policy_of(FromBase(actor.network, "logits"))
    data = make_data(actor, (4,))
    loss, expected = ClipPPOLoss(called, critic), ClipPPOLoss(plain, critic)
    assert torch.equal(total(loss(data)), total(expected(data)))
    for mine, other in zip(gradients(loss, data), gradients(expected, data), strict=True):
        assert torch.equal(mine, other)


def test_a_policys_own_wrapper_counts_for_nothing():
    actor, critic = plain_networks("categorical")
    policy = policy_of(TensorDictModule(actor.network, ["observation"], ["logits"]))
    policy.register_forward_pre_hook(lambda *_: pytest.fail("the policy was called"))
    data = make_data(actor, (4,))
    assert torch.equal(
        total(ClipPPOLoss(policy, critic)(data)), total(ClipPPOLoss(actor, critic)(data))
    )


class Latent(nn.Module):
    def forward(self, x):
        return x, torch.full_like(x, 1e3)


def test_a_distribution_in_the_middle_gives_its_mode():
    actor, critic = plain_networks("categorical")
    latent = ProbabilisticTensorDictSequential(
        TensorDictModule(Latent(), ["observation"], ["mean", "spread"]),
        ProbabilisticTensorDictModule(
            {"loc": "mean", "scale": "spread"},
            ["latent"],
            distribution_class=torch.distributions.Normal,
        ),
    )
    policy = policy_of(latent, TensorDictModule(actor.network, ["latent"], ["logits"]))
    data = make_data(actor, (4,))
    assert torch.equal(
        total(ClipPPOLoss(policy, critic)(data)), total(ClipPPOLoss(actor, critic)(data))
    )


@pytest.mark.parametrize(
    ("shapes", "batch"),
    [
        ({"a": (4, 6, 1), "b": (4, 6, 3), "c": (4, 6, 2, 5)}, (4, 6)),
        ({"a": (4, 6, 3), "b": (4, 6, 3)}, (4, 6)),
        ({"a": (4, 6, 3), ("b", "c"): (4, 3)}, (4,)),
        ({"a": (5,)}, ()),
        ({"a": (4, 6), "b": (3, 6)}, ()),
    ],
    ids=str,
)
def test_the_batch_is_what_the_inputs_share(shapes, batch):
    seen = []

    class Look(TensorDictModuleBase):
        in_keys, out_keys = list(shapes), ["value"]

        def forward(self, tensordict):
            seen.append(tensordict.batch_size)
            return tensordict.set("value", torch.zeros(tensordict.batch_size))

    data = {key: torch.zeros(shape) for key, shape in shapes.items()}
    PlainForm(Look(), "value")(data)
    assert seen == [torch.Size(batch)]
    assert set(data) == set(shapes)


class OwnDistribution(nn.Module):
    """A policy that has only ``get_dist``."""

    in_keys, out_keys = ["observation"], ["action"]

    def __init__(self, network):
        super().__init__()
        self.network = network

    def get_dist(self, tensordict):
        return torch.distributions.Categorical(logits=self.network(tensordict["observation"]))


@pytest.mark.parametrize("separate_losses", [False, True])
def test_a_policy_that_only_has_get_dist(separate_losses):
    actor, critic = plain_networks("categorical")
    loss = ClipPPOLoss(OwnDistribution(actor.network), critic, separate_losses=separate_losses)
    plain = ClipPPOLoss(actor, critic, separate_losses=separate_losses)
    data = make_data(actor, (3, 5)).exclude("advantage", "value_target")
    torch.testing.assert_close(total(loss(data)), total(plain(data)))
    for mine, expected in zip(gradients(loss, data), gradients(plain, data), strict=True):
        torch.testing.assert_close(mine, expected)


class Sampled(torch.distributions.Categorical):
    """Without an entropy; ``Moved`` with samples that carry a gradient."""

    def entropy(self):
        raise NotImplementedError


class Moved(torch.distributions.Independent):
    def entropy(self):
        raise NotImplementedError


class Sampling(OwnDistribution):
    def get_dist(self, tensordict):
        x = self.network(tensordict["observation"])
        if self.moved:
            loc, scale = x
            return Moved(torch.distributions.Normal(loc, scale), 1)
        return Sampled(logits=x)


@pytest.mark.parametrize("kind", ["categorical", "normal"])
def test_a_given_distribution_without_an_entropy_is_sampled(kind):
    """The gradient is the entropy's, too, where samples carry none."""
    torch.manual_seed(0)
    actor, critic = plain_networks(kind)
    policy = Sampling(actor.network)
    policy.moved = kind == "normal"
    loss = ClipPPOLoss(policy, critic, samples_mc_entropy=40_000)
    plain = ClipPPOLoss(actor, critic)
    data = make_data(actor, (6,))
    mine, expected = loss(data), plain(data)
    close = {"rtol": 0.05, "atol": 0.01}
    torch.testing.assert_close(mine["entropy"], expected["entropy"], **close)
    parameters = list(actor.network.parameters())
    for x, y in zip(
        *[torch.autograd.grad(100 * out["loss_entropy"], parameters) for out in (mine, expected)],
        strict=True,
    ):
        torch.testing.assert_close(x, y, **close)


def test_a_given_distribution_cannot_be_recorded():
    actor, critic = plain_networks("categorical")
    with pytest.raises(TypeError, match="KLPENPPOLoss: `actor_network` must give the parameters"):
        KLPENPPOLoss(OwnDistribution(actor.network), critic)


# ---- refused -------------------------------------------------------------------------------------


def test_what_cannot_be_called_is_named():
    actor, critic = plain_networks("categorical")
    no_keys = TensorDictSequential(WrapModule(lambda data: data))
    with pytest.raises(TypeError, match="a TensorDict network must say its `in_keys`, got WrapMod"):
        ClipPPOLoss(actor, no_keys)
    with pytest.raises(TypeError, match="must end in a ProbabilisticTensorDictModule, got TensorD"):
        ClipPPOLoss(TensorDictModule(actor.network, ["observation"], ["logits"]), critic)


def test_distributions_that_are_conditioned_on_one_another():
    actor, critic = plain_networks("categorical")

    def part(out_key):
        return ProbabilisticTensorDictModule(
            ["logits"], [out_key], distribution_class=torch.distributions.Categorical
        )

    policy = ProbabilisticTensorDictSequential(
        TensorDictModule(actor.network, ["observation"], ["logits"]), part("first"), part("second")
    )
    with pytest.raises(TypeError, match="must have one distribution, got 2 that are conditioned"):
        ClipPPOLoss(policy, critic)


def test_missing_inputs_are_named():
    loss, _ = losses_of("from base")
    data = make_data(loss.actor_network, (4,))
    form = PlainForm(loss.critic_network, "state_value")
    with pytest.raises(KeyError, match="the network input `observation` was not found; the keys"):
        form({"action": data["action"]})
    missing = TensorDict({"action": data["action"]}, [4])
    with pytest.raises(KeyError, match="the network input `observation` was not found"):
        loss(missing)


def test_an_output_that_was_not_given_is_named():
    class Silent(FromBase):
        def forward(self, tensordict):
            return tensordict

    actor, critic = plain_networks("categorical")
    loss = ClipPPOLoss(policy_of(Silent(actor.network, "logits")), critic)
    with pytest.raises(KeyError, match="Silent did not give its output 'logits'"):
        loss(make_data(actor, (4,)))
