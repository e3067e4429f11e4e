"""What every exporter may be told beside its target and an example."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Optional, TypedDict

from torch import nn

from compiled_rl.export.errors import ExportError

Number = float | Sequence[float]


@dataclass(frozen=True)
class Deployment:
    """What a robot or a game must know of a file and no graph can tell; all of it may be left out.

    Attributes:
        control_rate: steps a second, in Hz, positive.
        action_scale: of the action, one or one a component: ``target = offset + scale * action``.
        action_offset: of the action, likewise; where a robot's joints rest.
        components: by input or output, the names along its last axis: of joints, of observations.
        meanings: by input or output, a sentence on what it is, with its unit.
        ranges: by input or output, its smallest and largest value, each one or one a component.
        algorithm: by which it was trained; None: the loss's class, where a loss is exported.
    """

    control_rate: Optional[float] = None
    action_scale: Optional[Number] = None
    action_offset: Optional[Number] = None
    components: Mapping[str, Sequence[str]] = field(default_factory=dict)
    meanings: Mapping[str, str] = field(default_factory=dict)
    ranges: Mapping[str, tuple[Number, Number]] = field(default_factory=dict)
    algorithm: Optional[str] = None


class Options(TypedDict, total=False):
    """The keywords that every exporter takes.

    Attributes:
        input_names: of the inputs, in the order of the example; else those of the target's
            parameters, or of the example's keys. ``("obs",)``, for instance.
        output_names: of the outputs; else the fields of a named tuple, the keys of a dict,
            ``action`` for a policy, ``output`` for a single tensor.
        state: by input that is carried from call to call, the output that replaces it,
            ``{"h_in": "h_out"}``; else every pair that is named ``..._in`` and ``..._out``.
        parameters: a module whose parameters, as far as the target has them, become inputs of the
            file under their names in the module: a loss, whose actor goes on learning. The file
            holds the values that they have now.
        deployment: what goes into the contract and not into the graph.
        tolerance: allowed error, relative to the output's largest magnitude; else 1e-5, and 1e-11
            in float64, where python numbers in the target must be float64 tensors to stay exact.
    """

    input_names: Sequence[str]
    output_names: Sequence[str]
    state: Mapping[str, str]
    parameters: nn.Module
    deployment: Deployment
    tolerance: float


def check_options(options: Options) -> None:
    """Refuse what is no option, and a tolerance that nothing or everything is within.

    Raises:
        ExportError: there is such a thing.
    """
    unknown = [name for name in options if name not in Options.__annotations__]
    if unknown:
        raise ExportError(f"the options are {list(Options.__annotations__)}, got {unknown}")
    tolerance = options.get("tolerance", 0.0)
    if not 0 <= tolerance < 1:
        raise ExportError(f"`tolerance` must be in [0, 1), got {tolerance}")
