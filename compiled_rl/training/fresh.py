"""Whether a loss is still built of the modules of which a step was made."""

from typing import Any

from torch import nn

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class Structure:
    """The modules, hooks and parameters of a module as they are now, to be compared later.

    Tensors are found once, by the place where they stand: what stands elsewhere later is not.

    Args:
        owner: who asks, for the errors.
        module: whose buffers and dtypes may change; its modules that hold tensors may not.
    """

    def __init__(self, owner: str, module: nn.Module) -> None:
        self.owner, self._module = owner, module
        modules = list(module.modules())
        self._modules = modules
        self._kinds = _kinds(modules)
        # Lists of them, not of pairs: comparing two takes a microsecond, and is done every call.
        self._children: list[Any] = [m._modules for m in modules]
        self._children_before = [dict(children) for children in self._children]
        self._holders = _holders(module)
        self._hooks: list[Any] = [getattr(m, kind) for m in modules for kind in _HOOKS]
        self._hooks_before = [dict(hooks) for hooks in self._hooks]
        self._parameters = [
            (m._parameters, name, parameter)
            for m in modules
            for name, parameter in m._parameters.items()
        ]

    @property
    def rebuilt(self) -> bool:
        """Whether some module has other children."""
        return self._children != self._children_before

    @property
    def changed(self) -> bool:
        """Whether some module has other children, another class, or more attributes or tensors.

        Attributes are how a method is patched: ``network.forward = function``.
        """
        return self.rebuilt or _kinds(self._modules) != self._kinds

    def check_modules(self) -> None:
        """Refuse another module where there was one that holds tensors, or takes one's place.

        Raises:
            RuntimeError: there is one.
        """
        if not self.rebuilt:
            return
        now, before = _holders(self._module), self._holders
        for name in [*before, *now]:
            if now.get(name) is not before.get(name):
                raise RuntimeError(
                    f"{self.owner}: `{name}` must be the module that it was, "
                    f"{_kind(before.get(name))}, got {_kind(now.get(name))} that was put there "
                    f"afterwards; make the loss and what is made of it again"
                )

    def check_hooks(self) -> None:
        """Refuse hooks that came or went: a graph that is there does not notice.

        Raises:
            RuntimeError: one did.
        """
        if self._hooks != self._hooks_before:
            raise RuntimeError(
                f"{self.owner}: forward hooks must be registered and removed before the step is "
                "made, got others than there were; make the step again"
            )

    def check_parameters(self) -> None:
        """Refuse another parameter of a module than there was.

        Raises:
            RuntimeError: there is one.
        """
        for owned, name, parameter in self._parameters:
            if owned.get(name) is not parameter:
                was = "None" if parameter is None else f"of shape {list(parameter.shape)}"
                raise RuntimeError(
                    f"{self.owner}: the parameter `{name}` {was} was replaced after the step was "
                    "made; make the step again"
                )


def _kinds(modules: list[nn.Module]) -> list[Any]:
    return [(type(m), len(m.__dict__), len(m._parameters), len(m._buffers)) for m in modules]


def _holders(module: nn.Module) -> dict[str, nn.Module]:
    """The modules that hold tensors themselves, by every name that they have."""
    named = module.named_modules(remove_duplicate=False)
    return {name: part for name, part in named if part._parameters or part._buffers}


def _kind(module: Any) -> str:
    return "none" if module is None else f"a {type(module).__name__}"
