"""HeldOutCorrection: how far evidence is trusted beside what was learned, fitted on events that nobody learned from.

Shape letters: B queries, N items per query, E inputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


class HeldOutCorrection(nn.Module):
    """logit' = scale * logit + sum over e of weight_e input_e + level; the logit itself until it is fitted.

    Of no paper: corral's own choice. Models score the rows they were trained on better than they ever will others. A
    ranker that learns on train rows reads such a score, and has such embeddings, beside evidence from which the row's
    own share was taken out: it learns to trust the evidence too little. A few weights fitted on validation,
    see ``fit_correction`` (queries) and ``fit_click_correction`` (labels), put that right.

    Args:
        size: E.
    """

    weight: Tensor
    scale: Tensor
    level: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(size))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("level", torch.zeros(()))
        self._fitted = False

    @property
    def fitted(self) -> bool:
        """Whether it changes anything; known on the host, so that asking costs no wait for a device."""
        return self._fitted

    def forward(self, logits: Tensor, inputs: Tensor) -> Tensor:
        """Logits [B, N] of logits [B, N] and inputs [B, N, E]."""
        # Not a product of matrices: a logit must not depend, to the last bit, on how many others are asked for.
        return self.scale * logits + (inputs * self.weight).sum(-1) + self.level

    def set(self, scale: Tensor, weight: Tensor, level: float = 0.0) -> None:
        """Takes what was fitted: a scalar, [E], and a constant that orders nothing but makes probabilities."""
        self.scale.copy_(scale)
        self.weight.copy_(weight)
        self.level.fill_(level)
        self._notice()

    def _notice(self) -> None:
        self._fitted = bool(self.weight.any()) or float(self.scale) != 1.0 or float(self.level) != 0.0

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        # Weights saved before there was a correction have none.
        known = {prefix + name: buffer for name, buffer in self._buffers.items() if buffer is not None}
        super()._load_from_state_dict({**known, **state_dict}, prefix, *rest)
        self._notice()
