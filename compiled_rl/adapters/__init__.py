"""The edge: keyword tensors, mappings and TensorDicts in; the only folder that knows TensorDict."""

from compiled_rl.adapters.dispatch import Data, given, output_type, read, write
from compiled_rl.adapters.fields import Field, Key, describe, in_next, keyword, unique
from compiled_rl.adapters.keyed import KeyedModule
from compiled_rl.adapters.masks import select_valid
from compiled_rl.adapters.plain import EnsembleForm, HeadForm, PlainForm
from compiled_rl.adapters.policy import PlainActor, PlainPolicy, deterministic_actor, is_policy

__all__ = [
    "Data",
    "EnsembleForm",
    "Field",
    "HeadForm",
    "Key",
    "KeyedModule",
    "PlainActor",
    "PlainForm",
    "PlainPolicy",
    "describe",
    "deterministic_actor",
    "given",
    "in_next",
    "is_policy",
    "keyword",
    "output_type",
    "read",
    "select_valid",
    "unique",
    "write",
]
