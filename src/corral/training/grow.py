"""grow: trained weights in a model built for grown data; old rows keep their values, new ones get a first one."""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from corral.data.vocabulary import UNKNOWN
from corral.retrieval.cold_ids import HasIdTables
from corral.retrieval.entity_fields import EntityFields
from corral.retrieval.feature_fields import CategoricalField, MultiField
from corral.retrieval.look_alike_items import LookAlikeItems


@torch.no_grad()
def grow(
    trained: nn.Module,
    module: nn.Module,
    users: np.ndarray,
    items: np.ndarray,
    look_alikes: LookAlikeItems | None = None,
) -> None:
    """Puts the weights of ``trained`` into ``module``, of the same settings and with more rows.

    Rows by user, item or feature value go where their id or value is now, unchanged. A new row starts as what was
    learned for "unknown" (row 1): its features say the rest, where the model reads some. Where it reads none, a new
    item starts as the mean of its look-alikes. What is made of data and not learned (evidence, neighbours, counts, a
    correction) stays as the new data made it.

    Args:
        trained: the model as it was.
        module: it is changed.
        users: where each old user row is now, int; UNKNOWN: gone.
        items: the same for item rows; UNKNOWN too for those that nothing was learned of.
        look_alikes: of new items, by the new rows; None: all start as unknown.

    Raises:
        ValueError: the models are of other kinds or sizes.
    """
    before, now = dict(trained.named_parameters()), dict(module.named_parameters())
    if differing := sorted(before.keys() ^ now.keys()):
        raise ValueError(f"only one of the two models has the weights {differing[0]!r}")
    rows, bare = _row_tables(trained, module, users, items)
    old_modules = dict(trained.named_modules())
    for name, part in module.named_modules():
        if not list(part.parameters(recurse=False)):
            continue
        theirs = old_modules[name]
        if id(part) in rows:
            table = cast(nn.Embedding, part).weight
            old = cast(nn.Embedding, theirs).weight.to(table.device)
            _check(f"{name}.weight", old.shape[1:], table.shape[1:])
            moved = torch.from_numpy(rows[id(part)]).long().to(table.device)
            table[:] = old[UNKNOWN]
            kept = (moved != UNKNOWN) | (torch.arange(len(moved), device=table.device) == UNKNOWN)
            table[moved[kept]] = old[kept]
            if id(part) in bare and look_alikes is not None:
                look_alikes.lend(table)
            continue
        # Running statistics of a normalisation are learned too: buffers beside parameters.
        for key, value in (*part.named_parameters(recurse=False), *part.named_buffers(recurse=False)):
            if key not in part._non_persistent_buffers_set:
                old_value = cast(Tensor, getattr(theirs, key))
                _check(f"{name}.{key}", old_value.shape, value.shape)
                value.copy_(old_value)


def _row_tables(
    trained: nn.Module, module: nn.Module, users: np.ndarray, items: np.ndarray
) -> tuple[dict[int, np.ndarray], set[int]]:
    """Where the rows of each table by user, item or feature value are now; and the items' tables without features."""
    user_tables, item_tables = module.id_tables() if isinstance(module, HasIdTables) else ((), ())
    rows = {id(table): users for table in user_tables} | {id(table): items for table in item_tables}
    bare, old_modules = {id(table) for table in item_tables}, dict(trained.named_modules())
    for name, part in module.named_modules():
        if isinstance(part, EntityFields) and len(part.columns):
            bare -= {id(part.id)}
        if isinstance(part, CategoricalField | MultiField):
            theirs = old_modules.get(name)
            if not isinstance(theirs, type(part)) or theirs.vocabulary is None or part.vocabulary is None:
                raise ValueError(f"{name}: the two models read other features")
            rows[id(part.embedding)] = theirs.vocabulary.rows_in(part.vocabulary)
    return rows, bare


def _check(name: str, old: torch.Size, new: torch.Size) -> None:
    if old != new:
        raise ValueError(f"the weights {name!r} are {list(old)} in the one model and {list(new)} in the other")
