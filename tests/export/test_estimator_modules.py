"""Estimators with their networks inside, by their keywords, in every file."""

import pytest
import torch

from compiled_rl import estimators
from compiled_rl.export import to_onnx, to_pt2, to_torchscript
from tests.losses.networks import as_keywords, make_data, plain_networks

OPTIONS = {
    "TD0Estimator": {},
    "TD1Estimator": {},
    "TDLambdaEstimator": {},
    "GAE": {},
    "VTrace": {},
    "GAE averaged": {"average_gae": True},
    "GAE shifted": {"shifted": True},
}
# In every run: the others are programs of the same functions, which ``test_estimators`` exports.
FAST = ("GAE averaged", "VTrace")
every_row = pytest.mark.parametrize(
    "row", [row if row in FAST else pytest.param(row, marks=pytest.mark.slow) for row in OPTIONS]
)


def estimator_and_example(row: str):
    actor, critic = plain_networks("normal")
    data = as_keywords(make_data(actor, (2, 5)).select("observation", "action_log_prob", "next"))
    data["action"] = make_data(actor, (2, 5))["action"]
    name = row.split()[0]
    arguments = {"value_network": critic, **OPTIONS[row]}
    if name == "VTrace":
        arguments["actor_network"] = actor
    else:
        data = {key: x for key, x in data.items() if not key.startswith("action")}
    return getattr(estimators, name)(**arguments), data


@every_row
def test_to_onnx(row, tmp_path):
    report = to_onnx(*estimator_and_example(row), tmp_path / "e.onnx", ("batch", "time"))
    assert report.max_error < 1e-5
    assert {1, 23, 700} <= {check.sizes["time"] for check in report.checks}


@every_row
def test_to_pt2(row, tmp_path):
    axes = ("batch", "time")
    report = to_pt2(*estimator_and_example(row), tmp_path / "e.pt2", axes, max_time=64)
    assert report.max_error < 1e-5


@every_row
def test_to_torchscript(row, tmp_path):
    axes = ("batch", "time")
    report = to_torchscript(*estimator_and_example(row), tmp_path / "e.pt", axes, max_time=64)
    assert report.max_error < 1e-5


def test_an_estimator_needs_no_network_in_its_file(tmp_path):
    x, flag = torch.randn(2, 5), torch.zeros(2, 5, dtype=torch.bool)
    example = {"next_reward": x, "state_value": x, "next_state_value": x}
    example |= {"next_done": flag, "next_terminated": flag}
    report = to_onnx(
        estimators.GAE(gamma=0.9, time_dim=1), example, tmp_path / "e.onnx", ("batch", "time")
    )
    assert report.max_error < 1e-5
