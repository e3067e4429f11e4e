"""Helpers of hand-written losses: networks held out of a gradient, and a one-step target."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Optional

import torch
from torch import Tensor, nn

from compiled_rl.adapters.dispatch import is_tensordict
from compiled_rl.kernels.checks import check_device, check_number, check_tensor
from compiled_rl.modules.arguments import check_module


@contextmanager
def hold_out_net(network: nn.Module) -> Iterator[None]:
    """Inside, no gradient reaches the network's parameters; one reaches its inputs.

    Detached tensors stand in the place of the parameters meanwhile, eagerly and compiled; the
    parameters are not touched, so each keeps its own ``requires_grad``.

    .. code-block:: python

        with hold_out_net(critic):
            loss_actor = -critic(observation, actor(observation)).mean()

    Args:
        network: any module.
    """
    check_module("hold_out_net", "network", network)
    owners: Any = [module._parameters for module in network.modules()]
    held = [dict(owned) for owned in owners]
    for owned in owners:
        owned.update({name: p.detach() for name, p in owned.items() if p is not None})
    try:
        yield
    finally:
        for owned, parameters in zip(owners, held, strict=True):
            owned.update(parameters)


@contextmanager
def hold_out_params(params: Iterable[Tensor]) -> Iterator[Any]:
    """Parameters as they are, out of any graph: those that are given keep their gradient.

    Args:
        params: tensors, or a TensorDict of them.

    Yields:
        The detached tensors, as a tuple or a TensorDict.
    """
    held: Any = params
    if not is_tensordict(held):
        held = tuple(held) if isinstance(held, Iterable) and not isinstance(held, str) else None
        if held is None or not all(isinstance(p, Tensor) for p in held):
            raise TypeError(f"hold_out_params: `params` must be tensors, got {params!r}")
    yield held.detach() if is_tensordict(held) else tuple(p.detach() for p in held)


@torch.no_grad()
def next_state_value(
    tensordict: Any,
    operator: Optional[nn.Module] = None,
    next_val_key: str = "state_action_value",
    gamma: float = 0.99,
    pred_next_val: Optional[Tensor] = None,
    **kwargs: Any,
) -> Tensor:
    """A one-step target, as TorchRL's hand-written losses had it; the estimators are more exact.

        reward + gamma^n * (0 if done else next_value)

    ``done`` cuts the bootstrap, not ``terminated``: the end of a time limit counts as a failure.

    Args:
        tensordict: ``("next", "reward")`` and ``("next", "done")``, ``[*B]`` or ``[*B, 1]``; if
            ``steps_to_next_obs`` is there, rewards are sums over that many steps, ``n``.
        operator: a TensorDict module that values the states entered.
        next_val_key: the key that it gives.
        gamma: discount in [0, 1].
        pred_next_val: the values instead of it, ``[*B]`` or ``[*B, 1]``; not read where done.
        **kwargs: for the operator.

    Returns:
        ``[*B]``, without gradient.

    Raises:
        ValueError: neither ``operator`` nor ``pred_next_val`` is given, or shapes differ.
    """
    check_number("next_state_value", "gamma", gamma, "in [0, 1]")
    if pred_next_val is None:
        if operator is None:
            raise ValueError(
                "next_state_value: `operator` or `pred_next_val` must be given, got neither"
            )
        pred_next_val = _valued(tensordict, operator, kwargs).get(next_val_key)
    reward, done = (_entered(tensordict, name) for name in ("reward", "done"))
    check_tensor("next_state_value", "pred_next_val", pred_next_val)
    check_device("next_state_value", "pred_next_val", pred_next_val, "reward", reward)
    check_device("next_state_value", "done", done, "reward", reward)
    if done.dtype != torch.bool:
        raise ValueError(f"next_state_value: `done` must be torch.bool, got {done.dtype}")
    next_value = pred_next_val.squeeze(-1)
    if not reward.shape == done.shape == next_value.shape:
        raise ValueError(
            "next_state_value: `reward`, `done` and the next value must have one shape, got "
            f"{list(reward.shape)}, {list(done.shape)} and {list(next_value.shape)}"
        )
    discount = _discount(gamma, tensordict.get("steps_to_next_obs", None), reward)
    target: Tensor = reward + discount * torch.where(done, 0.0, next_value)
    return target


def _discount(gamma: float, steps: Optional[Tensor], reward: Tensor) -> Any:
    """``gamma``, to the power of the steps that each reward sums up."""
    if steps is None:
        return gamma
    steps = steps.squeeze(-1)
    if steps.shape != reward.shape:
        raise ValueError(
            "next_state_value: `steps_to_next_obs` must have the shape of `reward`, "
            f"got {list(steps.shape)} and {list(reward.shape)}"
        )
    return gamma**steps


def _valued(tensordict: Any, operator: Any, kwargs: dict[str, Any]) -> Any:
    """What the operator makes of the states entered; what does not change, it finds at the root."""
    entered = tensordict.exclude("next", "action").update(tensordict.get("next"))
    return operator(entered.select(*operator.in_keys), **kwargs)


def _entered(tensordict: Any, name: str) -> Tensor:
    """An entry of the state entered, without a trailing one."""
    found: Optional[Tensor] = tensordict.get(("next", name), None)
    if found is None:
        raise KeyError(f"next_state_value: the key {('next', name)!r} for `{name}` was not found")
    check_tensor("next_state_value", name, found)
    return found.squeeze(-1)
