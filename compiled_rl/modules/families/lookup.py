"""The family that a distribution class of torch or TorchRL stands for."""

from compiled_rl.modules.families.base import Family
from compiled_rl.modules.families.continuous import Normal
from compiled_rl.modules.families.discrete import Categorical, OneHotCategorical

_FAMILIES: dict[tuple[str, str], type[Family]] = {
    ("torch", "Categorical"): Categorical,
    ("torch", "OneHotCategorical"): OneHotCategorical,
    ("torchrl", "OneHotCategorical"): OneHotCategorical,
    ("torchrl", "IndependentNormal"): Normal,
}


def family_of(distribution: type | Family, param_names=None, **options) -> Family:
    """The family that a distribution class stands for.

    Args:
        distribution: a class of torch or TorchRL, or a family or a family's class of ours.

    Returns:
        A ``Family``.

    Raises:
        TypeError: the class is in no table.
    """
    if isinstance(distribution, Family):
        return distribution
    if isinstance(distribution, type) and issubclass(distribution, Family):
        return distribution()
    name = getattr(distribution, "__name__", repr(distribution))
    library = getattr(distribution, "__module__", "").split(".")[0]
    if (library, name) not in _FAMILIES:
        known = ", ".join(".".join(key) for key in _FAMILIES)
        raise TypeError(
            f"family_of: `distribution` must be a compiled_rl Family or one of {known}, "
            f"got {library}.{name}"
        )
    return _FAMILIES[library, name]()
