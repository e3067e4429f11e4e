"""What all tests share: an exporter that reads its translations once, not at every export.

torch.onnx asks onnxscript for all of them each time, and onnxscript parses the source of each to
answer: a second of an export's two or three.
"""

from functools import cache

from torch.onnx._internal.exporter import _registration

_asked = _registration.onnxscript_apis


@cache
def _translations():
    return type(_asked)(_asked._name).get_torchlib_ops()


_asked.get_torchlib_ops = _translations
