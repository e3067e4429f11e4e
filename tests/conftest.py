"""What all tests share: one thread a process, and an exporter that reads its translations once.

The tests' tensors are small: a second thread waits for the first one, in a loop that takes its core
from the other worker of ``pytest -n 2``. Tests of what threads share ask for theirs.

torch.onnx asks onnxscript for all translations at every export, and onnxscript parses the source of
each to answer: a second of an export's two or three.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is there, and of the tests' children

from functools import cache

from torch.onnx._internal.exporter import _registration

_asked = _registration.onnxscript_apis


@cache
def _translations():
    return type(_asked)(_asked._name).get_torchlib_ops()


_asked.get_torchlib_ops = _translations
