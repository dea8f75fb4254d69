"""Small event logs as columns, their queries, and what happens when the future is another one."""

from __future__ import annotations

import numpy as np
import torch

from corral.data.batches import Query

Columns = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # user, item, time, label
LENGTH = 12


def queries(log: Columns, rows: np.ndarray) -> Query:
    """The events' own queries: history strictly before."""
    user, item, time, _ = log
    history = np.zeros((len(rows), LENGTH), dtype=np.int64)
    for number, row in enumerate(rows):
        before = np.flatnonzero((user == user[row]) & (time < time[row]))
        before = before[np.argsort(time[before], kind="stable")][-LENGTH:]
        history[number, LENGTH - len(before) :] = item[before]
    tensors = [torch.from_numpy(column[rows].astype(np.int64)) for column in (user, time)]
    return Query(tensors[0], torch.from_numpy(rows), torch.from_numpy(history), tensors[1])


def another_future(log: Columns, row: int) -> Columns:
    """Whatever happens at the row's time or later is another world: labels turned round, items dealt anew."""
    user, item, time, label = (column.copy() for column in log)
    later = np.flatnonzero(time >= time[row])
    label[later] = 1 - label[later]
    mixed = later[later != row]
    item[mixed] = np.random.default_rng(row).permutation(item[mixed])
    return user, item, time, label
