from __future__ import annotations

import pytest
import torch

from corral.sampling.inverse_cdf import inverse_cdf


def test_each_choice_gets_its_stretch_of_the_unit_interval() -> None:
    cumulative = torch.tensor([1.0, 1.0, 4.0, 10.0]).double()
    uniform = torch.tensor([0.0, 0.0999, 0.1, 0.3999, 0.4, 0.9999]).double()
    assert inverse_cdf(cumulative, uniform).tolist() == [0, 0, 2, 2, 3, 3]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_has_no_weight_is_never_drawn(dtype: torch.dtype) -> None:
    """At both ends and in the middle, for the smallest and the largest number a generator gives, at any scale."""
    weights = torch.tensor([0.0, 0.0, 3.0, 0.0, 1.0, 0.0]).to(dtype)
    largest = 1 - torch.finfo(dtype).eps / 2
    uniform = torch.tensor([0.0, 0.25, 0.75, largest], dtype=dtype)
    for scale in (1e-30, 1 / 3, 1.0, 1.5, 7e30):
        drawn = inverse_cdf((scale * weights).cumsum(0), uniform)
        assert set(drawn.tolist()) <= {2, 4}
        assert drawn[0] == 2
        assert drawn[-1] == 4


def test_leading_shapes() -> None:
    cumulative = torch.tensor([[1.0, 2.0], [0.0, 5.0]])
    uniform = torch.tensor([[0.1, 0.6, 0.1], [0.1, 0.6, 0.1]])
    assert inverse_cdf(cumulative, uniform).tolist() == [[0, 1, 0], [1, 1, 1]]
    assert inverse_cdf(cumulative[0], uniform).tolist() == [[0, 1, 0], [0, 1, 0]]
    assert inverse_cdf(torch.zeros(0, 3), torch.zeros(0, 2)).shape == (0, 2)
    assert inverse_cdf(cumulative, torch.zeros(2, 0)).shape == (2, 0)


def test_not_a_number_stays_in_range() -> None:
    assert inverse_cdf(torch.full((3,), torch.nan), torch.tensor([0.0, 0.9])).max() <= 2
