"""evaluate: each stage and the whole funnel, over the full catalogue, in one pass over the targets.

Shape letters: B queries, Q queries of all batches, T recalled items, N candidates, n targets.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from corral.data.targets import Targets
from corral.evaluation.funnel import Funnel, RankerCall
from corral.evaluation.list_metrics import ListStatistics, popularity_groups
from corral.evaluation.mixture import Mixture
from corral.evaluation.query_results import QueryResults
from corral.evaluation.result import Evaluation, Stage
from corral.evaluation.stage_metrics import BatchMetrics
from corral.retrieval.channels import RecallChannel

CUTOFFS: tuple[int, ...] = (5, 10, 20, 50, 100)
RECALL_CUTOFFS: tuple[int, ...] = (10, 50, 100, 200, 500)
TIE_RULE = "score descending, then item row ascending"


def evaluate(
    targets: Targets,
    channel: RecallChannel,
    *,
    ranker: RankerCall | None = None,
    num_candidates: int = 100,
    mixture: Mixture | None = None,
    serve_by: Stage | None = None,
    cutoffs: Sequence[int] = CUTOFFS,
    recall_cutoffs: Sequence[int] = RECALL_CUTOFFS,
    list_cutoff: int = 10,
    item_counts: np.ndarray | None = None,
    user_counts: np.ndarray | None = None,
    catalogue: np.ndarray | None = None,
    protocol: Mapping[str, object] | None = None,
    oracle_retriever: bool = True,
    batch_size: int = 512,
    device: torch.device | str = "cpu",
) -> Evaluation:
    """Measures stage 1, stage 2, their mixture and the list that is served.

    Args:
        targets: queries and the items that were then clicked.
        channel: stage 1.
        ranker: stage 2, ``ranker(query, items [B, N]) -> logits [B, N]``; None judges stage 1 alone.
        num_candidates: N, how many items stage 1 hands to stage 2.
        mixture: the fused score, tuned on **other** targets (``mixture.tune_mixture`` on validation).
        serve_by: whose list is served; by default the ranker's, the retriever's where there is no ranker.
        cutoffs: k of nDCG, recall, hit, MRR and MAP.
        recall_cutoffs: k of the retriever's recall, the ceiling; N is always among them.
        list_cutoff: k of coverage, Gini, novelty and popularity bias of the served list.
        item_counts: train events of each item row [M]; None leaves out what needs them.
        user_counts: train events of each user row, for cold users; None: those without a history.
        catalogue: item rows that stage 1 can recommend; None: all real rows of ``item_counts``.
        protocol: rules of the judging (split, filters, repeats, data hash, seeds ...), JSON values;
            what is counted here is added.
        oracle_retriever: also rank the targets stage 1 missed (one more ranker call for those queries).
        batch_size: queries at a time; memory grows with it, not with Q x M.
        device: where both stages live.

    Returns:
        Means and per-query values by name; see docs/concepts/metrics.md.

    Raises:
        ValueError: no targets, a served stage that is not there, or lists that are none.
    """
    start = time.perf_counter()
    served = serve_by or (Stage.RETRIEVER if ranker is None else Stage.RANKER)
    if ranker is None and (mixture is not None or served is not Stage.RETRIEVER):
        raise ValueError(f"evaluate: a mixture or serve_by={served.value!r} needs a ranker")
    if served is Stage.FUSED and mixture is None:
        raise ValueError("evaluate: serve_by='fused' needs a mixture (tune it on validation targets)")
    if len(targets) == 0:
        raise ValueError("evaluate: there are no targets; the part is empty or all its events are repeats")
    for k in (*cutoffs, *recall_cutoffs, list_cutoff):
        if k < 1:
            raise ValueError(f"evaluate: cutoff {k}, must be at least 1")
    in_catalogue = _catalogue_mask(item_counts, catalogue)
    statistics = None
    if item_counts is not None and in_catalogue is not None:
        statistics = ListStatistics(item_counts, in_catalogue, list_cutoff)
    recall_cutoffs = sorted({*recall_cutoffs, num_candidates})
    depth = max(*recall_cutoffs, *cutoffs, list_cutoff)
    funnel = Funnel(channel, ranker, num_candidates)
    collected = QueryResults(len(targets))
    for scored in funnel.run(targets, depth, batch_size, device):
        batch = BatchMetrics(scored, sorted(set(cutoffs)), recall_cutoffs)
        lists = batch.judge_stages(mixture)
        if oracle_retriever and ranker is not None:
            batch.judge_oracle_retriever(funnel)
        if statistics is not None:
            batch.values.update(statistics.update(lists[served], scored.batch.had))
        collected.add(batch, user_counts)
    arrays = collected.targets()
    groups = None
    if item_counts is not None and in_catalogue is not None:
        groups = popularity_groups(item_counts, in_catalogue)
    arrays["group"] = np.full(len(arrays["item"]), -1, np.int8) if groups is None else groups[arrays["item"]]
    prefix = f"{served}/"
    metrics, per_query = collected.means(), collected.per_query
    for name in [name for name in per_query if name.startswith(prefix)]:
        metrics[name.removeprefix(prefix)] = metrics[name]
        per_query[name.removeprefix(prefix)] = per_query[name]
    if statistics is not None:
        metrics.update(statistics.summary())
    return Evaluation(
        metrics=metrics,
        per_query=per_query,
        queries=collected.queries,
        targets=arrays,
        protocol={
            **(protocol or {}),
            "queries": len(targets),
            "targets": len(arrays["item"]),
            "queries_hash": _queries_hash(collected.queries, arrays),
            "catalogue_size": None if in_catalogue is None else int(in_catalogue.sum()),
            "targets_outside_catalogue": _outside(arrays["item"], in_catalogue),
            "cold_targets": None if groups is None else int((arrays["group"] == 0).sum()),
            "cold_user_queries": int(collected.queries["cold_user"].sum()),
            "candidates_judged": "full catalogue",
            "ties": TIE_RULE,
        },
        system={
            "channel": channel.name,
            "ranker": None if ranker is None else type(ranker).__name__,
            "num_candidates": num_candidates,
            "mixture_weight": None if mixture is None else mixture.weight,
            "serve_by": served.value,
        },
        seconds={**funnel.seconds, "total": time.perf_counter() - start},
    )


def _catalogue_mask(item_counts: np.ndarray | None, catalogue: np.ndarray | None) -> np.ndarray | None:
    """Which item rows may be recommended [M], or None where nobody said."""
    if item_counts is None and catalogue is None:
        return None
    if catalogue is None:
        assert item_counts is not None
        return np.arange(len(item_counts)) >= 2
    size = len(item_counts) if item_counts is not None else int(np.max(catalogue, initial=1)) + 1
    mask = np.zeros(size, dtype=bool)
    if len(catalogue) and (np.min(catalogue) < 2 or np.max(catalogue) >= size):
        raise ValueError(f"evaluate: catalogue rows must lie in 2..{size - 1}")
    mask[catalogue] = True
    return mask


def _outside(items: np.ndarray, in_catalogue: np.ndarray | None) -> int:
    """How many targets no list can hold."""
    if in_catalogue is None:
        return int((items < 2).sum())
    return len(items) - int(in_catalogue[items[items < len(in_catalogue)]].sum())


def _queries_hash(queries: Mapping[str, np.ndarray], targets: Mapping[str, np.ndarray]) -> str:
    """A short hash of who was asked, when, and what was right."""
    digest = hashlib.sha256()
    for values in (queries["user"], queries["time"], targets["query"], targets["item"]):
        digest.update(np.ascontiguousarray(values, dtype="<i8").tobytes())
    return digest.hexdigest()[:16]
