"""Tables: modules whose buffers are as large as the data they hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


class Tables(nn.Module):
    """Buffers take the size of what is loaded into them, so that a bundle can be opened without the data."""

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        for name, held in self._buffers.items():
            loaded = state_dict.get(prefix + name)
            if held is not None and isinstance(loaded, Tensor) and loaded.shape != held.shape:
                self._buffers[name] = torch.empty(loaded.shape, dtype=held.dtype, device=held.device)
        super()._load_from_state_dict(state_dict, prefix, *rest)
