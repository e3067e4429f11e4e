"""Frozen copies of networks: nothing in them is a parameter, and what is one tensor stays one."""

import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictParams
from torch import nn

from compiled_rl.modules import frozen_copy


def test_a_recurrent_copy_computes_with_its_buffers():
    """Torch keeps a list of its weights beside them."""
    assert not frozen_copy(nn.GRU(2, 3))(torch.ones(4, 1, 2))[0].requires_grad


def test_tied_weights_stay_tied():
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    network[1].weight = network[0].weight
    frozen = frozen_copy(network)
    assert frozen[0].weight is frozen[1].weight
    assert frozen[0].bias is not frozen[1].bias
    own = nn.Parameter(torch.ones(2))
    held = frozen_copy(TensorDictParams(TensorDict({"a": own, "b": own}), no_convert=True))
    assert held["a"] is held["b"]
