"""ONNX files in the standard's own evaluator: numpy, without kernels or graph optimisations."""

from functools import partial

import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from onnx.reference.ops import op_scan

from compiled_rl.export import to_onnx
from compiled_rl.functional import linear_recurrence
from tests.clients.conftest import BATCHES, bound_gae, check_outputs
from tests.export.targets import sequence

SIZES = [(1, 1), (3, 23), (64, 5)]


class Scan(op_scan.Scan):
    """The evaluator's own, which only runs forwards, on what is turned around before and after."""

    op_domain = ""

    def __init__(self, node, run_params):
        forward = onnx.NodeProto(name=node.name, op_type=node.op_type)
        forward.input.extend(node.input)
        forward.output.extend(node.output)
        for attribute in node.attribute:
            if attribute.name.endswith("_directions"):
                assert set(attribute.ints) == {1}
            else:
                forward.attribute.append(attribute)
        super().__init__(forward, run_params)

    def run(self, start, *scanned, **rest):
        last, ys = super().run(start, *[x[::-1] for x in scanned], **rest)
        return last, ys[::-1].copy()


def run_reference(path, inputs, new_ops=()):
    evaluator = ReferenceEvaluator(str(path), new_ops=new_ops)
    arrays = {name: x.numpy() for name, x in inputs.items()}
    return dict(zip(evaluator.output_names, evaluator.run(None, arrays), strict=True))


@pytest.mark.parametrize("batch", BATCHES)
def test_policy(batch, policy, policy_onnx):
    observation = torch.randn(batch, 4)
    got = run_reference(policy_onnx, {"observation": observation})
    check_outputs(got, {"action": policy(observation)})


@pytest.mark.slow
def test_recurrence_of_any_length(tmp_path):
    forwards = partial(linear_recurrence, time_dim=-1, reverse=False)
    example = {"x": torch.randn(2, 8), "decay": torch.rand(2, 8)}
    path = to_onnx(forwards, example, tmp_path / "y.onnx", ("batch", "time")).path
    for size in SIZES:
        inputs = {"x": torch.randn(size), "decay": torch.rand(size)}
        check_outputs(run_reference(path, inputs), {"output": forwards(**inputs)})


@pytest.mark.slow
@pytest.mark.parametrize("sizes", SIZES)
def test_gae_of_any_length(sizes, gae_onnx):
    inputs = sequence(*sizes)
    got = run_reference(gae_onnx, inputs, [Scan])
    check_outputs(got, bound_gae(**inputs)._asdict())
