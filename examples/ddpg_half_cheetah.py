"""DDPG on HalfCheetah: environment, collector and replay buffer are TorchRL's, the loss is ours."""

import torch
import typer
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import Tensor, nn
from torchrl.collectors import Collector
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
from torchrl.envs import (
    Compose,
    DoubleToFloat,
    EnvBase,
    ExplorationType,
    GymEnv,
    InitTracker,
    ObservationNorm,
    RandomCropTensorDict,
    StepCounter,
    TransformedEnv,
    set_exploration_type,
)
from torchrl.modules import (
    DdpgMlpActor,
    DdpgMlpQNet,
    OrnsteinUhlenbeckProcessModule,
    ProbabilisticActor,
    TanhDelta,
    ValueOperator,
)

from compiled_rl import DDPGLoss, SoftUpdate, UpdateStep, ValueEstimators

NAME, FRAME_SKIP, EPISODE = "HalfCheetah-v5", 2, 500
TRAJECTORY, CROP, BATCH = 200, 25, 8  # a batch is so many pieces of so many steps


def observed(seed: int, steps: int) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of what a random policy observes."""
    env = TransformedEnv(GymEnv(NAME), DoubleToFloat())
    env.set_seed(seed)
    observation = env.rollout(steps, break_when_any_done=False)["observation"]
    return observation.mean(0), observation.std(0)


def make_env(seed: int, mean: Tensor, scale: Tensor) -> TransformedEnv:
    """The environment with normalised observations, cut after an episode."""
    transforms = Compose(
        DoubleToFloat(),
        ObservationNorm(mean, scale, in_keys=["observation"], standard_normal=True),
        StepCounter(EPISODE),
        InitTracker(),
    )
    env = TransformedEnv(GymEnv(NAME, frame_skip=FRAME_SKIP), transforms)
    env.set_seed(seed)
    return env


def make_networks(env: EnvBase) -> tuple[ProbabilisticActor, ValueOperator]:
    """Those of the DDPG paper; the first call tells their lazy layers the sizes."""
    net = DdpgMlpActor(env.action_spec.shape[-1])
    actor = ProbabilisticActor(
        TensorDictModule(net, in_keys=["observation"], out_keys=["param"]),
        in_keys=["param"],
        distribution_class=TanhDelta,
        spec=env.full_action_spec,
    )
    critic = ValueOperator(DdpgMlpQNet(), in_keys=["observation", "action"])
    critic(actor(env.reset()))
    return actor, critic


def make_update(loss: DDPGLoss, compile: bool) -> UpdateStep:
    """The critic learns faster; the gradients of each network are bounded by themselves."""
    actor = torch.optim.Adam(loss.actor_network.parameters(), lr=3e-4)
    critic = torch.optim.Adam(loss.value_network.parameters(), lr=1e-3)
    return UpdateStep(
        loss,
        [actor, critic],
        max_grad_norm=10.0,
        target_updater=SoftUpdate(loss, tau=0.005),
        mode="default" if compile else "eager",
    )


def make_buffer(capacity: int) -> TensorDictReplayBuffer:
    """Whole trajectories, of which pieces are sampled."""
    return TensorDictReplayBuffer(
        storage=LazyTensorStorage(max(1, capacity // TRAJECTORY)),
        batch_size=BATCH,
        transform=RandomCropTensorDict(CROP),
    )


@torch.no_grad()
def evaluate(env: EnvBase, actor: nn.Module) -> float:
    """The return of one episode without exploration."""
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        rewards = env.rollout(EPISODE, actor)["next", "reward"]
    return float(rewards.sum())


def main(
    frames: int = 40_000,
    random_frames: int = 2_000,
    updates: int = 100,
    seed: int = 0,
    report_every: int = 4_000,
    compile: bool = True,
) -> float:
    """Train for so many frames, with so many updates a trajectory; give the last return."""
    torch.manual_seed(seed)
    statistics = observed(seed, random_frames)
    env, other = (make_env(seed + k, *statistics) for k in (0, 1))  # to learn in, and to evaluate
    actor, critic = make_networks(env)
    loss = DDPGLoss(actor, critic, delay_actor=True)
    loss.make_value_estimator(ValueEstimators.TDLambda, gamma=0.99, lmbda=0.5)
    update, buffer = make_update(loss, compile), make_buffer(frames)
    spec = actor.spec.clone()
    noise = OrnsteinUhlenbeckProcessModule(spec=spec, dt=1.0, annealing_num_steps=frames)
    collector = Collector(
        env,
        TensorDictSequential(actor, noise),
        frames_per_batch=TRAJECTORY,
        total_frames=frames,
        init_random_frames=random_frames,
        exploration_type=ExplorationType.RANDOM,
    )
    print(f"{0:7,} frames  return {evaluate(other, actor):7.1f}")
    for count, trajectory in enumerate(collector, 1):
        taken = count * TRAJECTORY
        buffer.extend(trajectory.unsqueeze(0))
        noise.step(TRAJECTORY)
        for _ in range(updates if taken >= random_frames else 0):
            update(buffer.sample())
        if taken % report_every == 0 or taken >= frames:
            reached = evaluate(other, actor)
            print(f"{taken:7,} frames  return {reached:7.1f}")
    collector.shutdown()
    return reached


if __name__ == "__main__":
    typer.run(main)
