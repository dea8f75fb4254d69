"""RequestFeatures: what requests must bring for a ranker that was trained with features of the request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from corral.ranking.fields import RequestFields


@dataclass(frozen=True)
class RequestFeatures:
    """Names and kinds of request features.

    Attributes:
        codes: number of codes of each categorical one: 0 missing, 1 unknown, then the values of training.
        numbers: names of the numeric ones.
    """

    codes: Mapping[str, int]
    numbers: frozenset[str]

    @classmethod
    def of(cls, ranker: object) -> RequestFeatures:
        """What a ranker's ``RequestFields`` were built for; nothing where it has none."""
        codes: dict[str, int] = {}
        numbers: set[str] = set()
        for part in ranker.modules() if isinstance(ranker, nn.Module) else ():
            if isinstance(part, RequestFields):
                names = [name for name in part.names if name not in part.scales]
                tables = (cast(nn.Embedding, table) for table in part.tables)
                codes |= {name: table.num_embeddings for name, table in zip(names, tables, strict=True)}
                numbers |= set(part.scales)
        return cls(codes, frozenset(numbers))

    @property
    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted({*self.codes, *self.numbers})

    def check(self, given: Mapping[str, float | None]) -> None:
        """Refuses what the ranker cannot read.

        Raises:
            ValueError: a feature is unknown or absent, or a code out of range.
        """
        if set(given) != set(self.names):
            raise ValueError(f"request features: this bundle takes exactly {', '.join(self.names) or 'none'}")
        for name, size in self.codes.items():
            code = given[name]
            if code is not None and not (code == int(code) and 0 <= code < size):
                raise ValueError(f"request feature {name!r} is a code: a whole number from 0 to {size - 1}, or null")

    def tensors(self, given: Sequence[Mapping[str, float | None]]) -> dict[str, Tensor]:
        """Checked features of B requests by name, each [B]."""
        tensors = {name: torch.tensor([int(one[name] or 0) for one in given]) for name in self.codes}
        for name in self.numbers:
            values = [torch.nan if (value := one[name]) is None else value for one in given]
            tensors[name] = torch.tensor(values, dtype=torch.float64)
        return tensors
