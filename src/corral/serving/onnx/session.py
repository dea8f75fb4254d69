"""Session: an ONNX file in ONNX Runtime, tensors in and a tensor out, computed by one thread."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_ERRORS_ALONE = 3


class Session:
    """Asks a model.

    Args:
        path: of the file.

    Raises:
        ModuleNotFoundError: without ``corral[export]``.
    """

    def __init__(self, path: Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = _ERRORS_ALONE
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.inputs = [_described(one) for one in self._session.get_inputs()]
        self.outputs = [_described(one) for one in self._session.get_outputs()]

    def __call__(self, given: Mapping[str, Tensor]) -> Tensor:
        """The model's only output; inputs that it does not read are left out."""
        wanted = {one["name"]: given[one["name"]].contiguous().numpy() for one in self.inputs}
        return torch.from_numpy(self._session.run(None, wanted)[0])


def _described(value: Any) -> dict[str, Any]:
    """Name, dtype and shape of an input or output; what is not fixed has a name."""
    names = {"tensor(int64)": "int64", "tensor(float)": "float32"}
    return {"name": value.name, "dtype": names.get(value.type, value.type), "shape": list(value.shape)}
