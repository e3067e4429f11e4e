"""Loss modules, one file an algorithm family."""

from compiled_rl.losses.a2c import A2CLoss
from compiled_rl.losses.base import LossModule
from compiled_rl.losses.ddpg import DDPGLoss
from compiled_rl.losses.declared import DeclaredLoss
from compiled_rl.losses.discrete_sac import DiscreteSACLoss
from compiled_rl.losses.distributional_dqn import DistributionalDQNLoss
from compiled_rl.losses.dqn import DQNLoss
from compiled_rl.losses.mappo import IPPOLoss, MAPPOLoss
from compiled_rl.losses.off_policy import OffPolicyLoss
from compiled_rl.losses.ppo import PPOLoss
from compiled_rl.losses.ppo_clip import ClipPPOLoss
from compiled_rl.losses.ppo_kl_penalty import KLPENPPOLoss
from compiled_rl.losses.qmixer import QMixerLoss
from compiled_rl.losses.reinforce import ReinforceLoss
from compiled_rl.losses.sac import SACLoss
from compiled_rl.losses.td3 import TD3Loss

__all__ = [
    "A2CLoss",
    "ClipPPOLoss",
    "DDPGLoss",
    "DQNLoss",
    "DeclaredLoss",
    "DiscreteSACLoss",
    "DistributionalDQNLoss",
    "IPPOLoss",
    "KLPENPPOLoss",
    "LossModule",
    "MAPPOLoss",
    "OffPolicyLoss",
    "PPOLoss",
    "QMixerLoss",
    "ReinforceLoss",
    "SACLoss",
    "TD3Loss",
]
