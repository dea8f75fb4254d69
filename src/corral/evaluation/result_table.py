"""query_table and target_table: an evaluation's results as frames with external ids, one row a query or a target."""

from __future__ import annotations

import polars as pl

from corral.data.vocabulary import Vocabulary
from corral.evaluation.result import Evaluation


def query_table(evaluation: Evaluation, users: Vocabulary) -> pl.DataFrame:
    """One row a query: ``query``, ``user_id``, ``time``, ``targets``, ``history``, ``cold_user``, and each metric.

    Metrics without a stage (``ndcg@10``) are of the list that is served; null where a query has none.

    Args:
        evaluation: what was measured.
        users: of the data set it was measured on.
    """
    asked = evaluation.queries
    columns: dict[str, object] = {"query": range(len(evaluation)), "user_id": users.external(asked["user"])}
    columns |= {name: values for name, values in asked.items() if name not in ("user", "event")}
    frame = pl.DataFrame(columns)
    return frame.with_columns(pl.Series(name, one).fill_nan(None) for name, one in evaluation.per_query.items())


def target_table(evaluation: Evaluation, users: Vocabulary, items: Vocabulary) -> pl.DataFrame:
    """One row a target: ``query``, ``user_id``, ``item_id``, ``group``, and its rank in each list (0: not in it).

    Args:
        evaluation: what was measured.
        users: of the data set it was measured on.
        items: likewise.
    """
    targets = evaluation.targets
    who = evaluation.queries["user"][targets["query"]]
    columns: dict[str, object] = {
        "query": targets["query"],
        "user_id": users.external(who),
        "item_id": items.external(targets["item"]),
    }
    ranks = {f"rank/{name}": one for name, one in targets.items() if name not in ("query", "item", "group")}
    return pl.DataFrame({**columns, "group": targets["group"], **ranks})
