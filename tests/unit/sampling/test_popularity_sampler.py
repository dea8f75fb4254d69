from __future__ import annotations

import pytest
import torch

from corral.sampling.popularity import PopularitySampler

CATALOGUE = torch.tensor([9, 2, 5])


def test_counts_plus_one_to_a_power() -> None:
    counts = torch.tensor([8, 0, 3])
    plain = PopularitySampler(CATALOGUE, counts).log_q(torch.zeros(1, 2), CATALOGUE[None]).exp()
    torch.testing.assert_close(plain, torch.tensor([[9.0, 1.0, 4.0]]) / 14)
    root = PopularitySampler(CATALOGUE, counts, power=0.5).log_q(torch.zeros(1, 2), CATALOGUE[None]).exp()
    torch.testing.assert_close(root, torch.tensor([[3.0, 1.0, 2.0]]) / 6)


def test_one_count_per_item() -> None:
    with pytest.raises(ValueError, match="each of the 3 items"):
        PopularitySampler(CATALOGUE, torch.ones(10))
