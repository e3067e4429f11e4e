"""A valid call of every loss and estimator: its constructor, by keyword and by TensorDict."""

from collections.abc import Callable
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor, nn

from compiled_rl import estimators, losses, modules
from compiled_rl.adapters.fields import keyword
from compiled_rl.modules import families
from tests.fuzz.call import AT_LEAST_ONE, EXTRA, Call, Made
from tests.fuzz.mutations import ANYTHING, FRACTION, NOT_NEGATIVE, POSITIVE, Range
from tests.fuzz.of_modules import Fresh, called, fresh, made, normal

B, T, D, A, AGENTS, ATOMS = 4, 5, 5, 3, 3, 7


def policy() -> nn.Module:
    torch.manual_seed(0)
    return modules.Policy(normal(), families.Normal())


def chooser() -> nn.Module:
    torch.manual_seed(0)
    return modules.Policy(nn.Linear(D, A), families.Categorical())


def critic(outputs: int = 1) -> nn.Module:
    torch.manual_seed(1)
    return nn.Linear(D, outputs)


class OfActions(nn.Module):
    """A critic of an observation and an action."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.linear = nn.Linear(D + A, 1)

    def forward(self, observation: Tensor, action: Tensor) -> Tensor:
        value: Tensor = self.linear(torch.cat([observation, action], -1))
        return value


def actor() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(D, A), nn.Tanh())


def atoms() -> nn.Module:
    return nn.Sequential(critic(ATOMS * A), nn.Unflatten(-1, (ATOMS, A)))


OWN_STEPS = {"state_value": (1,), "advantage": (1,), "value_target": (1,)}
ENTERED = {"next_reward": (1,), "next_done": (1,), "next_terminated": (1,)}


def steps(shape: tuple[int, ...], *names: str, each: tuple[int, ...] = ()) -> dict[str, Tensor]:
    """Recorded steps, in columns."""
    torch.manual_seed(3)
    known: dict[str, Callable[[], Tensor]] = {
        "observation": lambda: torch.randn(*shape, *each, D),
        "next_observation": lambda: torch.randn(*shape, *each, D),
        "state": lambda: torch.randn(*shape, 2, 4),
        "next_state": lambda: torch.randn(*shape, 2, 4),
        "action": lambda: torch.randn(*shape, *each, A),
        "action_log_prob": lambda: torch.randn(*shape, *each) / 5,
        "loc": lambda: torch.randn(*shape, A),
        "scale": lambda: torch.rand(*shape, A) + 0.5,
        "next_reward": lambda: torch.randn(*shape, 1),
        "next_done": lambda: torch.rand(*shape, 1) < 0.3,
        "next_terminated": lambda: torch.zeros(*shape, 1, dtype=torch.bool),
        "shifted_valid": lambda: torch.rand(*shape) < 0.8,
        "priority_weight": lambda: torch.rand(*shape, 1) + 0.5,
        "index": lambda: torch.randint(A, (*shape, *each)),
    }
    column = lambda: torch.randn(*shape, *each, 1)  # noqa: E731
    return {"action" if k == "index" else k: known.get(k, column)() for k in names}


NAMES = {
    "action_log_prob": {"sample_log_prob", "log_prob", "behavior_log_prob"},
    "state_value": {"value", "old_value"},
    "next_observation": {"next action_value", "value", "observation"},
    "observation": {"value", "action_value", "log_prob", "loc"},
    **{f"next_{k}": {k} for k in ("reward", "done", "terminated", "state")},
    "shifted_valid": {"mask"},
    "agents_observation": {"value", "action_value", "observation"},
    "next_agents_observation": {"next action_value", "value", "observation"},
    "agents_action": {"action"},
    "priority_weight": {"weight"},
}
NETWORK = frozenset({"observation", "next_observation", "state", "next_state", "action"})
NETWORK |= {"agents_observation", "next_agents_observation"}
OF_POLICIES = ("observation", "action", "action_log_prob")
OWN = ("observation", "action")
GIVEN_VALUES = ("advantage", "value_target", "state_value", "shifted_valid")
GIVEN = (*OF_POLICIES, *GIVEN_VALUES)
SEQUENCE = (*OF_POLICIES, *ENTERED, "next_observation")
TRANSITION = (
    "observation",
    "action",
    *ENTERED,
    "next_observation",
    "priority_weight",
    "shifted_valid",
)
CHOICE = ("observation", "index", *ENTERED, "next_observation", "priority_weight", "shifted_valid")
TEAM = (*CHOICE, "state", "next_state")

ACTOR_CRITIC: dict[str, Any] = {
    "loss_critic_type": "l2", "critic_coeff": 0.5, "clip_value": 0.2, "separate_losses": False,
    "functional": True, "reduction": "mean", "loss_mask_key": "shifted_valid", "device": "cpu",
    "advantage_key": "advantage", "value_target_key": "value_target", "value_key": "state_value",
}  # fmt: skip
REINFORCE = {k: x for k, x in ACTOR_CRITIC.items() if k != "critic_coeff"}
ENTROPY = {"entropy_bonus": True, "samples_mc_entropy": 1, "entropy_coeff": 0.01}
PPO = {
    "log_explained_variance": True, "normalize_advantage": True, "delay_actor": False,
    "normalize_advantage_exclude_dims": (-1,), "max_importance_ratio": 2.0,
}  # fmt: skip
OFF_POLICY = {
    "loss_function": "l2", "reduction": "mean", "loss_mask_key": "shifted_valid",
    "use_prioritized_weights": True, "priority_key": "td_error",
}  # fmt: skip
SOFT = {
    "num_qvalue_nets": 2, "alpha_init": 1.0, "min_alpha": 0.1, "max_alpha": 10.0,
    "fixed_alpha": False, "target_entropy": -2.0, "separate_losses": False,
}  # fmt: skip
RANGES = {
    "clip_value": POSITIVE, "clip_epsilon": Range(0.0, 1.0, open_high=True), "dtarg": POSITIVE,
    "beta": NOT_NEGATIVE, "increment": AT_LEAST_ONE, "decrement": Range(0.0, 1.0, open_low=True),
    "samples_mc_entropy": AT_LEAST_ONE, "samples_mc_kl": AT_LEAST_ONE, "gamma": FRACTION,
    "lmbda": FRACTION, "policy_noise": NOT_NEGATIVE, "noise_clip": NOT_NEGATIVE,
    "num_qvalue_nets": AT_LEAST_ONE, "alpha_init": POSITIVE, "min_alpha": NOT_NEGATIVE,
    "max_alpha": POSITIVE, "max_importance_ratio": POSITIVE, "rho_thresh": POSITIVE,
    "c_thresh": POSITIVE, "target_entropy_weight": Range(), "num_actions": AT_LEAST_ONE,
    "critic_coeff": ANYTHING, "entropy_coeff": Range(),
}  # fmt: skip


WORDS = frozenset(
    {"advantage_key", "value_target_key", "value_key", "loss_mask_key", "priority_key", "group_key"}
)
NUMBERS: dict[str, Any] = {
    "ranges": RANGES,
    "words": WORDS,
    "names": {k: {k.removesuffix("_key")} for k in WORDS},
    "allowed": {"device": {"bytes"}, "clip_value": {"True"}, "loss_mask_key": {"None"}},
}


def once(make: Callable[[], Any]) -> Callable[[], Any]:
    """The same module at every call, in the state in which it was made, which takes no time."""
    held: dict[str, Any] = {}

    def made_before() -> Any:
        if not held:
            held["module"] = make()
            held["state"] = {k: x.clone() for k, x in held["module"].state_dict().items()}
        held["module"].load_state_dict(held["state"])
        return held["module"]

    return made_before


class Row:
    """A loss, its constructor's arguments, and what it is called with."""

    def __init__(
        self, name: str, arguments: dict[str, Any], *data: dict[str, Tensor], **others: Any
    ) -> None:
        self.name, self.arguments, self.data = name, arguments, data
        self.needs = others

    def loss(self) -> Any:
        torch.manual_seed(0)
        return getattr(losses, self.name)(**fresh(self.arguments))

    def calls(self) -> list[Call]:
        name = f"losses.{self.name}"
        cls = getattr(losses, self.name)
        found = [made(name, cls, **NUMBERS, **self.arguments), of_keys(name, self.loss)]
        found.append(
            called(
                name,
                self.loss,
                "make_value_estimator",
                value_type="td0",
                gamma=0.9,
                ranges=RANGES,
                allowed={"gamma": {"a tensor with an axis"}},  # a discount for each step
            )
        )
        for data in self.data:
            found += [
                self._call(f"{name}.forward", data, by) for by in (_by_keyword, _by_tensordict)
            ]
        return found

    def _call(self, name: str, data: dict[str, Tensor], by: Any) -> Call:
        made_once = once(self.loss)

        def make() -> Made:
            return by(made_once()), fresh(data)

        return Call(
            f"{name}{by.__name__.replace('_', ' ')}",
            make,
            names=NAMES,
            users=NETWORK,
            allowed=by.allowed(data),
        )


def of_keys(name: str, instance: Callable[[], Any]) -> Call:
    """Saying under which keys things are found."""
    keys = {"reward": "reward", "done": "done", "terminated": "terminated"}
    return called(name, instance, "set_keys", words=frozenset(keys), **keys)


class _by_keyword(nn.Module):  # noqa: N801
    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = self.stands_for = loss

    @staticmethod
    def allowed(data: dict[str, Tensor]) -> dict[str, set[str]]:
        """An action that is an index, and a mask, may be columns."""
        index = [k for k, x in data.items() if "action" in k and not x.is_floating_point()]
        return {k: {"an axis more"} for k in (*index, "shifted_valid")}

    def forward(self, **tensors: Any) -> Any:
        return self.loss(**tensors)


class _by_tensordict(_by_keyword):  # noqa: N801
    @staticmethod
    def allowed(data: dict[str, Tensor]) -> dict[str, set[str]]:
        """A TensorDict makes a tensor of a number by itself."""
        other = _by_keyword.allowed(data)
        numbers = {name: {"a number", *other.get(name, ())} for name in data}
        return {**numbers, EXTRA: {"too much"}}

    def forward(self, **tensors: Any) -> Any:
        given = {self._keys().get(name, name): x for name, x in tensors.items()}
        data = TensorDict(given, [])
        if hasattr(self.loss, "estimate"):  # it asks for a batch
            data.batch_size = [B, T]
        before = set(data.keys(True, True))
        try:
            return self.loss(data)
        except Exception:
            assert set(data.keys(True, True)) == before, "a refused call wrote to its TensorDict"
            raise

    def _keys(self) -> dict[str, Any]:
        return {keyword(key): key for key in self.loss.in_keys}


def of_agents(data: dict[str, Tensor]) -> dict[str, Tensor]:
    """Under the keys by which the agents of a team are found."""
    names = {"observation": "agents_observation", "action": "agents_action"}
    names |= {"next_observation": "next_agents_observation"}
    return {names.get(k, k): x for k, x in data.items()}


def without(data: dict[str, Tensor]) -> dict[str, Tensor]:
    """Of a loss that does not ask how likely an action was."""
    return {k: x for k, x in data.items() if k != "action_log_prob"}


def rows() -> list[Row]:
    actor_critic = {"actor_network": Fresh(policy), "critic_network": Fresh(critic)}
    given, sequence = steps((B, T), *GIVEN), steps((B, T), *SEQUENCE)
    given_alone = without(given)
    sequence |= {"shifted_valid": given["shifted_valid"], "state_value": given["state_value"]}
    alone = without(sequence)
    old = steps((B, T), "loc", "scale")
    ppo = {**actor_critic, **ACTOR_CRITIC, **ENTROPY, **PPO}
    transition, choice = steps((B,), *TRANSITION), steps((B,), *CHOICE)
    deterministic = {"actor_network": Fresh(actor)}
    critics = {"qvalue_network": Fresh(OfActions)}
    team = of_agents(steps((B,), *TEAM, each=(AGENTS,)))
    each = steps((B, T), *GIVEN, each=(AGENTS,))
    mappo = {**ppo, "clip_epsilon": 0.2, "normalize_advantage_exclude_dims": (-2,)}
    return [
        Row("A2CLoss", {**actor_critic, **ACTOR_CRITIC, **ENTROPY}, given_alone, alone),
        Row(
            "ReinforceLoss", {**actor_critic, **REINFORCE, "delay_value": False}, given_alone, alone
        ),
        Row("PPOLoss", ppo, given, sequence),
        Row("ClipPPOLoss", {**ppo, "clip_epsilon": 0.2}, given, sequence),
        Row(
            "KLPENPPOLoss",
            {
                **ppo,
                "dtarg": 0.01,
                "beta": 1.0,
                "increment": 2.0,
                "decrement": 0.5,
                "samples_mc_kl": 1,
                "adapt_beta": True,
            },
            {**given, **old},
        ),
        Row("MAPPOLoss", {**mappo, "value_norm": Fresh(modules.PopArtValueNorm)}, each),
        Row("IPPOLoss", mappo, each),
        Row(
            "DDPGLoss",
            {
                **deterministic,
                "value_network": Fresh(OfActions),
                **OFF_POLICY,
                "delay_actor": True,
                "delay_value": True,
                "separate_losses": False,
            },
            transition,
        ),
        Row(
            "TD3Loss",
            {
                **deterministic,
                **critics,
                **OFF_POLICY,
                "bounds": (-1.0, 1.0),
                "num_qvalue_nets": 2,
                "policy_noise": 0.2,
                "noise_clip": 0.5,
                "delay_actor": True,
                "delay_qvalue": True,
                "separate_losses": False,
            },
            transition,
        ),
        Row(
            "SACLoss",
            {"actor_network": Fresh(policy), **critics, **OFF_POLICY, **SOFT, "delay_value": True},
            transition,
        ),
        Row(
            "DiscreteSACLoss",
            {
                "actor_network": Fresh(chooser),
                "qvalue_network": Fresh(lambda: critic(A)),
                **OFF_POLICY,
                **SOFT,
                "action_space": "categorical",
                "num_actions": A,
                "target_entropy": 0.5,
            },
            choice,
        ),
        Row(
            "DQNLoss",
            {
                "value_network": Fresh(lambda: critic(A)),
                **OFF_POLICY,
                "action_space": "categorical",
                "delay_value": True,
                "double_dqn": True,
            },
            choice,
        ),
        Row(
            "DistributionalDQNLoss",
            {
                "value_network": Fresh(atoms),
                **{k: x for k, x in OFF_POLICY.items() if k != "loss_function"},
                "gamma": 0.9,
                "support": torch.linspace(-2, 2, ATOMS),
                "action_space": "categorical",
                "delay_value": True,
            },
            choice,
        ),
        Row(
            "QMixerLoss",
            {
                "local_value_network": Fresh(lambda: critic(A)),
                "mixer_network": Fresh(lambda: modules.QMixer([2, 4], 6, AGENTS)),
                **OFF_POLICY,
                "action_space": "categorical",
                "delay_value": True,
                "double_q": True,
            },
            team,
        ),
    ]


READS_BOTH = ("GAE", "MultiAgentGAE", "VTrace")
ESTIMATES = ("observation", "next_observation", *ENTERED)
OPTIONS: dict[str, Any] = {
    "gamma": 0.9, "value_network": Fresh(critic), "shifted": False, "differentiable": False,
    "skip_existing": False, "device": "cpu", "time_dim": -1, "value_chunk_size": 2,
    "value_chunk_dim": 0, "shifted_budget": 1,
}  # fmt: skip
COUNTS = {"value_chunk_size": AT_LEAST_ONE, "shifted_budget": AT_LEAST_ONE}


def of_estimator(name: str, data: dict[str, Tensor], **others: Any) -> list[Call]:
    cls = getattr(estimators, name)

    def estimator() -> Any:
        torch.manual_seed(0)
        return cls(**fresh({"gamma": 0.9, "value_network": Fresh(critic), **others}))

    estimator_once = once(estimator)

    def by_keyword() -> Made:
        return estimator_once(), fresh(data)

    def target() -> Made:
        read = {k: x for k, x in data.items() if k != "observation" or name in READS_BOTH}
        return estimator_once().value_estimate, fresh(read)

    def by_tensordict() -> Made:
        return _by_tensordict(estimator_once()), fresh(data)

    names: dict[str, Any] = {"names": NAMES, "users": NETWORK}
    column = {"action_log_prob": {"an axis more"}}  # as values are
    return [
        made(
            f"estimators.{name}",
            cls,
            ranges={**RANGES, **COUNTS},
            allowed={
                "device": {"bytes"},
                "gamma": {"a tensor with an axis"},
                "lmbda": {"a tensor with an axis"},
            },
            **{**OPTIONS, **others},
        ),
        of_keys(f"estimators.{name}", estimator),
        Call(f"estimators.{name}.forward keyword", by_keyword, allowed=column, **names),
        Call(f"estimators.{name}.value_estimate", target, allowed=column, **names),
        Call(
            f"estimators.{name}.forward tensordict",
            by_tensordict,
            **names,
            shaped=True,
            signed=False,
        ),
    ]


def calls() -> list[Call]:
    data = steps((B, T), *ESTIMATES)
    shared = steps((B, T), *ESTIMATES, each=(AGENTS,))
    ratio = steps((B, T), *ESTIMATES, "action", "action_log_prob")
    found = [call for row in rows() for call in row.calls()]
    for name, own in (
        ("TD0Estimator", {}),
        ("TD1Estimator", {}),
        ("TDLambdaEstimator", {"lmbda": 0.9}),
        ("GAE", {"lmbda": 0.9}),
    ):
        found += of_estimator(name, data, **own)
    found += of_estimator("MultiAgentGAE", shared, lmbda=0.9)
    found += of_estimator(
        "VTrace", ratio, rho_thresh=1.0, c_thresh=1.0, actor_network=Fresh(policy)
    )
    return found
