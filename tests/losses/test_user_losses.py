"""A loss that a user writes: one body on TorchRL's base and on ours, with the same results."""

import copy
import pickle
import warnings
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import nn
from torchrl.envs.utils import ExplorationType, exploration_type
from torchrl.modules import LSTMModule, set_recurrent_mode

import compiled_rl
from compiled_rl import SoftUpdate
from compiled_rl.testing import count_graphs
from tests.losses.networks import make_data, plain_networks
from tests.losses.user_loss import PEER, network, rollout, value_loss

Ours, Theirs = value_loss(compiled_rl), value_loss(PEER)
Ours.__module__, Ours.__qualname__ = __name__, "Ours"  # where pickle finds it
on_both = pytest.mark.parametrize("library", [compiled_rl, PEER], ids=["ours", "theirs"])
pytestmark = pytest.mark.filterwarnings("ignore:No target network updater")
KEYWORDS = {
    "observation": ("observation",),
    "next_observation": ("next", "observation"),
    "next_reward": ("next", "reward"),
    "next_done": ("next", "done"),
    "next_terminated": ("next", "terminated"),
}


def written(library: Any) -> type:
    return Ours if library is compiled_rl else Theirs


def results(loss: Any, data: TensorDict) -> dict[str, Any]:
    outputs = loss(data)
    parameters = list(loss.parameters())
    total = (outputs["loss_value"] + outputs["loss_norm"]).sum()
    gradients = torch.autograd.grad(total, parameters)
    return dict(outputs.items()) | {str(i): x for i, x in enumerate(gradients)}


# ---- parity --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["TD0", "TDLambda"])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_one_body_gives_the_same_on_both_bases(kind: str, reduction: str) -> None:
    mine, expected = (written(lib)(network(), reduction=reduction) for lib in (compiled_rl, PEER))
    mine.make_value_estimator(compiled_rl.ValueEstimators[kind], gamma=0.9)
    expected.make_value_estimator(PEER.ValueEstimators[kind], gamma=0.9)
    data = rollout(3, 5)
    data["valid"] = torch.rand(3, 5) < 0.7
    mine.loss_mask_key = expected.loss_mask_key = "valid"
    torch.testing.assert_close(results(mine, data), results(expected, data))


@on_both
def test_weights_count_unless_they_are_not_wanted(library: Any) -> None:
    loss, data = written(library)(network()), rollout(6)
    weighed = loss(data)["loss_value"]
    loss.use_prioritized_weights = False
    assert loss._maybe_get_priority_weight(data) is None
    assert loss(data)["loss_value"] != weighed
    loss.use_prioritized_weights = True
    torch.testing.assert_close(loss(data)["loss_value"], weighed)


# ---- keys ----------------------------------------------------------------------------------------


def test_the_documented_example_runs_as_written() -> None:
    class MyLoss(compiled_rl.LossModule):
        @dataclass
        class _AcceptedKeys:
            action = "action"

        def _forward_value_estimator_keys(self, **kwargs) -> None:
            self.forwarded = kwargs

    loss = MyLoss()
    loss.set_keys(action="action2")
    assert loss.tensor_keys.action == "action2"
    assert loss.tensor_keys["action"] == "action2"
    assert loss.forwarded == {"action": "action2"}


@pytest.mark.parametrize("made", [False, True])
def test_default_keys_may_be_a_class_or_an_instance(made: bool) -> None:
    class Mine(compiled_rl.LossModule):
        @dataclass
        class _AcceptedKeys:
            action: str = "action"

        default_keys = _AcceptedKeys() if made else _AcceptedKeys

    loss = Mine()
    loss.set_keys(action="other")
    loss.set_keys(action=None)
    assert loss.tensor_keys.action == "action"


@on_both
def test_keys_are_set_restored_and_refused(library: Any) -> None:
    loss = written(library)(network())
    loss.set_keys(reward=("team", "reward"), value="state_value")
    assert loss.tensor_keys.reward == ("team", "reward")
    loss.set_keys(reward=None)
    assert loss.tensor_keys.reward == "reward"
    with pytest.raises(ValueError, match="is not an accepted"):
        loss.set_keys(nothing="x")


def test_a_key_that_the_estimator_refuses_is_not_kept() -> None:
    loss = Ours(network())
    before = (loss.tensor_keys, loss.value_estimator.tensor_keys, loss.in_keys)
    with pytest.raises(KeyError, match="'nothing' for `value` must be an output"):
        loss.set_keys(value="nothing", reward="gain")
    assert (loss.tensor_keys, loss.value_estimator.tensor_keys, loss.in_keys) == before
    loss.set_keys(reward="gain")
    assert (loss.tensor_keys.reward, loss.tensor_keys.value) == ("gain", "state_value")


def test_a_key_that_a_user_refuses_is_not_kept() -> None:
    class Refusing(compiled_rl.LossModule):
        class _AcceptedKeys:
            value = "state_value"

        def _forward_value_estimator_keys(self, **kwargs: Any) -> None:
            raise ValueError("not this one")

    loss = Refusing()
    with pytest.raises(ValueError, match="not this one"):
        loss.set_keys(value="other")
    assert loss.tensor_keys.value == "state_value"


@on_both
def test_set_keys_reach_the_estimator_and_the_in_keys(library: Any) -> None:
    loss, data = written(library)(network()), rollout(3, 5)
    loss.make_value_estimator(library.ValueEstimators.TD0)
    expected = loss(data)["loss_value"]
    loss.set_keys(reward="gain", done="over")
    assert ("next", "gain") in loss.in_keys
    data["next", "gain"] = data["next"].pop("reward")
    data["next", "over"] = data["next"].pop("done")
    torch.testing.assert_close(loss(data)["loss_value"], expected)


def test_a_key_may_be_a_list_where_a_user_wants_one() -> None:
    loss = Ours(network())
    loss.set_keys(priority_weight=["mine", "yours"])
    assert loss.tensor_keys.priority_weight == ["mine", "yours"]


def test_a_subclass_of_a_native_loss_adds_keys_and_changes_defaults() -> None:
    class Mine(compiled_rl.A2CLoss):
        @dataclass
        class _AcceptedKeys:
            extra: str = "extra"
            reward: str = "gain"

    loss = Mine(*plain_networks("normal"))
    loss.set_keys(extra_key="other")
    assert loss.tensor_keys.extra == "other"
    assert ("next", "gain") in loss.in_keys
    assert loss.value_estimator.tensor_keys.reward == "gain"


# ---- calls ---------------------------------------------------------------------------------------


@on_both
def test_keywords_positions_and_data_are_one_computation(library: Any) -> None:
    loss, data = written(library)(network()), rollout(3, 5).exclude("priority_weight")
    expected = loss(data)
    by_keyword = {name: data[key] for name, key in KEYWORDS.items()}
    found = loss(**by_keyword)
    torch.testing.assert_close(found, tuple(expected[name] for name in loss.out_keys))
    positional = loss(*[data[key] for key in loss.in_keys])
    torch.testing.assert_close(positional, found)


@on_both
def test_in_keys_may_be_set(library: Any) -> None:
    loss = written(library)(network())
    loss.in_keys = ["observation"]
    loss.set_keys(value=None)  # derives them anew
    assert len(loss.in_keys) == 5


@on_both
def test_outputs_are_selected(library: Any) -> None:
    loss, data = written(library)(network()), rollout(3, 5).exclude("priority_weight")
    everything, names = loss(data), list(loss.out_keys)
    loss.select_out_keys("loss_norm", "loss_value")
    assert set(loss(data).keys()) == {"loss_norm", "loss_value"}
    found = loss(**{name: data[key] for name, key in KEYWORDS.items()})
    torch.testing.assert_close(found, (everything["loss_norm"], everything["loss_value"]))
    loss.reset_out_keys()
    assert list(loss.out_keys) == names
    assert set(loss(data).keys()) == set(names)
    with pytest.raises(ValueError, match="nothing"):
        loss.select_out_keys("nothing")


@on_both
def test_losses_run_in_the_mode_that_is_set(library: Any) -> None:
    loss = written(library)(network())
    assert loss.deterministic_sampling_mode is ExplorationType.DETERMINISTIC
    assert loss(rollout(4))["mode"] == 1
    loss.deterministic_sampling_mode = ExplorationType.MEAN
    assert loss(rollout(4))["mode"] == 0
    loss.norm_loss(rollout(4))
    assert loss.modes[1:] == [ExplorationType.MEAN, ExplorationType.MEAN]
    assert exploration_type() is not ExplorationType.MEAN


@on_both
def test_the_mode_may_be_the_classs(library: Any) -> None:
    class Random(library.LossModule):
        deterministic_sampling_mode = ExplorationType.RANDOM

        def forward(self, tensordict):
            return exploration_type()

    class Nested(Random):
        def forward(self, tensordict):
            return super().forward(tensordict), exploration_type()

    assert Random()(None) is ExplorationType.RANDOM
    assert Nested()(None) == (ExplorationType.RANDOM, ExplorationType.RANDOM)


@on_both
def test_the_mode_reaches_what_a_class_beside_computes(library: Any) -> None:
    class Beside:
        def forward(self, tensordict):
            return exploration_type(), self.extra_loss()

        def extra_loss(self):
            return exploration_type()

    class Mixed(Beside, library.LossModule):
        deterministic_sampling_mode = ExplorationType.MEAN

    mean = ExplorationType.MEAN
    assert Mixed()(None) == (mean, mean)
    if library is compiled_rl:
        assert Mixed().extra_loss() is mean
        assert type("Heir", (Mixed,), {}).forward is Mixed.forward  # once
    assert Beside().extra_loss() is not mean


def test_a_loss_without_tensordict_runs_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compiled_rl.losses.base.find_spec", lambda name: None)

    class Plain(compiled_rl.LossModule):
        def forward(self, x):
            return 2 * x

    assert Plain()(3) == 6
    assert not hasattr(Plain.forward, "__wrapped__")


@on_both
def test_recurrent_modules_of_torchrl_run_over_time(library: Any) -> None:
    lstm = LSTMModule(input_size=4, hidden_size=3, in_key="observation", out_key="memory")

    class Recurrent(library.LossModule):
        def forward(self, tensordict):
            return lstm(tensordict)["memory"]

    data = rollout(2, 5)
    data["is_init"] = torch.zeros(2, 5, 1, dtype=torch.bool)
    data["recurrent_state_h"] = data["recurrent_state_c"] = torch.zeros(2, 5, 1, 3)
    with set_recurrent_mode(True):
        expected = lstm(data.clone())["memory"]
    torch.testing.assert_close(Recurrent()(data), expected)


def test_a_users_loss_compiles_whole() -> None:
    small = Small(nn.Linear(4, 1))
    small.convert_to_functional(nn.Linear(1, 1), "other", create_target_params=True)
    with count_graphs() as graphs:
        compiled = torch.compile(small, fullgraph=True, backend=graphs.backend)
        for size, coeff in ((3, 0.5), (4, 0.25), (5, 0.125)):
            small.coeff = coeff
            data = rollout(size)
            torch.testing.assert_close(compiled(data)["loss"], small(data)["loss"])
    assert graphs.count <= 2


class Small(compiled_rl.LossModule):
    """The least that has a network, a coefficient, a key and a reduction."""

    @dataclass
    class _AcceptedKeys:
        reward: Any = ("next", "reward")

    def __init__(self, body):
        super().__init__()
        self.convert_to_functional(TensorDictModule(body, ["observation"], ["value"]), "net")
        self.register_coeff_buffer("coeff", 1.0)

    def some_loss(self, tensordict):
        error = self.net(tensordict.copy())["value"] - tensordict[self.tensor_keys.reward]
        return self.coeff * self._reduce_loss(error.square(), tensordict)

    def forward(self, tensordict):
        return TensorDict({"loss": self.some_loss(tensordict)}, [])


# ---- coefficients, estimators, copies ------------------------------------------------------------


def test_a_coefficient_is_a_buffer_that_takes_numbers() -> None:
    loss = Ours(network(), coeff=torch.tensor([0.5], dtype=torch.float64))
    buffer = loss.coeff
    loss.coeff = 0.25
    assert loss.coeff is buffer
    assert (buffer.item(), buffer.dtype, buffer.shape) == (0.25, torch.float64, ())
    assert loss.absent is None
    loss.absent = 3  # None is no buffer
    assert "coeff" in loss.state_dict()
    loss.register_coeff_buffer("narrow", 1, dtype=torch.float16)
    assert loss.narrow.dtype == torch.float16
    learned = nn.Parameter(torch.ones(()))
    loss.register_coeff_buffer("learned", learned)
    assert loss.learned is learned
    for wrong in (True, torch.zeros(2), "x"):
        with pytest.raises(ValueError, match="`wrong` must be a float or a 0-d tensor"):
            loss.register_coeff_buffer("wrong", wrong)


def test_the_estimator_may_be_made_set_and_asked_for() -> None:
    loss = Ours(network())
    assert isinstance(loss._value_estimator, compiled_rl.TD0Estimator)  # from the start
    own = compiled_rl.TD0Estimator(gamma=0.5, value_network=network())
    loss.value_estimator = own
    assert loss.value_estimator is own
    assert "value_estimator" not in loss._modules
    assert loss.value_type is compiled_rl.TD0Estimator
    loss._value_estimator = other = compiled_rl.TD0Estimator(gamma=0.7)
    assert loss.value_estimator is other


def test_a_base_without_a_make_value_estimator_takes_classes_and_estimators() -> None:
    loss = compiled_rl.LossModule()
    made = loss.make_value_estimator(compiled_rl.TD0Estimator, gamma=0.5, value_network=network())
    assert made is loss
    assert loss.value_estimator.gamma == 0.5
    assert loss.reset() is None


@on_both
def test_a_base_without_a_make_value_estimator_makes_none_by_name(library: Any) -> None:
    loss = library.LossModule()
    with pytest.raises(NotImplementedError):
        loss.make_value_estimator(library.ValueEstimators.TD0, gamma=0.5)
    if library is compiled_rl:
        loss.make_value_estimator("TD0", value_network=network())
        with pytest.raises(NotImplementedError, match="`make_value_estimator` be overridden"):
            loss.make_value_estimator("TD0")
        assert loss.value_estimator.value_network is not None  # as it was


def test_the_default_estimator_may_be_made_otherwise() -> None:
    class Mine(Ours):
        def _default_value_estimator(self) -> None:
            self.make_value_estimator(self.default_value_estimator, gamma=0.3)

    torch.testing.assert_close(Mine(network()).value_estimator.gamma.item(), 0.3)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_compute_the_same(copied: Any) -> None:
    loss, data = Ours(network()), rollout(3, 5)
    loss.set_keys(priority_weight_key="other")
    loss.select_out_keys("loss_value", "loss_norm")
    other = copied(loss)
    torch.testing.assert_close(results(other, data), results(loss, data))
    assert other.tensor_keys.priority_weight == "other"
    other.reset_out_keys()
    assert len(loss.out_keys) == 2
    fresh = Ours(network(), coeff=0.7)
    fresh.load_state_dict(loss.state_dict())
    assert fresh.coeff == loss.coeff


# ---- the warning ---------------------------------------------------------------------------------


def warned(function: Any, *args: Any) -> int:
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        function(*args)
    return sum("no updater was made of its targets" in str(x.message) for x in found)


def test_targets_that_nothing_moves_are_warned_of_once() -> None:
    loss = Ours(network())
    assert warned(loss, rollout(4)) == 1
    assert warned(loss, rollout(4)) == 0
    assert warned(lambda: Ours(network()).target_value_network_params) == 1


class Direct(compiled_rl.LossModule):
    """It calls its target as a module, and makes its estimator as the base asks for one."""

    default_value_estimator = compiled_rl.ValueEstimators.TD0

    def __init__(self, device: str = "cpu") -> None:
        super().__init__()
        net = network().to(device)
        self.convert_to_functional(net, "network", create_target_params=True)

    def make_value_estimator(self, value_type: Any = None, **hyperparams: Any) -> None:
        self.asked = hyperparams
        self._value_estimator = compiled_rl.TD0Estimator(value_network=self.network, **hyperparams)

    def forward(self, tensordict: TensorDict) -> TensorDict:
        value = self.target_network(tensordict.copy()).get("state_value")
        return TensorDict({"loss_value": self._reduce_loss(value.squeeze(-1), tensordict)}, [])


def test_a_target_that_is_called_itself_is_warned_of_too() -> None:
    loss = Direct()
    assert warned(loss, rollout(4)) == 1
    assert warned(loss, rollout(4)) == 0


def test_the_default_estimator_is_made_where_the_parameters_are() -> None:
    loss = Direct("meta")
    assert loss.asked == {"device": torch.device("meta")}
    assert loss.value_estimator.gamma.device.type == "meta"


def test_a_native_loss_warns_too() -> None:
    actor, critic = plain_networks("normal")
    data = make_data(actor, (4,))
    assert warned(compiled_rl.PPOLoss(actor, critic, delay_actor=True), data) == 1
    assert warned(compiled_rl.PPOLoss(actor, critic), data) == 0


def test_an_updater_or_a_wish_silences_the_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    loss = Ours(network())
    SoftUpdate(loss, eps=0.9)
    assert warned(loss, rollout(4)) == 0
    monkeypatch.setenv("RL_WARNINGS", "False")
    assert warned(Ours(network()), rollout(4)) == 0


def test_nothing_is_warned_of_while_compiling() -> None:
    loss = compiled_rl.PPOLoss(*plain_networks("normal"), delay_actor=True)
    compiled = torch.compile(loss, fullgraph=True, backend="eager")
    assert warned(compiled, make_data(loss.actor_network, (4,))) == 0
