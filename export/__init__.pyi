from compiled_rl.export.errors import ExportError as ExportError
from compiled_rl.export.models import TorchModel as TorchModel
from compiled_rl.export.onnx import to_onnx as to_onnx
from compiled_rl.export.pt2 import load_pt2 as load_pt2
from compiled_rl.export.pt2 import to_pt2 as to_pt2
from compiled_rl.export.runtime import OnnxModel as OnnxModel
from compiled_rl.export.verify import Report as Report
