"""An AOTInductor package in a C++ program with torch's own loader."""

import pytest
import torch

from compiled_rl.export import to_aotinductor
from tests.clients.conftest import check_program


@pytest.mark.slow
def test_policy(policy, build, tmp_path):
    program = build("package")
    report = to_aotinductor(policy, torch.randn(2, 4), tmp_path / "policy.pt2")
    check_program(program, report.path, policy)
