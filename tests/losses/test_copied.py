"""TorchRL's own losses, their sources on our ``LossModule``, compute what they compute there.

The sources are taken from what is installed, when the test runs.
"""

import copy
import inspect
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from types import ModuleType
from typing import Any

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import Tensor, nn

import compiled_rl
from compiled_rl.adapters import torchrl as edge
from tests.losses.soft_networks import ACTION, OBSERVATION, Values, soft, value
from tests.losses.transitions import deterministic, transitions

pytestmark = [
    pytest.mark.filterwarnings("ignore:No target network updater"),
    pytest.mark.filterwarnings("ignore:.*no updater was made of its targets"),
    pytest.mark.filterwarnings("ignore::UserWarning:torchrl"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
IMPORTS = {
    "from torchrl.objectives.common import LossModule": "from compiled_rl import LossModule",
    "from torchrl.objectives.value import ValueEstimatorBase": (
        "from compiled_rl import ValueEstimatorBase"
    ),
    "from torchrl.objectives.sac import": "from copied_sac import",
}
HELPERS = {"distance_loss": compiled_rl.distance_loss, "_vmap_func": edge._vmap_func}
SIZE = 6
ENTROPY, BOUNDS = {"target_entropy": -3.0}, {"bounds": (-1.0, 1.0)}


def tanh() -> tuple[nn.Module, ...]:
    return soft("tanh_normal")


def valued() -> tuple[nn.Module, ...]:
    return (*tanh(), value())


def quantiles() -> tuple[nn.Module, ...]:
    values = Values(OBSERVATION + ACTION, 5)
    return tanh()[0], TensorDictModule(values, ["observation", "action"], ["state_action_value"])


def critic() -> tuple[nn.Module, ...]:
    return tanh()[0], value()


ROWS: dict[str, tuple[str, Callable[[], Any], dict[str, Any]]] = {
    "IQLLoss": ("iql", valued, {}),
    "TD3BCLoss": ("td3_bc", deterministic, BOUNDS),
    "CQLLoss": ("cql", tanh, ENTROPY),
    "REDQLoss": ("redq", tanh, ENTROPY),
    "CrossQLoss": ("crossq", tanh, ENTROPY),
    "A2CLoss": ("a2c", critic, {}),
    "ClipPPOLoss": ("ppo", critic, {}),
    "KLPENPPOLoss": ("ppo", critic, {}),
    "ReinforceLoss": ("reinforce", critic, {}),
    "DDPGLoss": ("ddpg", deterministic, {}),
    "TD3Loss": ("td3", deterministic, BOUNDS),
    "SACLoss": ("sac", tanh, ENTROPY),
    "TQCLoss": ("tqc", quantiles, ENTROPY),
}
every_loss = pytest.mark.parametrize("name", ROWS)


@pytest.fixture
def loaded() -> Iterator[Callable[[str], ModuleType]]:
    """Modules of TorchRL's with the imports of theirs replaced by ours."""
    made: set[str] = set()

    def load(module: str) -> ModuleType:
        source = inspect.getsource(import_module(f"torchrl.objectives.{module}"))
        for theirs, ours in IMPORTS.items():
            source = source.replace(theirs, ours)
        copied = ModuleType(f"copied_{module}")
        sys.modules[copied.__name__] = copied  # where a dataclass finds its module
        made.add(copied.__name__)
        exec(compile(source, copied.__name__, "exec"), vars(copied))
        vars(copied).update({name: x for name, x in HELPERS.items() if hasattr(copied, name)})
        return copied

    yield load
    for name in made:
        del sys.modules[name]


def pair(name: str, load: Callable[[str], ModuleType]) -> tuple[Any, Any]:
    """The loss on our base, and on theirs, of the same values."""
    module, networks, arguments = ROWS[name]
    made = []
    load("sac")  # on whose class TQC's is made
    for home in (load(module), import_module(f"torchrl.objectives.{module}")):
        torch.manual_seed(0)
        made.append(getattr(home, name)(*networks(), **arguments))
    assert issubclass(type(made[0]), compiled_rl.LossModule)
    return made[0], made[1]


def named(loss: nn.Module) -> dict[str, Tensor]:
    """Parameters by the names that they have here."""
    return {name.replace("_params.", "."): x for name, x in loss.named_parameters()}


def data(dtype: torch.dtype) -> TensorDict:
    made = transitions((SIZE,), dtype)
    steps = {name: torch.randn(SIZE, 1, dtype=dtype) for name in ("advantage", "value_target")}
    recorded = {"loc": torch.randn(SIZE, 3, dtype=dtype), "scale": torch.ones(SIZE, 3, dtype=dtype)}
    return made.update(steps | recorded | {"action_log_prob": torch.randn(SIZE, dtype=dtype)})


def outputs(loss: Any, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    torch.manual_seed(9)
    return dict(loss(data(dtype)).items())


def results(loss: Any) -> dict[str, Any]:
    """Outputs, and the gradients of all losses."""
    found = outputs(loss)
    total = sum(x for name, x in found.items() if name.startswith("loss"))
    total.backward()
    gradients = {name: x.grad for name, x in named(loss).items()}
    assert any(x is not None and x.any() for x in gradients.values())
    return found | gradients


@every_loss
def test_values_and_gradients_are_torchrls(name: str, loaded: Any) -> None:
    """Also after a call in another dtype, of which nothing is kept."""
    ours, theirs = pair(name, loaded)
    for loss in (ours, theirs):
        outputs(loss, torch.float32)
        loss.double()
    mine, expected = results(ours), results(theirs)
    assert mine.keys() == expected.keys()
    for key, x in expected.items():
        assert (x is None) == (mine[key] is None), key
        torch.testing.assert_close(mine[key], x, rtol=1e-6, atol=1e-6)


@every_loss
def test_a_copy_keeps_nothing_of_the_original(name: str, loaded: Any) -> None:
    ours, _ = pair(name, loaded)
    ours.double()
    outputs(ours)
    other = copy.deepcopy(ours)
    with torch.no_grad():
        for x in (*ours.parameters(), *other.parameters()):
            x.add_(0.3)
    torch.testing.assert_close(outputs(other), outputs(ours))


def test_keys_in_a_constructor_are_refused(loaded: Any) -> None:
    ours = loaded("iql").IQLLoss
    with pytest.raises(RuntimeError, match="the key of `priority` must be set by `set_keys`"):
        ours(*valued(), priority_key="other")


def test_the_estimator_is_chosen_as_there(loaded: Any) -> None:
    ours, _ = pair("TD3Loss", loaded)
    ours.make_value_estimator("TDLambda", gamma=0.5)
    assert ours.value_estimator.gamma == 0.5
    own = compiled_rl.TD0Estimator(gamma=0.25, value_network=value())
    ours.make_value_estimator(own)
    assert ours.value_estimator is own
    with pytest.raises(NotImplementedError):
        ours.make_value_estimator("GAE")
