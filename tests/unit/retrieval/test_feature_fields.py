from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch

from corral.data.features import FeatureTable
from corral.data.vocabulary import Vocabulary
from corral.retrieval.feature_fields import (
    CategoricalField,
    MultiField,
    NumericField,
    NumericScale,
    fit_scales,
)

ROWS = torch.tensor([0, 1, 2, 3, 4, 5, 3])


@pytest.fixture
def table() -> FeatureTable:
    """Items 10 to 13, rows 2 to 5; item 13 is missing in the feature table."""
    frame = pl.DataFrame(
        {
            "item_id": [10, 11, 12],
            "brand": ["a", "b", None],
            "genres": [["x", "y", "z"], ["y"], []],
            "price": [1.0, 3.0, None],
            "title": ["one", "two", "three"],
        }
    )
    return FeatureTable.build(frame, "item_id", Vocabulary.of(pl.Series([10, 11, 12, 13])), ["title"])


def test_categorical_looks_up_the_code(table: FeatureTable) -> None:
    field = CategoricalField(table.columns["brand"], 4, False, 1.0)
    got = field(ROWS)
    weight, codes = field.embedding.weight, table.columns["brand"].values
    for place, row in enumerate(ROWS.tolist()):
        assert torch.equal(got[place], weight[int(codes[row])])
    assert torch.equal(got[[0, 1, 4, 5]], torch.zeros(4, 4))  # missing
    assert not torch.equal(got[2], got[3])
    got.sum().backward()
    assert torch.equal(weight.grad[0], torch.zeros(4))


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("most", [2, 8])
def test_multi_is_the_mean_of_the_first_values(table: FeatureTable, most: int, sparse: bool) -> None:
    column = table.columns["genres"]
    field = MultiField(column, 4, most, sparse, 1.0).double()
    got = field(ROWS)
    weight = field.embedding.weight
    expected = torch.zeros(len(ROWS), 4, dtype=torch.float64)
    for place, row in enumerate(ROWS.tolist()):
        codes = column.values[column.offsets[row] : column.offsets[row + 1]][:most]
        if len(codes):
            expected[place] = torch.stack([weight[int(code)] for code in codes]).mean(0)
    torch.testing.assert_close(got, expected.detach(), rtol=0, atol=1e-12)
    (wanted,) = torch.autograd.grad((expected := _mean(column, weight, most)).sum(), weight)
    got.sum().backward()
    gradient = weight.grad.to_dense() if sparse else weight.grad
    assert weight.grad.is_sparse == sparse
    torch.testing.assert_close(gradient, wanted, rtol=0, atol=1e-12)
    assert torch.equal(gradient[0], torch.zeros(4, dtype=torch.float64))


def _mean(column, weight: torch.Tensor, most: int) -> torch.Tensor:
    rows = []
    for row in ROWS.tolist():
        codes = torch.tensor(column.values[column.offsets[row] : column.offsets[row + 1]][:most]).long()
        rows.append(weight[codes].mean(0) if len(codes) else weight[0].detach() * 0)
    return torch.stack(rows)


def test_numeric_is_a_line_and_has_a_vector_for_missing(table: FeatureTable) -> None:
    field = NumericField(table.columns["price"], NumericScale(shift=1.0, scale=4.0), 4, 1.0)
    torch.nn.init.normal_(field.bias)
    torch.nn.init.normal_(field.missing_vector)
    got = field(ROWS)
    torch.testing.assert_close(got[2], field.bias)
    torch.testing.assert_close(got[3], 0.5 * field.weight + field.bias)
    for place in (0, 1, 4, 5):
        assert torch.equal(got[place], field.missing_vector)
    got.sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in field.parameters())
    assert field.missing_vector.grad.eq(4.0).all()


def test_tables_are_not_saved_with_the_weights(table: FeatureTable) -> None:
    assert set(CategoricalField(table.columns["brand"], 4, False, 1.0).state_dict()) == {"embedding.weight"}
    assert set(MultiField(table.columns["genres"], 4, 8, False, 1.0).state_dict()) == {"embedding.weight"}
    numeric = NumericField(table.columns["price"], NumericScale(), 4, 1.0)
    assert set(numeric.state_dict()) == {"weight", "bias", "missing_vector"}


def test_scales_come_from_the_given_rows_alone(table: FeatureTable) -> None:
    assert fit_scales(table, np.array([2, 3, 3, 3])) == {"price": NumericScale(2.0, 1.0)}
    assert fit_scales(table, np.array([3, 4])) == {"price": NumericScale(3.0, 1.0)}  # a single value
    assert fit_scales(table, np.array([4, 5])) == {"price": NumericScale(0.0, 1.0)}  # none
