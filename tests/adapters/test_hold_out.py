"""Networks held out of a gradient, and the old one-step target, against TorchRL's."""

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import nn
from torchrl.objectives import utils as torchrl

from compiled_rl import hold_out_net, hold_out_params, next_state_value

NETWORKS = {
    "a tanh network": lambda: nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)),
    "a recurrent one": lambda: nn.GRU(3, 1),
}


@pytest.fixture(params=NETWORKS)
def network(request):
    torch.manual_seed(0)
    return NETWORKS[request.param]()


def value(network, x):
    output = network(x)
    return output[0] if isinstance(output, tuple) else output


def test_inputs_have_gradients_and_parameters_none(network):
    parameters = list(network.parameters())
    x = torch.randn(2, 3)
    held = x.clone().requires_grad_()
    with hold_out_net(network):
        assert not value(network, x).requires_grad
        value(network, held).sum().backward()
    assert held.grad.abs().sum() > 0
    assert all(p.grad is None for p in parameters)
    assert all(a is b for a, b in zip(network.parameters(), parameters, strict=True))
    value(network, x).sum().backward()
    assert all(p.grad is not None for p in parameters)


def test_each_parameter_keeps_its_own_flag(network):
    """TorchRL's gives a gradient to every one, or holds none out if the first is frozen."""
    first, *others = network.parameters()
    first.requires_grad_(False)
    with hold_out_net(network), hold_out_net(network):
        assert not value(network, torch.randn(2, 3)).requires_grad
    assert not first.requires_grad
    assert all(p.requires_grad for p in others)
    with torchrl.hold_out_net(network):
        assert value(network, torch.randn(2, 3)).requires_grad


def test_an_error_inside_puts_the_parameters_back(network):
    with pytest.raises(KeyError), hold_out_net(network):
        raise KeyError
    assert all(isinstance(p, nn.Parameter) for p in network.parameters())
    assert value(network, torch.randn(2, 3)).requires_grad


def test_it_compiles_whole():
    network = NETWORKS["a tanh network"]()

    def loss(x):
        with hold_out_net(network):
            held = network(x)
        return held.sum() + network(x.detach()).sum()

    grads = []
    for run in (loss, torch.compile(loss, fullgraph=True, backend="aot_eager")):
        x = torch.ones(2, 3, requires_grad=True)
        grads.append(torch.autograd.grad(run(x), [x, *network.parameters()]))
    torch.testing.assert_close(grads[0], grads[1])


def test_parameters_held_out_are_the_same_tensors():
    network = nn.Linear(3, 2)
    with hold_out_params(network.parameters()) as params:
        assert isinstance(params, tuple)
        assert not any(p.requires_grad for p in params)
        assert params[0].data_ptr() == network.weight.data_ptr()
    with hold_out_params(TensorDict.from_module(network)) as params:
        assert not params["weight"].requires_grad
    assert network.weight.requires_grad


def step(n: bool, column: bool = True) -> TensorDict:
    torch.manual_seed(1)
    shape = (6, 1) if column else (6,)
    data = {
        "observation": torch.randn(6, 3),
        "next": {
            "observation": torch.randn(6, 3),
            "reward": torch.randn(shape),
            "done": torch.rand(shape) < 0.4,
        },
    }
    return TensorDict(data | {"steps_to_next_obs": torch.randint(1, 4, shape)} if n else data, [6])


@pytest.mark.parametrize("n", [False, True])
@pytest.mark.parametrize("gamma", [0.9, 0.0])
@pytest.mark.parametrize("given", [False, True])
def test_the_old_target_is_torchrls(n, gamma, given):
    data = step(n)
    critic = TensorDictModule(nn.Linear(3, 1), ["observation"], ["state_action_value"])
    if given:
        source = {"pred_next_val": critic.module(data["next", "observation"])}
    else:
        source = {"operator": critic}
    got = next_state_value(data, gamma=gamma, **source)
    torch.testing.assert_close(got, torchrl.next_state_value(data, gamma=gamma, **source))
    assert not got.requires_grad
    assert "state_action_value" not in data.keys()


def test_the_old_target_where_all_are_done():
    data = step(False)
    data["next", "done"].fill_(True)
    got = next_state_value(data, pred_next_val=torch.full((6, 1), torch.nan))
    torch.testing.assert_close(got, data["next", "reward"].squeeze(-1))


def test_the_old_target_refuses_what_would_broadcast():
    with pytest.raises(ValueError, match=r"must have one shape, got \[6\], \[6\] and \[6, 6\]"):
        next_state_value(step(False), pred_next_val=torch.zeros(6, 6))
    many = step(True).set("steps_to_next_obs", torch.ones(6, 4, 1, dtype=torch.long))
    with pytest.raises(
        ValueError, match=r"`steps_to_next_obs` must have .*, got \[6, 4\] and \[6\]"
    ):
        next_state_value(many, pred_next_val=torch.zeros(6, 1))
    with pytest.raises(ValueError, match="`operator` or `pred_next_val` must be given"):
        next_state_value(step(False))
