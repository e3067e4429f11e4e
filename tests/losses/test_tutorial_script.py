"""The text of TorchRL's tutorial on DDPG, at a small size: its loss on ours, the rest TorchRL's.

From environments to the training loop; ``tutorial.py`` has the cells that write the loss. What
TorchRL has renamed since: ``SyncDataCollector`` is ``Collector``, ``Recorder`` is
``LogValidationReward``, ``CompositeSpec`` is ``Composite``. Environments run one after the other,
in the slow tier in processes of their own.
"""

import math
from typing import Any

import pytest
import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import optim
from torchrl.collectors import Collector
from torchrl.data import Composite, LazyMemmapStorage, TensorDictReplayBuffer
from torchrl.data.replay_buffers import RandomSampler
from torchrl.envs import (
    CatTensors,
    DoubleToFloat,
    EnvCreator,
    ExplorationType,
    GymEnv,
    InitTracker,
    ObservationNorm,
    ParallelEnv,
    RandomCropTensorDict,
    RewardScaling,
    SerialEnv,
    StepCounter,
    TransformedEnv,
)
from torchrl.modules import (
    DdpgMlpActor,
    DdpgMlpQNet,
    OrnsteinUhlenbeckProcessModule,
    ProbabilisticActor,
    TanhDelta,
    ValueOperator,
)
from torchrl.trainers import LogValidationReward

import compiled_rl
from compiled_rl import SoftUpdate, ValueEstimators
from tests.losses.tutorial import ddpg_loss

pytestmark = pytest.mark.filterwarnings("ignore")  # of environments and collectors
DDPGLoss = ddpg_loss(compiled_rl)

ENVS, TRAJECTORY, CROP, UPDATES = 2, 20, 5, 3
FRAMES = ENVS * TRAJECTORY


def make_env() -> Any:
    return GymEnv("HalfCheetah-v4", device="cpu", from_pixels=False, frame_skip=2)


def make_transformed_env(env: Any) -> Any:
    env = TransformedEnv(env)
    env.append_transform(RewardScaling(loc=0.0, scale=5.0))
    selected_keys = list(env.observation_spec.keys())
    env.append_transform(CatTensors(in_keys=selected_keys, out_key="observation_vector"))
    env.append_transform(ObservationNorm(in_keys=["observation_vector"], standard_normal=True))
    env.append_transform(DoubleToFloat())
    env.append_transform(StepCounter(500))
    env.append_transform(InitTracker())
    return env


def with_statistics(state: dict[str, Any]) -> Any:
    env = make_transformed_env(make_env())
    env.transform[2].init_stats(3)
    env.transform[2].load_state_dict(state)
    return env


def statistics() -> dict[str, Any]:
    proof = make_transformed_env(make_env())
    proof.transform[2].init_stats(50)
    state: dict[str, Any] = proof.transform[2].state_dict()
    proof.close()
    return state


def several_envs(kind: Any, state: dict[str, Any]) -> Any:
    env = make_transformed_env(kind(ENVS, EnvCreator(make_env)))
    env.transform[2].init_stats(3, cat_dim=1, reduce_dim=[0, 1])
    env.transform[2].load_state_dict(state)
    return env


def make_ddpg_actor(state: dict[str, Any]) -> tuple[Any, Any]:
    proof, in_keys = with_statistics(state), ["observation_vector"]
    net = DdpgMlpActor(action_dim=proof.action_spec.shape[-1])
    actor = ProbabilisticActor(
        TensorDictModule(net, in_keys=in_keys, out_keys=["param"]),
        distribution_class=TanhDelta,
        in_keys=["param"],
        spec=Composite(action=proof.action_spec),
    )
    qnet = ValueOperator(in_keys=[*in_keys, "action"], module=DdpgMlpQNet())
    qnet(actor(proof.reset()))
    return actor, qnet


def make_collector(env: Any, policy: Any) -> Any:
    return Collector(
        env,
        policy=policy,
        total_frames=4 * FRAMES,
        frames_per_batch=FRAMES,
        init_random_frames=2 * FRAMES,
        reset_at_each_iter=False,
        split_trajs=False,
        device="cpu",
        exploration_type=ExplorationType.RANDOM,
    )


def make_recorder(policy: Any, state: dict[str, Any]) -> Any:
    return LogValidationReward(
        record_frames=10,
        policy_exploration=policy,
        environment=with_statistics(state),
        exploration_type=ExplorationType.DETERMINISTIC,
        record_interval=2,
    )


def make_replay_buffer(folder: Any) -> TensorDictReplayBuffer:
    return TensorDictReplayBuffer(
        storage=LazyMemmapStorage(100, scratch_dir=folder),
        batch_size=4,
        sampler=RandomSampler(),
        pin_memory=False,
        prefetch=3,
        transform=RandomCropTensorDict(CROP, sample_dim=1),
    )


def optimise(loss: Any, name: str, value: Any, optimizer: optim.Optimizer) -> float:
    """Of one network, as the loop does; gives the norm of the gradient."""
    value.backward()
    params = getattr(loss, f"{name}_network_params").values(True, True)
    norm = float(torch.nn.utils.clip_grad_norm_(params, 10.0))
    optimizer.step()
    optimizer.zero_grad()
    return norm


@pytest.mark.parametrize("kind", [SerialEnv, pytest.param(ParallelEnv, marks=pytest.mark.slow)])
def test_the_tutorial_trains(kind: Any, tmp_path: Any) -> None:
    torch.manual_seed(0)
    state = statistics()
    actor, qnet = make_ddpg_actor(state)
    noise = OrnsteinUhlenbeckProcessModule(spec=actor.spec.clone(), annealing_num_steps=1000)
    explore = TensorDictSequential(actor, noise)
    explore.share_memory()
    collector = make_collector(several_envs(kind, state), explore)
    recorder, buffer = make_recorder(explore, state), make_replay_buffer(tmp_path)
    loss = DDPGLoss(actor, qnet)
    loss.make_value_estimator(ValueEstimators.TDLambda, gamma=0.99, lmbda=0.9)
    updater = SoftUpdate(loss, eps=1 - 0.001)
    optimizers = {
        "actor": optim.Adam(loss.actor_network_params.values(True, True), lr=1e-4),
        "value": optim.Adam(
            loss.value_network_params.values(True, True), lr=1e-3, weight_decay=1e-2
        ),
    }
    before = {name: x.detach().clone() for name, x in loss.state_dict().items()}
    collected, evaluated, norms = 0, [], []
    for tensordict in collector:
        collector.update_policy_weights_()
        assert tensordict.shape == (ENVS, TRAJECTORY)
        collected += tensordict.numel()
        buffer.extend(tensordict.cpu())
        for _ in range(UPDATES if collected >= 2 * FRAMES else 0):
            sample: TensorDictBase = buffer.sample()
            assert sample.shape == (4, CROP)
            losses = loss(sample)
            for name, optimizer in optimizers.items():
                norms.append(optimise(loss, name, losses[f"loss_{name}"], optimizer))
            updater.step()
        record = recorder(None)
        if record is not None:
            evaluated.append(float(record["r_evaluation"]))
        explore[1].step(tensordict.numel())
    collector.shutdown()
    assert collected == 4 * FRAMES
    assert len(norms) == 2 * 3 * UPDATES
    assert all(math.isfinite(x) and x > 0 for x in norms)
    assert evaluated
    assert all(map(math.isfinite, evaluated))
    for name, x in loss.state_dict().items():
        assert "network" not in name or "weight" not in name or not torch.equal(x, before[name])
