from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from corral.ranking.ctr.ctr_model import FieldVectors
from corral.ranking.ctr.deepfm import DeepFM
from corral.ranking.ctr.foreign import ForeignCtr, ForeignForm


class PlainDeepFM(nn.Module):
    """DeepFM of rows of fields [w ; v], pair by pair and with one MLP; weights of the native one."""

    def __init__(self, native: DeepFM, *, sigmoid: bool = False, column: bool = False) -> None:
        super().__init__()
        self.native, self.sigmoid, self.column = native, sigmoid, column

    def forward(self, fields: Tensor) -> Tensor:
        weights, factors = fields[..., 0], fields[..., 1:]
        logits = weights.sum(1) + self.native.fm.bias
        for a in range(fields.shape[1]):
            for b in range(a):
                logits = logits + (factors[:, a] * factors[:, b]).sum(1)
        vectors = factors.flatten(1)
        for layer in self.native.mlp.layers:
            vectors = torch.relu(layer(vectors))
        logits = logits + self.native.output(vectors)[:, 0]
        logits = logits.sigmoid() if self.sigmoid else logits
        return logits[:, None] if self.column else logits


class OfList(nn.Module):
    """A module of a list of fields made one of a tensor."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, fields: list[Tensor]) -> Tensor:
        return self.module(torch.stack(fields, 1))


class OfFlat(OfList):
    """The same of one row."""

    def forward(self, row: Tensor) -> Tensor:  # type: ignore[override]
        return self.module(row.unflatten(1, (5, -1)))


@pytest.fixture
def native() -> DeepFM:
    return DeepFM(5, 2, 3, hidden=(8, 4)).double()


@pytest.mark.parametrize("sigmoid", [False, True])
@pytest.mark.parametrize("column", [False, True])
@pytest.mark.parametrize("form", list(ForeignForm))
def test_equals_the_native_model(vectors, native: DeepFM, sigmoid: bool, column: bool, form: ForeignForm) -> None:
    fields, history, mask = vectors()
    module: nn.Module = PlainDeepFM(native, sigmoid=sigmoid, column=column)
    module = {ForeignForm.FIELDS: module, ForeignForm.LIST: OfList(module), ForeignForm.FLAT: OfFlat(module)}[form]
    foreign = ForeignCtr(module, form=form, probabilities=sigmoid)
    torch.testing.assert_close(foreign(fields, history, mask), native(fields, history, mask), rtol=1e-9, atol=1e-9)


def test_gradient_is_the_native_models(vectors, native: DeepFM) -> None:
    fields, history, mask = vectors()
    fields.context.requires_grad_()
    found = []
    for model in (native, ForeignCtr(PlainDeepFM(native, sigmoid=True), probabilities=True)):
        model(fields, history, mask).square().sum().backward()
        found.append([fields.context.grad.clone(), native.mlp.layers[0].weight.grad.clone()])
        fields.context.grad, native.mlp.layers[0].weight.grad = None, None
    torch.testing.assert_close(found[0], found[1])


def test_flat_rows_are_context_items_and_extra_one_after_the_other(vectors) -> None:
    fields, history, mask = vectors()
    extra = torch.randn(4, 6, 2, dtype=torch.float64)
    linear = nn.Linear(5 * 5 + 2, 1).double()
    found = ForeignCtr(linear, form=ForeignForm.FLAT, num_extra=2)(fields, history, mask, extra)
    weight = linear.weight[0]
    for b in range(4):
        for n in range(6):
            row = torch.cat([fields.context[b, 0].flatten(), fields.items[b, n].flatten(), extra[b, n]])
            torch.testing.assert_close(found[b, n], row @ weight + linear.bias[0])


@pytest.mark.parametrize("form", [ForeignForm.FIELDS, ForeignForm.LIST])
def test_extra_is_weighed_beside_a_module_that_has_no_place_for_it(vectors, native: DeepFM, form: ForeignForm) -> None:
    fields, history, mask = vectors()
    extra = torch.randn(4, 6, 2, dtype=torch.float64)
    module: nn.Module = PlainDeepFM(native)
    foreign = ForeignCtr(module if form is ForeignForm.FIELDS else OfList(module), form=form, num_extra=2).double()
    beside = extra @ foreign.extra.weight[0]  # type: ignore[union-attr]
    torch.testing.assert_close(foreign(fields, history, mask, extra), native(fields, history, mask) + beside)
    with pytest.raises(ValueError, match="num_extra=2"):
        foreign(fields, history, mask)


class Returns(nn.Module):
    def __init__(self, what: object) -> None:
        super().__init__()
        self.what = what

    def forward(self, fields: Tensor) -> object:
        return self.what


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ({"y_pred": torch.zeros(24)}, "dict, not a tensor"),
        (torch.zeros(4, 6), r"shape \[4, 6\] for 24 rows"),
        (torch.zeros(24, 2), r"shape \[24, 2\]"),
        (torch.zeros(24, dtype=torch.int64), "int64"),
        (torch.zeros(23), r"shape \[23\]"),
    ],
)
def test_anything_but_a_number_a_row_is_refused(vectors, what: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ForeignCtr(Returns(what))(*vectors())


def test_logits_are_not_taken_for_probabilities(vectors) -> None:
    with pytest.raises(ValueError, match="outside"):
        ForeignCtr(Returns(torch.full((24,), 1.5)), probabilities=True)(*vectors())


def test_certain_probabilities_are_finite_logits(vectors) -> None:
    sure = torch.tensor([0.0, 1.0] * 12)
    found = ForeignCtr(Returns(sure), probabilities=True)(*vectors()).flatten()
    torch.testing.assert_close(found.abs(), torch.full((24,), 13.8155), rtol=0, atol=0.1)
    assert torch.equal(found > 0, sure > 0.5)
    low = ForeignCtr(Returns(sure.bfloat16()), probabilities=True)(*vectors())
    assert low.isfinite().all()


def test_items_without_a_context() -> None:
    fields = FieldVectors(torch.zeros(2, 1, 0, 5), torch.randn(2, 3, 4, 5))
    assert ForeignCtr(nn.Linear(20, 1), form=ForeignForm.FLAT)(fields, torch.zeros(0), torch.zeros(0)).shape == (2, 3)
