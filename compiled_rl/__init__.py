"""Reinforcement-learning losses and value estimators as plain tensor mathematics.

Names are imported when they are first used: ``import compiled_rl.functional`` loads neither
tensordict nor onnx, and ``import compiled_rl.export.runtime`` does not load torch.

Everything refuses bad arguments in one sentence that names the argument, before it changes
anything. What is nothing of the kind, such as a list for a tensor, is a ``TypeError``, which the
docstrings do not repeat; what else is raised they name.
"""

from importlib import import_module

from compiled_rl.extras import needed_by

_HOME = {
    "A2CLoss": "compiled_rl.losses",
    "ClipPPOLoss": "compiled_rl.losses",
    "DDPGLoss": "compiled_rl.losses",
    "DiscreteSACLoss": "compiled_rl.losses",
    "DQNLoss": "compiled_rl.losses",
    "DistributionalDQNLoss": "compiled_rl.losses",
    "IPPOLoss": "compiled_rl.losses",
    "KLPENPPOLoss": "compiled_rl.losses",
    "LossModule": "compiled_rl.losses",
    "MAPPOLoss": "compiled_rl.losses",
    "PPOLoss": "compiled_rl.losses",
    "QMixerLoss": "compiled_rl.losses",
    "ReinforceLoss": "compiled_rl.losses",
    "SACLoss": "compiled_rl.losses",
    "TD3Loss": "compiled_rl.losses",
    "GAE": "compiled_rl.estimators",
    "MultiAgentGAE": "compiled_rl.estimators",
    "TD0Estimator": "compiled_rl.estimators",
    "TD1Estimator": "compiled_rl.estimators",
    "TDLambdaEstimator": "compiled_rl.estimators",
    "VTrace": "compiled_rl.estimators",
    "ValueEstimatorBase": "compiled_rl.estimators",
    "ValueEstimators": "compiled_rl.estimators",
    "default_value_kwargs": "compiled_rl.estimators",
    "hold_out_net": "compiled_rl.adapters.hold_out",
    "hold_out_params": "compiled_rl.adapters.hold_out",
    "next_state_value": "compiled_rl.adapters.hold_out",
    "_vmap_func": "compiled_rl.adapters.torchrl",
    "add_random_module": "compiled_rl.adapters.torchrl",
    "distance_loss": "compiled_rl.adapters.torchrl",
    "Policy": "compiled_rl.modules",
    "QPolicy": "compiled_rl.modules",
    "RecurrentPolicy": "compiled_rl.modules",
    "SampledPolicy": "compiled_rl.modules",
    "to_policy": "compiled_rl.adapters.deploy",
    "ValueHead": "compiled_rl.modules",
    "ObservationNormalizer": "compiled_rl.modules",
    "PercentileValueNorm": "compiled_rl.modules",
    "PopArtValueNorm": "compiled_rl.modules",
    "RunningValueNorm": "compiled_rl.modules",
    "ValueNorm": "compiled_rl.modules",
    "HardUpdate": "compiled_rl.training",
    "SoftUpdate": "compiled_rl.training",
    "TargetNetUpdater": "compiled_rl.training",
    "UpdateEpochs": "compiled_rl.training",
    "UpdateStep": "compiled_rl.training",
}
_FOLDERS = ("functional", "modules", "estimators", "losses", "training", "export")

__all__ = [*_HOME, *_FOLDERS]


def __getattr__(name: str) -> object:
    if name in _HOME:
        with needed_by(f"compiled_rl.{name}"):
            return getattr(import_module(_HOME[name]), name)
    if name in _FOLDERS:
        return import_module(f"compiled_rl.{name}")
    raise AttributeError(f"module 'compiled_rl' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
