"""What is public, and so has a page: every name in the ``__all__`` of these packages.

The losses from which public ones inherit have a page, too: it is where shared options are told.
"""

import inspect
from importlib import import_module
from typing import Any, NamedTuple

import compiled_rl

# In the order of the navigation; what is public at the top alone is TorchRL's, and a helper.
FOLDERS = {
    "functional": "Functions",
    "losses": "Losses",
    "estimators": "Estimators",
    "modules": "Modules",
    "training": "Training",
    "export": "Export",
    "testing": "Testing",
    "helpers": "Helpers",
}


class Entry(NamedTuple):
    """A public name: where it is imported from, where it is defined, and its page."""

    name: str
    folder: str
    package: str
    value: Any

    @property
    def identifier(self) -> str:
        """Where it is defined, which is how pages refer to it."""
        return f"{self.value.__module__}.{self.value.__qualname__}"

    @property
    def page(self) -> str:
        """Its page in the site."""
        return f"api/{self.folder}/{self.name}.md"

    @property
    def summary(self) -> str:
        """The first line of its docstring."""
        return (inspect.getdoc(self.value) or "").split("\n")[0]


def public_names(module: Any) -> list[str]:
    """Its ``__all__``, or what it defines itself; never a module."""
    own = [name for name, x in vars(module).items() if _module_of(x) == module.__name__]
    names = [name for name in getattr(module, "__all__", own) if not name.startswith("_")]
    return [name for name in names if not inspect.ismodule(getattr(module, name))]


def _module_of(x: Any) -> Any:
    return getattr(x, "__module__", None) if inspect.isroutine(x) or inspect.isclass(x) else None


def entries() -> list[Entry]:
    """Every public name once: in its folder, imported from the top if it is there, too."""
    top = {name: getattr(compiled_rl, name) for name in public_names(compiled_rl)}
    found: dict[str, Entry] = {}
    for folder in FOLDERS:
        package = f"compiled_rl.{folder}" if folder != "helpers" else "compiled_rl"
        for name in public_names(import_module(package)):
            value = getattr(import_module(package), name)
            at_the_top = top.get(name) is value
            entry = Entry(name, folder, "compiled_rl" if at_the_top else package, value)
            found.setdefault(entry.identifier, entry)
            for base in bases(value):
                shared = Entry(base.__name__, "losses", base.__module__, base)
                found.setdefault(shared.identifier, shared)
    return list(found.values())


def bases(value: Any) -> list[Any]:
    """The losses that a loss is one of, and whose arguments it may take."""
    classes = value.__mro__[1:] if inspect.isclass(value) else ()
    return [x for x in classes if x.__module__.startswith("compiled_rl.losses.") and _is_told(x)]


def _is_told(cls: type) -> bool:
    return cls.__name__.endswith("Loss") and "\nArgs:" in (inspect.getdoc(cls) or "")
