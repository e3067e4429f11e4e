"""Networks as a loss written for TorchRL has them: by name, and their parameters by that name."""

from abc import ABCMeta
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Optional

from torch import Tensor, nn

from compiled_rl.modules.ensemble import Ensemble, members_of, tensors_of
from compiled_rl.modules.targets import check_called, frozen_copy


class Converted(NamedTuple):
    """What is known of a network beside its tensors, which are called by their dotted names.

    ``size`` is the number of members of a stack, of which those ``shared`` are one for all; no
    gradient reaches those ``held_out`` through the view of the parameters.
    """

    size: Optional[int] = None
    shared: frozenset[str] = frozenset()
    held_out: frozenset[str] = frozenset()


class _Completed(ABCMeta):
    """What its instances are still without when their constructor is through, they make then."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        made = super().__call__(*args, **kwargs)
        made.complete()
        return made


class ConvertedNetworks(nn.Module, metaclass=_Completed):
    """Ordinary children, and TensorDict views of their parameters when one is asked for.

    Of every child ``actor_network`` there are ``actor_network_params`` and
    ``target_actor_network_params`` (or ``actor_network_target_params``): those of the child
    ``target_actor_network``, or where there is none its own without gradient. They are made anew
    whenever they are read, of the very tensors. Frozen copies are buffers, so ``parameters()`` is
    torch's own.
    """

    def __init__(self) -> None:
        super().__init__()
        self._converted: dict[str, Converted] = {}

    def complete(self) -> None:
        """Called once, behind the constructor."""

    def convert_to_functional(
        self,
        module: nn.Module | Sequence[nn.Module],
        module_name: str,
        expand_dim: Optional[int] = None,
        create_target_params: bool = False,
        compare_against: Optional[Iterable[nn.Parameter]] = None,
    ) -> None:
        """Register a network and, if asked for, a frozen copy.

        ``with loss.<module_name>_params.to_module(loss.<module_name>): ...`` then calls it with its
        own parameters, and with whatever is made of them. Of several networks in one, every
        parameter is a stack ``[N, ...]``, and so is every buffer; ``torch.vmap`` over
        ``<module_name>_params`` calls each.

        Args:
            module: a TensorDict module, which becomes the child ``<module_name>``; or with
                ``expand_dim`` a list of as many, of one architecture, which are copied.
            module_name: what it is called, as an attribute is; an earlier network makes way.
            expand_dim: how many networks it is made into, at least 1; None: it is one. The
                parameters of each are drawn anew, uniformly in the range of the module's own, but
                for those that require no gradient, which are copied and stay without; weights that
                are tied stay tied. The parameters of a list are as they were, and one that all of
                them hold stays one.
            create_target_params: whether there is a frozen copy, ``target_<module_name>``.
            compare_against: parameters that are held out of ``<module_name>_params``: the values
                are there, no gradient is. Without ``expand_dim``, those that the loss has already,
                of networks before; with it, all, and they are one for the networks.

        Raises:
            AttributeError: ``module_name`` is an attribute already.
            RuntimeError: a list is not as long as ``expand_dim`` says.
            TypeError: ``module`` is no module, ``expand_dim`` no integer, or ``compare_against``
                holds no parameters.
            ValueError: ``expand_dim`` is below 1, the networks' architectures differ, one that is
                to be copied or drawn anew has no values, or ``module_name`` is no name.
        """
        self._check_networks(module, expand_dim)
        self._check_free(module_name)
        apart = self._parameters_apart(compare_against)
        network: Any = module
        shared = set(self.parameters()) & apart
        if expand_dim is not None:
            self._check_values(module)
            network, shared = _stacked(module, expand_dim, apart)
        target = frozen_copy(network) if create_target_params else None
        self._converted[module_name] = Converted(
            expand_dim, _names(network, shared), _names(network, shared & apart)
        )
        setattr(self, module_name, network)
        if target is not None:
            setattr(self, f"target_{module_name}", target)

    def __getattr__(self, name: str) -> Any:
        """The views; all else is torch's."""
        if not name.endswith("_params"):
            return super().__getattr__(name)
        network = name.removesuffix("_params")
        if network.endswith("_target") and network not in self._modules:
            network = f"target_{network.removesuffix('_target')}"
        live = network.removeprefix("target_")
        if network in self._modules:
            return self._parameters_of(network, live)
        if live in self._modules:
            return self._parameters_of(live, live).data
        raise AttributeError(f"{type(self).__name__}: there is no network for `{name}`")

    def _parameters_of(self, network: str, live: str) -> Any:
        from compiled_rl.adapters.torchrl import parameters_of

        return parameters_of(self._network(network), *self._converted.get(live, Converted()))

    def _members(self, name: str) -> Iterator[nn.Module]:
        """The networks that one is made of, in its memory."""
        network, known = self._network(name), self._converted.get(name, Converted())
        if isinstance(network, Ensemble):
            return network.each()
        if known.size is None:
            return iter([network])
        return members_of(network, _names(network) - known.shared)

    def _network(self, name: str) -> nn.Module:
        network = self._modules.get(name)
        if network is None:
            raise AttributeError(
                f"{type(self).__name__}: there is no network `{name}`; "
                f"the networks are {self._network_names()}"
            )
        return network

    def _network_names(self) -> list[str]:
        """Those that were converted, or else every child that learns and is no estimator."""
        learning = [name for name, child in self.named_children() if [*child.parameters()]]
        return list(self._converted) or [name for name in learning if name != "_value_estimator"]

    def _check_networks(self, module: Any, expand_dim: Optional[int]) -> None:
        """One, or a list of as many as there are to be."""
        name = type(self).__name__
        if expand_dim is not None and type(expand_dim) is not int:
            raise TypeError(f"{name}: `expand_dim` must be an integer or None, got {expand_dim!r}")
        listed = _is_list(module)
        for network in module if listed else [module]:
            if not isinstance(network, nn.Module):
                raise TypeError(
                    f"{name}: `module` must be an nn.Module, got {type(network).__name__}"
                )
        if listed and len(module) != expand_dim:
            raise RuntimeError(
                f"{name}: `module` must be one network or a list of `expand_dim`, "
                f"got {len(module)} and {expand_dim}"
            )

    def _check_values(self, module: Any) -> None:
        """What has no shape is not stacked, and what has no range is not drawn anew."""
        for network in module if _is_list(module) else [module]:
            check_called("module", network)
        meta = [] if _is_list(module) else [name for name, x in tensors_of(module) if x.is_meta]
        if meta:
            raise ValueError(
                f"{type(self).__name__}: `module` must hold values, in whose range they are drawn "
                f"anew with `expand_dim`, got a meta tensor at {meta[0]!r}"
            )

    def _check_free(self, module_name: str) -> None:
        if not (isinstance(module_name, str) and module_name.isidentifier()):
            raise ValueError(
                f"{type(self).__name__}: `module_name` must be a name such as 'actor_network', "
                f"got {module_name!r}"
            )
        own = {**vars(self), **self._parameters, **self._buffers}
        if hasattr(type(self), module_name) or own.get(module_name) is not None:
            raise AttributeError(
                f"{type(self).__name__}: `module_name` must be a name that is free, got "
                f"{module_name!r}, which is an attribute already"
            )

    def _parameters_apart(self, compare_against: Any) -> set[nn.Parameter]:
        """Those of ``compare_against``, which must be several: a tensor would be taken by rows."""
        one = isinstance(compare_against, Tensor | nn.Module)
        apart = [compare_against] if one else list(compare_against or ())
        if one or not all(isinstance(x, Tensor) for x in apart):
            raise TypeError(
                f"{type(self).__name__}: `compare_against` must be parameters, such as "
                f"`network.parameters()`, got {', '.join({type(x).__name__ for x in apart})}"
            )
        return set(apart)


def _is_list(module: Any) -> bool:
    return isinstance(module, Sequence | nn.ModuleList)


def _stacked(
    module: Any, size: int, apart: set[nn.Parameter]
) -> tuple[nn.Module, set[nn.Parameter]]:
    """Several networks in one, and the parameters that are not stacked."""
    if not _is_list(module):
        return Ensemble.resampled(module, size, list(apart)).network, apart
    shared = apart | set.intersection(*[set(network.parameters()) for network in module])
    return Ensemble(list(module), list(shared)).network, shared


def _names(network: nn.Module, among: Optional[set[nn.Parameter]] = None) -> frozenset[str]:
    """The names of a network's tensors, or of those among some, each of them."""
    return frozenset(name for name, x in tensors_of(network) if among is None or x in among)
