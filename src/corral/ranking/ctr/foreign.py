"""ForeignCtr: any module that maps a row of field vectors to a logit or a probability, as a CTR model.

Shape letters: B queries, N items per query, R = B N rows, F fields of context and item together, D field size,
E extra inputs.
"""

from __future__ import annotations

from enum import StrEnum

import torch
from torch import Tensor, nn

from corral.ranking.ctr.ctr_model import FieldVectors, check_extra

# Probabilities are kept so far from 0 and 1: a float32 sigmoid of a larger logit is 0 or 1 to begin with.
_MARGIN = 1e-6


class ForeignForm(StrEnum):
    """What a module is called with.

    FIELDS: [R, F, D], the context's fields before the item's. FLAT: the same, one field after the other, then the
    extra inputs [R, F D + E]. LIST: F tensors [R, D].
    """

    FIELDS = "fields"
    FLAT = "flat"
    LIST = "list"


class ForeignCtr(nn.Module):
    """The body of a model from elsewhere, what follows its embedding layer, behind the seam of stage 2.

    Fields are embedded by corral; the module is called once, with a row for each (query, item) pair: the context is
    copied N times, for such modules do not know that the items of a query share it. It does not see the history but
    for its means, which are fields of the context. The module's own normalisation over the batch, if it has one, sees
    all B N rows.

    With ``num_extra``, FLAT gives the extra inputs to the module; in the other forms there is no place for them, and
    they are weighed linearly beside it.

    Args:
        module: returns a tensor of logits, [R] or [R, 1].
        form: what it is called with.
        probabilities: it returns probabilities instead; logits are made of them, clamped to 1e-6 .. 1 - 1e-6.
        num_extra: E.
    """

    uses_history = False

    def __init__(
        self,
        module: nn.Module,
        *,
        form: ForeignForm = ForeignForm.FIELDS,
        probabilities: bool = False,
        num_extra: int = 0,
    ) -> None:
        super().__init__()
        self.module, self.form = module, ForeignForm(form)
        self.probabilities, self.num_extra = probabilities, num_extra
        beside = num_extra > 0 and self.form is not ForeignForm.FLAT
        self.extra = nn.Linear(num_extra, 1, bias=False) if beside else None

    def forward(self, fields: FieldVectors, history: Tensor, mask: Tensor, extra: Tensor | None = None) -> Tensor:
        """See ``CtrModel``.

        Raises:
            ValueError: the module returned something else than one number a row, or no probabilities where it should.
        """
        check_extra(extra, self.num_extra)
        queries, items = fields.items.shape[:2]
        rows = torch.cat([fields.context.expand(-1, items, -1, -1), fields.items], 2).flatten(0, 1)
        logits = self._logits(self.module(self._arranged(rows, extra)), len(rows)).view(queries, items)
        if self.extra is not None and extra is not None:
            logits = logits + self.extra(extra).squeeze(-1)
        return logits

    def _arranged(self, rows: Tensor, extra: Tensor | None) -> Tensor | list[Tensor]:
        if self.form is ForeignForm.FIELDS:
            return rows
        if self.form is ForeignForm.LIST:
            return list(rows.unbind(1))
        parts = [rows.flatten(1)] if extra is None else [rows.flatten(1), extra.flatten(0, 1)]
        return torch.cat(parts, 1)

    def _logits(self, returned: object, rows: int) -> Tensor:
        """[R] of what the module returned."""
        name = type(self.module).__name__
        if not isinstance(returned, Tensor):
            kind = type(returned).__name__
            raise ValueError(f"{name} returned {kind}, not a tensor: wrap it in a module that takes the tensor out")
        if returned.shape not in ((rows,), (rows, 1)) or not returned.is_floating_point():
            raise ValueError(
                f"{name} returned {returned.dtype} of shape {list(returned.shape)} for {rows} rows: need floating "
                f"numbers [{rows}] or [{rows}, 1], one for each row"
            )
        returned = returned.reshape(rows)
        if not self.probabilities:
            return returned
        if bool(((returned < 0) | (returned > 1)).any()):
            raise ValueError(f"{name} returned numbers outside [0, 1]: use probabilities=False if they are logits")
        # In bfloat16 the margin is nothing.
        return torch.logit(returned.float() if returned.dtype.itemsize < 4 else returned, eps=_MARGIN)
