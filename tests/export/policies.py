"""The policies that the tests ship, each with what it must compute by its maker's own words."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from tensordict import TensorDict
from tensordict.nn import CompositeDistribution, TensorDictModule, TensorDictSequential
from torch import Tensor, nn
from torchrl import modules as rl
from torchrl.data import Bounded, Categorical, OneHot
from torchrl.envs.utils import ExplorationType, set_exploration_type

from compiled_rl import ObservationNormalizer, Policy, QPolicy
from compiled_rl import modules as ours
from compiled_rl.adapters.deploy import to_policy
from compiled_rl.modules import (
    ActionRescaler,
    Concatenated,
    FrameStack,
    Reads,
    RecurrentPolicy,
    SampledPolicy,
    StateDependentScale,
    StateIndependentScale,
)
from tests.export.targets import HIGH, LOW
from tests.modules.family_rows import ROWS, Network

Tensors = dict[str, Tensor]
SEEN, HIDDEN, LAYERS = 4, 8, 2


class Row(NamedTuple):
    """What is shipped, inputs of a batch, and the outputs by name that they must have."""

    target: nn.Module
    inputs: Callable[[int], Tensors]
    expected: Callable[[Tensors], Tensors]
    options: dict[str, Any] = {}  # noqa: RUF012


def seen(batch: int) -> Tensors:
    return {"observation": torch.randn(batch, SEEN)}


def starts(batch: int, *shape: int) -> Tensor:
    return torch.rand(batch, *shape) < 0.5


def allowed(batch: int) -> Tensor:
    mask = torch.rand(batch, 3) < 0.6
    return mask | ~mask.any(-1, keepdim=True)


def mlp(outputs: int, inputs: int = SEEN, *last: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, 16), nn.Tanh(), nn.Linear(16, outputs), *last)


def gaussian(inputs: int = SEEN, rescale: nn.Module | None = None) -> Policy:
    return Policy(mlp(4, inputs, StateDependentScale()), ours.TanhNormal, rescale)


def normalised() -> nn.Module:
    normalizer = ObservationNormalizer(SEEN, clip=1.5)
    normalizer.update(torch.randn(100, SEEN) * 3 + 1)
    return normalizer


def of_policy(policy: nn.Module, inputs: Callable[[int], Tensors] = seen) -> Row:
    return Row(policy, inputs, lambda data: {"action": policy(*data.values())})


# ---- What networks there are ---------------------------------------------------------------------


class Images(nn.Module):
    """Bytes to features."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten()
        )
        self.head = nn.Linear(8 * 25, 3)

    def forward(self, observation: Tensor) -> Tensor:
        return self.head(self.layers(observation.float() / 255))


class Entities(nn.Module):
    """Attention over what is seen, and which of it is there."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, observation: Tensor) -> Tensor:
        return self.head(self.attention(observation).mean(1))


class Masked(nn.Module):
    """Logits, and the mask as it came."""

    def __init__(self) -> None:
        super().__init__()
        self.logits = mlp(3)

    def forward(self, observation: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        return self.logits(observation), mask


class Own(nn.Module):
    """What a user writes: two tensors in, two out, under names of their own."""

    class Output(NamedTuple):
        actions: Tensor
        value: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.body = mlp(3, SEEN + 2)

    def forward(self, obs: Tensor, command: Tensor) -> "Own.Output":
        x = self.body(torch.cat([obs, command], -1))
        return self.Output(x[..., :2].clamp(-0.2, 0.2), x[..., 2])


def images(batch: int) -> Tensors:
    return {"observation": torch.randint(0, 256, (batch, 3, 16, 16), dtype=torch.uint8)}


def networks() -> dict[str, Callable[[], Row]]:
    rescale = ActionRescaler(LOW, HIGH)
    return {
        "mlp": lambda: of_policy(
            Policy(
                nn.Sequential(normalised(), mlp(2), StateIndependentScale(2)), ours.Normal, rescale
            )
        ),
        "tanh, rescaled": lambda: of_policy(gaussian(rescale=rescale)),
        "cnn": lambda: of_policy(Policy(Images(), ours.Categorical), images),
        "attention": lambda: of_policy(
            Policy(Entities(), ours.Categorical), lambda n: {"observation": torch.randn(n, 5, 8)}
        ),
        "stacked frames": lambda: of_policy(
            gaussian_of_frames(), lambda n: {"observation": torch.randn(n, 3, SEEN)}
        ),
        "masked logits": lambda: of_policy(
            Policy(Reads(Masked(), "observation", "mask"), ours.MaskedCategorical),
            lambda n: {**seen(n), "mask": allowed(n)},
        ),
        "groups": lambda: of_policy(
            Policy(Reads(Concatenated(grouped()), "joints", ("command", "velocity")), ours.Normal),
            lambda n: {"joints": torch.randn(n, 3), "command_velocity": torch.randn(n, 1)},
        ),
        "action values": lambda: of_policy(QPolicy(mlp(3), "one_hot")),
        "any module": own,
    }


def grouped() -> nn.Module:
    return nn.Sequential(normalised(), mlp(2), StateIndependentScale(2))


def gaussian_of_frames() -> Policy:
    layers = nn.Sequential(nn.Flatten(1), mlp(4, 3 * SEEN), StateDependentScale())
    return Policy(layers, ours.TanhNormal)


def own() -> Row:
    module = Own()
    return Row(
        module,
        lambda n: {"obs": torch.randn(n, SEEN), "command": torch.randn(n, 2)},
        lambda data: module(**data)._asdict(),
    )


# ---- Families ------------------------------------------------------------------------------------


def flat(name: str, x: Any) -> Tensors:
    """As the names of the heads are promised."""
    return {f"{name}_{k}": y for k, y in x.items()} if isinstance(x, dict) else {name: x}


def of_family(name: str) -> Row:
    policy = Policy(Network(ROWS[name]), ROWS[name].family)
    return Row(policy, seen, lambda data: flat("action", policy(*data.values())))


def sampled(policy: Policy, observed: Callable[[int], Tensors] = seen) -> Row:
    """The action that ``act`` draws, from the noise that it draws."""

    def inputs(batch: int) -> Tensors:
        data = observed(batch)
        noise = policy.family.draw_noise(policy.params(*data.values()))
        return {**data, **flat("noise", noise)}

    def expected(data: Tensors) -> Tensors:
        params = policy.params(*[x for k, x in data.items() if not k.startswith("noise")])
        noise = {k.removeprefix("noise_"): x for k, x in data.items() if k.startswith("noise")}
        action, log_prob = policy.family.sample_with_log_prob(params, noise.get("noise", noise))
        outputs = {**flat("action", action), "log_prob": log_prob}
        if isinstance(policy.rescale, nn.Identity):
            return outputs
        return {**outputs, "rescaled_action": policy.rescale(action)}

    return Row(SampledPolicy(policy), inputs, expected)


def families() -> dict[str, Callable[[], Row]]:
    names = [name for name in ROWS if name != "object"]
    rows = {name: partial(of_family, name) for name in names}
    rows |= {
        f"{name}, sampled": lambda name=name: sampled(
            Policy(Network(ROWS[name]), ROWS[name].family)
        )
        for name in names
    }
    rows["rescaled, sampled"] = lambda: sampled(gaussian(rescale=ActionRescaler(LOW, HIGH)))
    rows["masked logits, sampled"] = lambda: sampled(
        Policy(Reads(Masked(), "observation", "mask"), ours.MaskedCategorical),
        lambda n: {**seen(n), "mask": allowed(n)},
    )
    return rows


# ---- Memories ------------------------------------------------------------------------------------

MEMORIES = {
    "gru cell": lambda: nn.GRUCell(SEEN, HIDDEN),
    "rnn cell": lambda: nn.RNNCell(SEEN, HIDDEN),
    "lstm cell": lambda: nn.LSTMCell(SEEN, HIDDEN),
    "gru": lambda: nn.GRU(SEEN, HIDDEN, LAYERS),
    "rnn": lambda: nn.RNN(SEEN, HIDDEN, LAYERS, batch_first=True),
    "lstm": lambda: nn.LSTM(SEEN, HIDDEN, LAYERS, batch_first=True),
    "lstm, time first": lambda: nn.LSTM(SEEN, HIDDEN, LAYERS),
    "our gru": lambda: ours.GRU(SEEN, HIDDEN),
}
CELLS = (nn.GRUCell, nn.RNNCell, nn.LSTMCell)


def remembered(memory: Any, x: Tensor, data: Tensors) -> tuple[Tensor, list[Tensor]]:
    """What torch remembers, rows in which an episode begins one by one."""
    names = [name for name in ("h_in", "c_in") if name in data]
    state = [data[name].clone() for name in names]
    for row, begins in enumerate(data["is_init"].flatten().tolist()):
        for part in state:
            part[row] *= not begins
    if isinstance(memory, (*CELLS, ours.GRU)):
        cell = memory.cell if isinstance(memory, ours.GRU) else memory
        after = cell(x, tuple(state) if len(state) == 2 else state[0])
        after = list(after) if len(state) == 2 else [after]
        return after[0], after
    state = [part.transpose(0, 1).contiguous() for part in state]
    output, after = memory(
        x.unsqueeze(int(memory.batch_first)), tuple(state) if len(state) == 2 else state[0]
    )
    after = list(after) if len(state) == 2 else [after]
    return output.reshape(len(x), -1), [part.transpose(0, 1) for part in after]


def recurrent(kind: str) -> Row:
    memory, policy = MEMORIES[kind](), gaussian(HIDDEN)
    encoder = nn.Sequential(normalised(), nn.Linear(SEEN, SEEN), nn.ReLU())
    target = RecurrentPolicy(memory, policy, encoder)
    layers = () if isinstance(memory, (*CELLS, ours.GRU)) else (LAYERS,)
    names = ("h_in", "c_in") if isinstance(memory, nn.LSTM | nn.LSTMCell) else ("h_in",)

    def inputs(batch: int) -> Tensors:
        state = {name: torch.randn(batch, *layers, HIDDEN) for name in names}
        return {**seen(batch), **state, "is_init": starts(batch)}

    def expected(data: Tensors) -> Tensors:
        read, state = remembered(memory, encoder(data["observation"]), data)
        return {"action": policy(read), **dict(zip(("h_out", "c_out"), state, strict=False))}

    return Row(target, inputs, expected)


def frame_stack() -> Row:
    policy = gaussian_of_frames()

    def expected(data: Tensors) -> Tensors:
        rows = [
            [x] * 3 if begins else [*frames[1:], x]
            for x, frames, begins in zip(*data.values(), strict=True)
        ]
        frames = torch.stack([torch.stack(row) for row in rows])
        return {"action": policy(frames), "frames_out": frames}

    return Row(
        RecurrentPolicy(FrameStack(3), policy),
        lambda n: {
            **seen(n),
            "frames_in": torch.randn(n, 3, SEEN),
            "is_init": starts(n),
        },
        expected,
    )


def recurrent_sampled() -> Row:
    """Memory, groups of observations, a mask and noise together."""
    memory = nn.GRUCell(SEEN, HIDDEN)
    logits = nn.Linear(HIDDEN, 3)

    class Head(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.logits = logits

        def forward(self, features: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
            return self.logits(features), mask

    policy = Policy(Reads(Head(), "features", "mask"), ours.MaskedCategorical)
    encoder = Reads(Concatenated(nn.Linear(5, SEEN)), "joints", "command")

    def inputs(batch: int) -> Tensors:
        return {
            "joints": torch.randn(batch, 3),
            "command": torch.randn(batch, 2),
            "h_in": torch.randn(batch, HIDDEN),
            "is_init": starts(batch, 1),
            "mask": allowed(batch),
            "noise": torch.rand(batch, 3),
        }

    def expected(data: Tensors) -> Tensors:
        x = encoder(data["joints"], data["command"])
        h, _ = remembered(memory, x, data)
        params = policy.params(h, data["mask"])
        action, log_prob = policy.family.sample_with_log_prob(params, data["noise"])
        return {"action": action, "log_prob": log_prob, "h_out": h}

    return Row(RecurrentPolicy(memory, SampledPolicy(policy), encoder), inputs, expected)


def as_rsl_rl() -> Row:
    """Under the names of rsl_rl, whose runtime resets the state itself."""
    memory, policy = nn.LSTM(SEEN, HIDDEN), gaussian(HIDDEN)

    def expected(data: Tensors) -> Tensors:
        x, *state = data.values()
        output, after = memory(x[None], tuple(part.transpose(0, 1).contiguous() for part in state))
        h, c = [part.transpose(0, 1) for part in after]
        return {"actions": policy(output[0]), "h_out": h, "c_out": c}

    return Row(
        RecurrentPolicy(memory, policy),
        lambda n: {
            "observation": torch.randn(n, SEEN),
            "h_in": torch.randn(n, 1, HIDDEN),
            "c_in": torch.randn(n, 1, HIDDEN),
        },
        expected,
        {"input_names": ("obs",), "output_names": ("actions", "h_out", "c_out")},
    )


def memories() -> dict[str, Callable[[], Row]]:
    return {
        **{kind: partial(recurrent, kind) for kind in MEMORIES},
        "frame stack": frame_stack,
        "memory, groups, mask and noise": recurrent_sampled,
        "as rsl_rl": as_rsl_rl,
    }


# ---- TensorDict modules --------------------------------------------------------------------------


def actor(distribution: Any, *keys: str, outputs: int = 4, **options: Any) -> nn.Module:
    keys = keys or ("loc", "scale")
    last = [rl.NormalParamExtractor()] if keys == ("loc", "scale") else []
    network = TensorDictModule(mlp(outputs, SEEN, *last), ["observation"], [*keys])
    options = {"in_keys": [*keys], **options}
    return rl.ProbabilisticActor(network, distribution_class=distribution, **options)


def recurrent_actor(module: Any) -> nn.Module:
    memory = module(
        input_size=SEEN, hidden_size=HIDDEN, num_layers=LAYERS, in_key="observation", out_key="read"
    )
    head = TensorDictModule(mlp(4, HIDDEN, rl.NormalParamExtractor()), ["read"], ["loc", "scale"])
    return rl.ProbabilisticActor(
        TensorDictSequential(memory, head),
        in_keys=["loc", "scale"],
        distribution_class=rl.TanhNormal,
    )


def composite_actor() -> nn.Module:
    move = [("params", "move", "loc"), ("params", "move", "scale")]
    network = TensorDictSequential(
        TensorDictModule(mlp(4, SEEN, rl.NormalParamExtractor()), ["observation"], move),
        TensorDictModule(mlp(3), ["observation"], [("params", "fire", "logits")]),
    )
    heads = {"move": rl.TanhNormal, "fire": torch.distributions.Categorical}
    return rl.ProbabilisticActor(
        network,
        in_keys=["params"],
        distribution_class=CompositeDistribution,
        distribution_kwargs={"distribution_map": heads},
    )


ACTORS: dict[str, Callable[[], nn.Module]] = {
    "tensordict module": lambda: TensorDictModule(
        mlp(3), [("agents", "observation")], [("agents", "hidden")]
    ),
    "tensordict sequence": lambda: TensorDictSequential(
        TensorDictModule(mlp(5), ["observation"], ["hidden"]),
        TensorDictModule(mlp(2, 5), ["hidden"], ["value"]),
    ),
    "normal actor": lambda: actor(rl.IndependentNormal, return_log_prob=True),
    "projected actor": lambda: actor(
        rl.IndependentNormal, spec=Bounded(-0.1, 0.2, (2,)), safe=True
    ),
    "tanh actor": lambda: actor(rl.TanhNormal, distribution_kwargs={"low": LOW, "high": HIGH}),
    "truncated actor": lambda: actor(rl.TruncatedNormal),
    "delta actor": lambda: actor(rl.TanhDelta, "param", outputs=2),
    "categorical actor": lambda: actor(torch.distributions.Categorical, "logits", outputs=3),
    "bernoulli actor": lambda: actor(torch.distributions.Bernoulli, "logits", outputs=3),
    "one-hot actor": lambda: actor(rl.OneHotCategorical, "logits", outputs=3),
    "masked actor": lambda: actor(
        rl.MaskedCategorical,
        "logits",
        outputs=3,
        in_keys={"logits": "logits", "mask": "action_mask"},
    ),
    "composite actor": composite_actor,
    "lstm actor": lambda: recurrent_actor(rl.LSTMModule),
    "gru actor": lambda: recurrent_actor(rl.GRUModule),
    "q actor": lambda: rl.QValueActor(mlp(3), in_keys=["observation"], spec=OneHot(3)),
    "masked q actor": lambda: rl.QValueActor(
        mlp(3), in_keys=["observation"], spec=Categorical(3), action_mask_key="action_mask"
    ),
    "exploring actor": lambda: TensorDictSequential(
        actor(rl.TanhNormal), rl.AdditiveGaussianModule(spec=Bounded(-1, 1, (2,)))
    ),
}
# What they read and what they give, as keys, where that is not an observation and an action.
MASKED = ("observation", "action_mask")
READS: dict[str, tuple[Any, ...]] = {
    "tensordict module": (("agents", "observation"),),
    "masked actor": MASKED,
    "masked q actor": MASKED,
    "lstm actor": ("observation", "recurrent_state_h", "recurrent_state_c", "is_init"),
    "gru actor": ("observation", "recurrent_state", "is_init"),
}
VALUES = ("action", "action_value", "chosen_action_value")
GIVES: dict[str, tuple[Any, ...]] = {
    "tensordict module": (("agents", "hidden"),),
    "tensordict sequence": ("hidden", "value"),
    "composite actor": ("move", "fire"),
    "lstm actor": ("action", ("next", "recurrent_state_h"), ("next", "recurrent_state_c")),
    "gru actor": ("action", ("next", "recurrent_state")),
    "q actor": VALUES,
    "masked q actor": VALUES,
}
DRAWN: dict[str, Callable[[int], Tensor]] = {
    "observation": lambda n: torch.randn(n, SEEN),
    "action_mask": allowed,
    "recurrent_state": lambda n: torch.randn(n, LAYERS, HIDDEN),
    "recurrent_state_h": lambda n: torch.randn(n, LAYERS, HIDDEN),
    "recurrent_state_c": lambda n: torch.randn(n, LAYERS, HIDDEN),
    "is_init": lambda n: starts(n, 1),
}


def joined(key: Any) -> str:
    return key if isinstance(key, str) else "_".join(key)


def of_actor(name: str) -> Row:
    """As TorchRL acts, without exploration."""
    target, reads = ACTORS[name](), READS.get(name, ("observation",))

    def inputs(batch: int) -> Tensors:
        return {joined(k): DRAWN[k if isinstance(k, str) else k[-1]](batch) for k in reads}

    def expected(data: Tensors) -> Tensors:
        batch = len(next(iter(data.values())))
        acting = target[0] if name == "exploring actor" else target
        with set_exploration_type(ExplorationType.DETERMINISTIC):
            found = acting(TensorDict(dict(zip(reads, data.values(), strict=True)), [batch]))
        return {joined(k): found[k] for k in GIVES.get(name, ("action",))}

    return Row(target, inputs, expected)


def actors() -> dict[str, Callable[[], Row]]:
    rows = {name: partial(of_actor, name) for name in ACTORS}
    rows["tanh actor, sampled"] = lambda: sampled_actor(actor(rl.TanhNormal), "noise")
    rows["composite actor, sampled"] = lambda: sampled_actor(
        composite_actor(), "noise_move", "noise_fire"
    )
    return rows


def sampled_actor(target: Any, *noise: str) -> Row:
    """The log-probability is TorchRL's; of given noise TorchRL has no sample."""
    policy = SampledPolicy(to_policy(target))
    shapes = {"noise": (2,), "noise_move": (2,), "noise_fire": (3,)}

    def inputs(batch: int) -> Tensors:
        drawn = {k: torch.rand(batch, *shapes[k]) for k in noise}
        return {**seen(batch), **drawn}

    def expected(data: Tensors) -> Tensors:
        outputs = policy(**data)
        actions = {k.removeprefix("action_"): x for k, x in outputs.items() if k != "log_prob"}
        observation = data["observation"]
        dist = target.get_dist(TensorDict({"observation": observation}, len(observation)))
        parts = getattr(dist, "dists", {"action": dist})
        log_prob = sum(part.log_prob(actions[k]) for k, part in parts.items())
        return {**outputs, "log_prob": log_prob}

    return Row(policy, inputs, expected)


POLICIES = {**networks(), **families(), **memories(), **actors()}


def make(name: str, seed: int = 0) -> Row:
    """A row with parameters of its own."""
    torch.manual_seed(seed)
    row = POLICIES[name]()
    row.target.eval()
    return row
