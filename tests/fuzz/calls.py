"""A valid call of every public callable."""

from tests.fuzz import functions, of_export, of_helpers, of_losses, of_modules, of_training
from tests.fuzz.call import Call

CALLS: list[Call] = [
    *functions.FUNCTIONAL,
    *of_modules.calls(),
    *of_losses.calls(),
    *of_training.calls(),
    *of_helpers.calls(),
    *of_export.calls(),
]
