from __future__ import annotations

import pytest
import torch

from corral.ranking.ctr.lr import LR


def test_equals_the_sum_of_weights(vectors) -> None:
    fields, history, mask = vectors(field_size=1)
    extra = torch.randn(4, 6, 2, dtype=torch.float64)
    model = LR(1, 2, 3, num_extra=2).double()
    torch.nn.init.normal_(model.bias)
    got = model(fields, history, mask, extra)
    for b in range(4):
        for n in range(6):
            want = model.bias.item()
            want += sum(fields.context[b, 0, f, 0].item() for f in range(2))
            want += sum(fields.items[b, n, f, 0].item() for f in range(3))
            want += sum(model.extra.weight[0, e].item() * extra[b, n, e].item() for e in range(2))
            assert abs(got[b, n].item() - want) < 1e-12


def test_cannot_learn_an_interaction(exclusive_or, match_in_history) -> None:
    def build(fields):
        return LR(1, fields.num_context_fields, fields.num_item_fields)

    assert exclusive_or(build, 1) < 0.6
    assert match_in_history(build, 1) < 0.6


def test_refuses_wide_fields_and_unannounced_inputs(vectors) -> None:
    with pytest.raises(ValueError, match="field_size=4"):
        LR(4, 1, 1)
    fields, history, mask = vectors(field_size=1)
    with pytest.raises(ValueError, match=r"num_extra=0.*2 columns"):
        LR(1, 2, 3)(fields, history, mask, torch.zeros(4, 6, 2))
    with pytest.raises(ValueError, match=r"num_extra=2.*0 columns"):
        LR(1, 2, 3, num_extra=2)(fields, history, mask)
