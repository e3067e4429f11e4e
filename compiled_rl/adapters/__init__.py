"""The edge: keyword tensors, mappings and TensorDicts in; the only folder that knows TensorDict."""

from compiled_rl.adapters.dispatch import Data, given, output_type, read, write
from compiled_rl.adapters.fields import Field, Key, describe, in_next, keyword, unique
from compiled_rl.adapters.keyed import KeyedModule
from compiled_rl.adapters.masks import select_valid
from compiled_rl.adapters.plain import HeadForm, PlainForm
from compiled_rl.adapters.policy import PlainPolicy

__all__ = [
    "Data",
    "Field",
    "HeadForm",
    "Key",
    "KeyedModule",
    "PlainForm",
    "PlainPolicy",
    "describe",
    "given",
    "in_next",
    "keyword",
    "output_type",
    "read",
    "select_valid",
    "unique",
    "write",
]
