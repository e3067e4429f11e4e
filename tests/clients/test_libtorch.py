"""A TorchScript policy in a C++ program with LibTorch."""

import pytest
import torch

from compiled_rl.export import to_torchscript
from tests.clients.conftest import check_program


@pytest.mark.slow
def test_policy(policy, build, tmp_path):
    program = build("policy")
    report = to_torchscript(policy, torch.randn(2, 4), tmp_path / "policy.pt")
    check_program(program, report.path, policy)
