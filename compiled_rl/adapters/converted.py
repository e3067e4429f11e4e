"""Networks as a loss written for TorchRL has them: by name, and their parameters by that name."""

from abc import ABCMeta
from collections.abc import Iterable
from typing import Any, Optional

from torch import nn

from compiled_rl.modules.targets import frozen_copy


class _Completed(ABCMeta):
    """What its instances are still without when their constructor is through, they make then."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        made = super().__call__(*args, **kwargs)
        made.complete()
        return made


class ConvertedNetworks(nn.Module, metaclass=_Completed):
    """Ordinary children, and TensorDict views of their parameters when one is asked for.

    Of every child ``actor_network`` there are ``actor_network_params`` and
    ``target_actor_network_params``: those of the child ``target_actor_network``, or where there is
    none its own without gradient. They are made anew whenever they are read, of the very tensors.
    """

    def __init__(self) -> None:
        super().__init__()
        self._held_out: dict[str, frozenset[str]] = {}

    def complete(self) -> None:
        """Called once, behind the constructor."""

    def convert_to_functional(
        self,
        module: nn.Module,
        module_name: str,
        expand_dim: Optional[int] = None,
        create_target_params: bool = False,
        compare_against: Optional[Iterable[nn.Parameter]] = None,
    ) -> None:
        """Register a network and, if asked for, a frozen copy.

        ``with loss.<module_name>_params.to_module(loss.<module_name>): ...`` then calls it with its
        own parameters, and with whatever is made of them.

        Args:
            module: a TensorDict module, which becomes the child ``<module_name>``.
            module_name: what it is called.
            expand_dim: None; one network is not made into several here.
            create_target_params: whether there is a frozen copy, ``target_<module_name>``.
            compare_against: parameters of which those that the loss has already, of networks
                before, are held out of ``<module_name>_params``: the values are, no gradient is.

        Raises:
            AttributeError: ``module_name`` is an attribute of the class.
            NotImplementedError: ``expand_dim`` is not None.
            TypeError: ``module`` is no module.
        """
        name = type(self).__name__
        if not isinstance(module, nn.Module):
            raise TypeError(f"{name}: `module` must be an nn.Module, got {type(module).__name__}")
        if expand_dim is not None:
            raise NotImplementedError(f"{name}: `expand_dim` must be None, got {expand_dim}")
        if hasattr(type(self), module_name):
            raise AttributeError(
                f"{name}: `module_name` must be a name that is free, got {module_name!r}, which "
                "is an attribute of the class"
            )
        shared = set(self.parameters()) & set(compare_against or ())
        named = module.named_parameters(remove_duplicate=False)
        self._held_out[module_name] = frozenset(name for name, x in named if x in shared)
        setattr(self, module_name, module)
        if create_target_params:
            setattr(self, f"target_{module_name}", frozen_copy(module))

    def __getattr__(self, name: str) -> Any:
        """The views; all else is torch's."""
        if not name.endswith("_params"):
            return super().__getattr__(name)
        network = name.removesuffix("_params")
        if network in self._modules:
            return self._parameters_of(network)
        live = network.removeprefix("target_")
        if live in self._modules:
            return self._parameters_of(live).data
        raise AttributeError(f"{type(self).__name__}: there is no network for `{name}`")

    def _parameters_of(self, network: str) -> Any:
        from compiled_rl.adapters.torchrl import parameters_of

        return parameters_of(getattr(self, network), self._held_out.get(network, ()))
