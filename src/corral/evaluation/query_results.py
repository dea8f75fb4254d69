"""Results gathered batch by batch: one number a query and metric, one rank a target and list.

Shape letters: Q queries of all batches, n targets.
"""

from __future__ import annotations

import numpy as np

from corral.evaluation.stage_metrics import BatchMetrics


class QueryResults:
    """Per-query and per-target arrays of all batches, in the order of the targets."""

    def __init__(self, n_queries: int) -> None:
        self.per_query: dict[str, np.ndarray] = {}
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = {}
        self._judged = np.zeros(n_queries, dtype=bool)
        self._targets: list[dict[str, np.ndarray]] = []
        self.queries = {name: np.zeros(n_queries, np.int64) for name in ("user", "event", "time", "targets")}
        self.queries["history"] = np.zeros(n_queries, np.int32)
        self.queries["cold_user"] = np.zeros(n_queries, bool)

    def add(self, batch: BatchMetrics, user_counts: np.ndarray | None) -> None:
        """Takes a batch's results to the CPU and forgets the batch."""
        scored, index = batch.scored, batch.scored.batch.index
        if self._judged[index].any() or len(np.unique(index)) != len(index):
            raise ValueError("evaluate: the targets gave a query twice")
        self._judged[index] = True
        for name, tensor in batch.values.items():
            value = tensor.double().cpu().numpy()
            known = value[~np.isnan(value)]
            if name not in self.per_query:
                self.per_query[name] = np.full(len(self._judged), np.nan, np.float32)
            self.per_query[name][index] = value
            self._sums[name] = self._sums.get(name, 0.0) + float(known.sum())
            self._counts[name] = self._counts.get(name, 0) + len(known)
        query = scored.query
        user, length = query.user.cpu().numpy(), (scored.batch.had != 0).sum(dim=1).numpy()
        cold = length == 0 if user_counts is None else (user < 2) | (user_counts[user] == 0)
        columns = {
            "user": user,
            "event": query.event.cpu().numpy(),
            "time": query.time.cpu().numpy(),
            "targets": batch.n_relevant.cpu().numpy(),
            "history": length,
            "cold_user": cold,
        }
        for name, column in columns.items():
            self.queries[name][index] = column
        ranks = {name: rank.cpu().numpy().astype(np.int32) for name, rank in batch.ranks.items()}
        owner, item = scored.owner.cpu().numpy(), scored.target.cpu().numpy()
        self._targets.append({"query": index[owner].astype(np.int64), "item": item, **ranks})

    def means(self) -> dict[str, float]:
        """Mean of each metric over the queries that have it; NaN where none has."""
        return {
            name: self._sums[name] / self._counts[name] if self._counts[name] else float("nan")
            for name in self.per_query
        }

    def targets(self) -> dict[str, np.ndarray]:
        """Arrays of all targets [n], queries in order.

        Raises:
            ValueError: a query was not judged.
        """
        if not self._judged.all():
            raise ValueError(f"evaluate: the targets gave {self._judged.sum()} of {len(self._judged)} queries")
        joined = {name: np.concatenate([part[name] for part in self._targets]) for name in self._targets[0]}
        order = np.argsort(joined["query"], kind="stable")
        return {name: values[order] for name, values in joined.items()}
