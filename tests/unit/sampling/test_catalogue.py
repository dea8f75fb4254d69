from __future__ import annotations

import pytest
import torch

from corral.sampling.catalogue import Catalogue

ITEMS = torch.tensor([9, 2, 5])


def test_positions_and_what_is_not_there() -> None:
    catalogue = Catalogue(ITEMS)
    assert len(catalogue) == 3
    asked = torch.tensor([[2, 5, 9], [0, 1, 3], [10, 11, 2**40], [-1, -7, 9]])
    assert catalogue.positions(asked).tolist() == [[1, 2, 0], [-1, -1, -1], [-1, -1, -1], [-1, -1, 0]]
    assert catalogue.positions(torch.zeros(0, 3, dtype=torch.int64)).shape == (0, 3)


def test_is_not_in_the_state() -> None:
    assert not Catalogue(ITEMS).state_dict()


def test_vectors_are_checked() -> None:
    catalogue = Catalogue(ITEMS)
    catalogue.check_vectors(torch.zeros(3, 4))
    catalogue.check_vectors(torch.zeros(3, 4), 4)
    for wrong in (torch.zeros(3, 5), torch.zeros(2, 4), torch.zeros(3)):
        with pytest.raises(ValueError, match=r"need item vectors \[3, 4\]"):
            catalogue.check_vectors(wrong, 4)
    vectors = torch.zeros(3, 4)
    vectors[2, 1] = torch.inf
    with pytest.raises(ValueError, match="item row 5 is not finite"):
        catalogue.check_vectors(vectors)
