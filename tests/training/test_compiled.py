"""What a compiled step is not guarded for, and what it notices all the same."""

import copy

import pytest
import torch
from torch import nn
from torch._inductor.exc import InvalidCxxCompiler

from compiled_rl import ClipPPOLoss, Policy, SoftUpdate, UpdateStep
from compiled_rl.modules import Normal, StateDependentScale
from compiled_rl.training import compiled
from tests.losses.networks import ACTION, OBSERVATION, make_data, plain_networks
from tests.losses.transitions import SUBJECTS
from tests.training.test_update_targets import made, steps, tensors


def learner(network: nn.Module, mode: str = "default"):
    last = nn.Linear(8, 2 * ACTION)
    policy = Policy(nn.Sequential(network, last, StateDependentScale()), Normal)
    loss = ClipPPOLoss(policy, plain_networks("normal")[1])
    return loss, UpdateStep(loss, torch.optim.SGD(loss.parameters(), lr=0.0), mode=mode)


def data_of(size: int = 6, dtype=torch.float32):
    actor = plain_networks("normal")[0].to(dtype)
    return make_data(actor, (size,), dtype)


def assert_is_eager(loss, step, data) -> None:
    """The compiled loss is that of the loss as it is now."""
    expected = loss(data)["loss_objective"].detach()
    torch.testing.assert_close(step(data)["loss_objective"], expected)


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.scale, self.powers = nn.Linear(OBSERVATION, 8), 1.0, [1.0, 2.0]

    def forward(self, x):
        x = self.linear(x) * self.scale
        return torch.tanh(sum(x * power for power in self.powers))


def test_attributes_of_a_users_module_are_noticed(counted):
    network = Scaled()
    loss, step = learner(network)
    data = data_of()
    assert_is_eager(loss, step, data)
    network.scale = 2.0
    assert_is_eager(loss, step, data)
    network.powers.append(3.0)
    assert_is_eager(loss, step, data)
    network.powers[0] = 0.0
    assert_is_eager(loss, step, data)
    network.forward = lambda x: torch.sin(network.linear(x))
    assert_is_eager(loss, step, data)


class Listed(nn.Module):
    """What it computes with stands outside of the module tree, and is of torch's own classes."""

    def __init__(self):
        super().__init__()
        self.linear, self.activations = nn.Linear(OBSERVATION, 8), [nn.Tanh()]
        self.transform = torch.distributions.transforms.TanhTransform()

    def forward(self, x):
        y = self.transform(self.activations[0](self.linear(x)))
        return y * 2 if hasattr(self.linear, "doubled") else y


@pytest.mark.slow
def test_what_is_of_torchs_classes_is_noticed(counted):
    network = Listed()
    loss, step = learner(network)
    data = data_of()
    assert_is_eager(loss, step, data)
    network.activations[0] = nn.ReLU()
    assert_is_eager(loss, step, data)
    network.transform = torch.distributions.transforms.SigmoidTransform()
    assert_is_eager(loss, step, data)
    network.linear.doubled = True
    assert_is_eager(loss, step, data)
    network.linear.forward = lambda x: x.repeat_interleave(2, -1)[..., :8]
    assert_is_eager(loss, step, data)


@pytest.mark.slow
def test_parameters_may_be_laid_out_anew():
    """By Inductor's code, which would read memory in the order of before."""
    loss, step = learner(nn.Linear(OBSERVATION, 8))
    data, weight = data_of(), loss.actor_network.network[0].weight
    assert_is_eager(loss, step, data)
    weight.data = weight.data.t().contiguous().t()
    assert_is_eager(loss, step, data)


@pytest.mark.slow
def test_the_mode_of_the_networks_is_noticed(counted):
    network = nn.Sequential(nn.Linear(OBSERVATION, 8), nn.BatchNorm1d(8, momentum=0.0))
    loss, step = learner(network)
    data = data_of()
    trained = step(data)["loss_objective"]
    loss.eval()
    assert step(data)["loss_objective"] != trained
    assert_is_eager(loss, step, data)
    loss.train()
    torch.testing.assert_close(step(data)["loss_objective"], trained)


@pytest.mark.parametrize("mode", ["eager", pytest.param("default", marks=pytest.mark.slow)])
def test_a_loss_may_move_to_another_dtype_with_its_optimiser(mode, counted):
    one = made("ddpg", dtype=torch.float32)
    step = one.step(mode=mode)
    step(steps(4, 0, torch.float32))
    one.loss.to(torch.float64)
    for each in one.optimizers:
        each.load_state_dict(copy.deepcopy(each.state_dict()))  # which is cast to the parameters'
    other = Other(one)
    step(steps(4, 1))
    other.step(steps(4, 1))
    torch.testing.assert_close(tensors(one.loss), tensors(other.loss), rtol=1e-6, atol=1e-6)
    assert all(p.dtype == torch.float64 for p in one.loss.parameters())


class Other:
    """A learner of the same numbers with a new, eager step."""

    def __init__(self, one):
        self.loss = made("ddpg").loss
        self.loss.load_state_dict(one.loss.state_dict())
        fresh = made("ddpg")
        fresh.loss.load_state_dict(one.loss.state_dict())
        for new, old in zip(fresh.optimizers, one.optimizers, strict=True):
            new.load_state_dict(copy.deepcopy(old.state_dict()))
        self.loss, self.step = fresh.loss, fresh.step(mode="eager")


@pytest.mark.parametrize("forget", [lambda o: o.state.clear(), lambda o: o.load_state_dict(NEW[0])])
def test_an_optimisers_state_may_be_another(forget, counted):
    """Cleared, or loaded: the graph that is there goes on with it."""
    mine, theirs = made("ddpg"), made("ddpg")
    NEW[:] = [copy.deepcopy(mine.optimizers[0].state_dict())]
    step, eager = mine.step(), theirs.step(mode="eager")
    for k in range(4):
        if k == 2:
            forget(mine.optimizers[0])
            forget(theirs.optimizers[0])
        step(steps(4, k))
        eager(steps(4, k))
    torch.testing.assert_close(tensors(mine.loss), tensors(theirs.loss), rtol=1e-5, atol=1e-6)
    assert counted.count == 1


NEW: list = []


@pytest.mark.parametrize("mode", ["eager", "default"])
def test_the_state_of_one_parameter_may_be_reset(mode, counted):
    """A layer that starts anew; torch's own step makes its moments anew, too."""
    one = made("ddpg")
    step = one.step(mode=mode)
    for k in range(3):
        step(steps(4, k))
    adam = one.optimizers[0]
    last = adam.param_groups[0]["params"][-1]
    adam.state.pop(last)
    step(steps(4, 3))
    assert adam.state[last]["step"] == 1
    assert adam.state[adam.param_groups[0]["params"][0]]["step"] == 4


class Laid(nn.Module):
    """Gradients of its parameters are laid out otherwise than they are."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(-1, 1, 8 * OBSERVATION).view(8, OBSERVATION))
        self.shift = nn.Parameter(torch.linspace(-1, 1, 5))

    def forward(self, x):
        return torch.einsum("...i,oi->...o", x, self.weight) * self.shift.sum()


@pytest.mark.parametrize("optimiser", ["Adam", "RMSprop", "SGD"])
def test_gradients_may_be_laid_out_otherwise(optimiser):
    """Torch's fused kernels read them in order, and beyond the end of an expanded one."""
    loss = learner(Laid(), "eager")[0].double()
    losses = [loss, copy.deepcopy(loss)]
    makers = [getattr(torch.optim, optimiser)(loss.parameters(), lr=1e-2) for loss in losses]
    step, data = UpdateStep(losses[0], makers[0], mode="eager"), data_of(dtype=torch.float64)
    for _ in range(3):
        step(data)
        outputs = losses[1](data)
        makers[1].zero_grad()
        sum(outputs[name] for name in losses[1].minimised).backward()
        makers[1].step()
    torch.testing.assert_close(tensors(losses[0]), tensors(losses[1]), rtol=1e-10, atol=1e-10)


@pytest.mark.slow
def test_strides_of_a_state_are_noticed(counted):
    """A kernel that was made for other strides would read it wrongly, or beyond its end."""
    mine, theirs = made("ddpg"), made("ddpg")
    step, eager = mine.step(), theirs.step(mode="eager")
    for k in range(3):
        step(steps(4, k))
        eager(steps(4, k))
        for slots in mine.optimizers[0].state.values():
            x = slots["exp_avg"]
            slots["exp_avg"] = x.t().contiguous().t() if x.dim() == 2 else x.clone()
    torch.testing.assert_close(tensors(mine.loss), tensors(theirs.loss), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_freezing_and_back_makes_no_third_graph(counted):
    one = made("ddpg")
    step = one.step()
    frozen = next(one.loss.value_network.parameters())
    for k in range(6):
        before = frozen.detach().clone()
        frozen.requires_grad_(k % 2 == 0)
        step(steps(4, k))
        assert torch.equal(frozen, before) is (k % 2 == 1)
    assert counted.count == 2


def test_few_guards_are_left(monkeypatch):
    """They are looked at before every call; TorchDynamo would have eleven hundred."""
    counts, compile_ = [], torch.compile

    def counting(function, options, **others):
        def needed(guards):
            kept = options["guard_filter_fn"](guards)
            counts.append((len(kept), sum(kept)))
            return kept

        return compile_(function, backend="eager", options={"guard_filter_fn": needed}, **others)

    monkeypatch.setattr(torch, "compile", counting)
    one = SUBJECTS["ddpg-delayed"].ours()
    updater, adam = SoftUpdate(one, tau=0.1), torch.optim.Adam(one.parameters())
    UpdateStep(one, adam, target_updater=updater)(steps(4, 0, torch.float32))
    ((before, after),) = counts
    assert after < 400 < 1_000 < before


def test_without_a_compiler_it_runs_eagerly_and_says_so(monkeypatch):
    def none():
        raise InvalidCxxCompiler

    monkeypatch.setattr(compiled, "get_cpp_compiler", none)
    mine, theirs = made("ddpg"), made("ddpg")
    with pytest.warns(UserWarning, match=r"mode 'default' cannot be had, since there is no C\+\+"):
        step = mine.step()
    step(steps(4, 0))
    theirs.step(mode="eager")(steps(4, 0))
    torch.testing.assert_close(tensors(mine.loss), tensors(theirs.loss), rtol=0, atol=0)


class Remembering(nn.Module):
    def __init__(self):
        super().__init__()
        self.memory = nn.GRU(OBSERVATION, 8, batch_first=True)

    def forward(self, x):
        return self.memory(x.unsqueeze(-2))[0].squeeze(-2)


def test_torchs_own_recurrent_layers_run_eagerly():
    """TorchDynamo gives up on them in a page of words."""
    loss, step = learner(Remembering(), "eager")
    with pytest.warns(UserWarning, match=r"since TorchDynamo does not trace torch.nn.GRU; the"):
        step = UpdateStep(loss, step.optimizer)
    assert_is_eager(loss, step, data_of())


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["default", "reduce-overhead", "max-autotune"])
def test_every_mode_is_the_loop_by_hand(mode):
    mine, theirs = made("sac"), made("sac")
    generators = [torch.Generator().manual_seed(2) for _ in range(2)]
    step = mine.step(mode=mode, generator=generators[0])
    eager = theirs.step(mode="eager", generator=generators[1])
    kept = []
    for k in range(4):
        data = steps(8 if k else 5, k)
        kept.append((step(data), eager(data)))
    for metrics, expected in kept:  # what was returned first is still what it was
        torch.testing.assert_close(metrics, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(tensors(mine.loss), tensors(theirs.loss), rtol=1e-5, atol=1e-6)


def test_outputs_and_inputs_are_the_callers(counted):
    """Metrics that are kept do not change, and a batch may stand elsewhere every time."""
    loss = SUBJECTS["ddpg"].ours()
    step = UpdateStep(loss, torch.optim.SGD(loss.parameters(), lr=0.1))
    kept = []
    for k in range(3):
        data = steps(4, k, torch.float32)
        metrics = step(data)
        kept.append((metrics, {name: x.clone() for name, x in metrics.items()}))
        for x in data.values():  # after the call it is anybody's
            x.zero_()
    for metrics, copies in kept:
        torch.testing.assert_close(metrics, copies, rtol=0, atol=0)


@pytest.mark.parametrize("wrong", [-1, ACTION])
def test_an_action_out_of_range_is_refused_in_the_graph(wrong):
    """With two threads, an assertion in a kernel would end the process."""
    loss = ClipPPOLoss(*plain_networks("categorical"))
    step = UpdateStep(loss, torch.optim.Adam(loss.parameters()))
    data = make_data(loss.actor_network, (4096,))
    spoiled = data.clone()
    spoiled["action"][3000] = wrong
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        step(data)
        before = copy.deepcopy((step.state_dict(), loss.state_dict()))
        with pytest.raises(
            ValueError, match=r"^categorical_log_prob: `action` must be in \[0, 2\]"
        ):
            step(spoiled)
        torch.testing.assert_close((step.state_dict(), loss.state_dict()), before, rtol=0, atol=0)
        step(data)
    finally:
        torch.set_num_threads(threads)
