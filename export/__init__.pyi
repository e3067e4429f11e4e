from compiled_rl.export.errors import ExportError as ExportError
from compiled_rl.export.onnx import to_onnx as to_onnx
from compiled_rl.export.runtime import OnnxModel as OnnxModel
from compiled_rl.export.verify import Report as Report
