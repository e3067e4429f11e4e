"""A smaller ONNX graph that computes the same, to the last digit of a constant.

The exporter's own optimiser is not used: it takes ``x + 1e-8`` for ``x``, and ``0.99999 * x``, too,
so that a division that an epsilon protects is one by zero in the file. ONNX Runtime fuses operators
when it opens a file, and looks for exact zeros and ones.
"""

import onnx_ir
import onnx_ir.passes.common as common
from onnxscript.optimizer import fold_constants_ir


def simplified(model: onnx_ir.Model) -> onnx_ir.Model:
    """The model without functions, computed constants, repetitions, and what nothing uses."""
    common.InlinePass()(model)
    fold_constants_ir(model, onnx_shape_inference=True)
    tidy = onnx_ir.passes.Sequential(
        common.RemoveUnusedNodesPass(),
        common.RemoveUnusedFunctionsPass(),
        common.RemoveUnusedOpsetsPass(),
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.LiftSubgraphInitializersToMainGraphPass(),
        common.DeduplicateInitializersPass(),
        common.CommonSubexpressionEliminationPass(),
        common.OutputFixPass(),
        common.NameFixPass(),
    )
    return tidy(model).model
