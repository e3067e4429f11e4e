"""What is deployed of a policy that is called by keys: named tensors in, named tensors out."""

from typing import Optional

from torch import nn

from compiled_rl.adapters.fields import keyword
from compiled_rl.adapters.keys import AcceptsKeys
from compiled_rl.adapters.policy import PlainPolicy
from compiled_rl.modules import Composite, NamedModule, NamedPolicy, Policy, QPolicy, Reads
from compiled_rl.modules.arguments import check_module


def plain_policy(module: nn.Module) -> Optional[NamedModule]:
    """A module that is called by keys, as one of named tensors; None of what is no such module.

    A nested key is called with underscores: ``("agents", "action")`` is ``agents_action``.

    Args:
        module: a ``Policy``, a ``QPolicy`` or ``Reads``; or a TensorDict module, such as
            ``TensorDictModule`` or TorchRL's ``ProbabilisticActor`` and ``QValueActor``. Of one
            that ends in a distribution the outputs are its deterministic action and what it
            remembers, of another one its ``out_keys``. Noise on top of it is left out.

    Raises:
        TypeError: the policy or its distribution has hooks that are not known.
    """
    if type(module).forward in (Policy.forward, QPolicy.forward):
        return NamedPolicy(module)
    if isinstance(module, Reads):
        return NamedPolicy(module, "output")
    if isinstance(module, AcceptsKeys) or not hasattr(module, "in_keys"):
        return None
    from compiled_rl.adapters.by_keys import ByKeys

    return ByKeys(module)


def to_policy(actor: nn.Module) -> Policy:
    """TorchRL's ``ProbabilisticActor``, or a policy of TensorDict, as a ``Policy`` of tensors.

    .. code-block:: python

        SampledPolicy(to_policy(actor))         # what is drawn from given noise, to be exported

    It shares the parameters and reads what the actor's ``in_keys`` say. Of a composite distribution
    the heads are called as the actions are.

    Args:
        actor: ends in a distribution.

    Raises:
        TypeError: it does not, or it is more than a distribution of what it reads: it remembers,
            projects its actions, or gives an object.
    """
    from compiled_rl.adapters.one_step import Calls, bounds_of

    form = PlainPolicy(check_module("to_policy", "actor", actor))
    form.check_recordable("to_policy")
    if form.optional or bounds_of(actor):
        raise TypeError(
            "to_policy: `actor` must neither remember nor project its actions, "
            f"got {type(actor).__name__} of {[keyword(key) for key in form.in_keys]}"
        )
    heads = {keyword(head.action_key): head.family for head in form.heads}
    family = Composite(heads) if len(heads) > 1 else form.heads[0].family
    return Policy(Reads(Calls(form.steps, form.in_keys, form.param_keys), *form.in_keys), family)
