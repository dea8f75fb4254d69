"""add_items: items that came after training, recommended by their features, without training again."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any, cast

import numpy as np
import polars as pl
import pyarrow as pa
import torch
from torch import Tensor, nn

from corral.data.features import FeatureColumn, FeatureKind, FeatureTable
from corral.data.vocabulary import FIRST_ROW, PADDING, UNKNOWN, Vocabulary
from corral.ranking.evidence import HoldsItemRows
from corral.retrieval.popularity import PopularityChannel
from corral.serving.bundle import Builder
from corral.serving.histories import UserHistories
from corral.serving.item_index import item_vectors, served_index
from corral.serving.queries import Queries
from corral.serving.recommender import TwoStageRecommender
from corral.serving.serving_tables import ServingTables


def add_items(recommender: TwoStageRecommender, new_items: pl.DataFrame, build: Builder) -> TwoStageRecommender:
    """A recommender whose catalogue also has new items; the one given stays as it is.

    The parts are built again for the longer catalogue, with the trained weights. In tables by item row a new
    item gets the weights of the unknown item (row 1), so only its features tell it from others: a retriever
    that knows items by their id alone cannot place it, and is refused. A feature value not seen in training
    counts as unknown, a missing one as missing. Known items keep their scores. The index is built by
    the recommender's rule.

    Args:
        recommender: with ``specs``.
        new_items: ``item_id`` (new, unique), and feature columns by the names of the catalogue's; columns
            left out are missing values.
        build: makes the parts from their specs and the longer tables.

    Raises:
        ValueError: an id is known already, from the train part or from later events, or repeated; a column is unknown
            or of another kind; a spec is missing; or the retriever does not use item features.
    """
    old = recommender.tables
    items = _longer_vocabulary(old.items, new_items, recommender.index.items)
    # where the rows of the old catalogue went
    moved = np.arange(len(old.items))
    moved[FIRST_ROW:] = items.rows(old.items.ids)
    features = _longer_features(old.item_features, new_items, items, moved)
    histories = UserHistories(moved[old.histories.items].astype(np.int32), old.histories.offsets, old.histories.as_of)
    tables = ServingTables(old.users, items, old.user_features, features, histories)
    rebuilt: dict[str, Any] = {}
    for name in ("retriever", "ranker"):
        part = getattr(recommender, name)
        if part is None:
            continue
        if name not in recommender.specs or not isinstance(part, nn.Module):
            raise ValueError(f"the recommender does not say how to build its {name}: pass specs")
        module = build(recommender.specs[name], tables).to(recommender.device).eval()
        part = _with_longer_tables(part, module, torch.from_numpy(moved), features)
        module.load_state_dict(_longer_weights(part, module, moved, len(items)))
        rebuilt[name] = module
    new_rows = torch.from_numpy(items.rows(new_items["item_id"]).astype(np.int64))
    indexed = torch.from_numpy(moved)[recommender.index.items.cpu()]
    rows = torch.cat([indexed, new_rows]).sort().values
    added = item_vectors(rebuilt["retriever"], new_rows, recommender.device)
    if torch.allclose(added, item_vectors(rebuilt["retriever"], torch.tensor([UNKNOWN]), recommender.device)):
        raise ValueError(
            f"the {type(rebuilt['retriever']).__name__} knows items by their id alone, or the new items have "
            "no feature it was trained with, so it cannot tell them apart: use a retriever with item "
            "features (two_tower), or train again with events of the new items"
        )
    rule, queries = recommender.index_rule, Queries(tables, recommender.history_length)
    index = served_index(rule, queries, rebuilt["retriever"], rows, recommender.num_candidates, recommender.device)
    counts = torch.zeros(len(items))
    counts[torch.from_numpy(moved)] = recommender.popularity.counts.cpu()
    return TwoStageRecommender(
        tables,
        rebuilt["retriever"],
        index,
        PopularityChannel(counts, name=recommender.popularity.name),
        ranker=rebuilt.get("ranker"),
        mixture=recommender.mixture,
        calibration=recommender.calibration,
        num_candidates=recommender.num_candidates,
        serve_by=recommender.serve_by,
        history_length=recommender.history_length,
        repeats=recommender.repeats,
        batch_size=recommender.batch_size,
        index_rule=rule,
        specs=recommender.specs,
    )


def _with_longer_tables(part: nn.Module, module: nn.Module, moved: Tensor, items: FeatureTable) -> nn.Module:
    """The trained part with its tables renumbered, and the same tables in the newly built module.

    They hold item rows as values, not one row per item: new weights would not do.

    Args:
        part: trained; it stays as it is.
        module: built for the longer catalogue.
        moved: where each item row went.
        items: features by the new rows.
    """
    part, done = copy.deepcopy(part), ""
    for name, table in list(part.named_modules()):
        # What is within such a part it renumbers itself.
        if isinstance(table, HoldsItemRows) and not (done and name.startswith(done)):
            table.renumber(moved, items)
            module.set_submodule(name, cast(nn.Module, table))
            done = f"{name}."
    return part


def _longer_vocabulary(items: Vocabulary, new_items: pl.DataFrame, catalogue: Tensor) -> Vocabulary:
    """The old and the new ids, checked; ``catalogue`` are the rows that are served."""
    if "item_id" not in new_items.columns:
        raise ValueError(f"new items need a column item_id, got {new_items.columns}")
    ids = new_items["item_id"]
    if not len(ids) or ids.null_count():
        raise ValueError("new items: there are none, or an item_id is null")
    repeated = ids.filter(ids.is_duplicated())
    if len(repeated):
        raise ValueError(f"new items: item_id {repeated[0]!r} comes twice")
    rows = items.rows(ids)
    for number in (rows != UNKNOWN).nonzero()[0][:1].tolist():
        why = "is in the catalogue already"
        if not (catalogue == int(rows[number])).any():
            why = "has events after the train part alone: train on those (corral train --from RUN)"
        raise ValueError(f"new items: item_id {ids[number]!r} {why}")
    added = pl.Series(ids.to_list(), dtype=pl.Int64 if items.id_type == "int64" else pl.String)
    return Vocabulary.of(pl.concat([pl.Series(items.ids.to_pylist(), dtype=added.dtype), added]))


def _longer_weights(part: nn.Module, module: nn.Module, moved: np.ndarray, rows: int) -> dict[str, Tensor]:
    """The trained weights, tables by item row made longer.

    Which tables are by item row, the newly built module says: their first size has become another.
    """
    weights = {}
    wanted = module.state_dict()
    for name, trained in part.state_dict().items():
        target = wanted[name]
        if target.shape == trained.shape:
            weights[name] = trained
            continue
        if target.shape != (rows, *trained.shape[1:]):
            raise ValueError(
                f"the {type(part).__name__} built for {rows} item rows has {name} {list(target.shape)}, "
                f"the trained one {list(trained.shape)}: it cannot be made longer"
            )
        longer = trained[UNKNOWN].expand(target.shape).clone()
        longer[torch.from_numpy(moved).to(trained.device)] = trained
        weights[name] = longer
    return weights


def _longer_features(
    table: FeatureTable, new_items: pl.DataFrame, items: Vocabulary, moved: np.ndarray
) -> FeatureTable:
    """The feature table by the new rows; the codes stay those of training."""
    extra = [name for name in new_items.columns if name != "item_id" and name not in table.columns]
    if extra:
        raise ValueError(f"new items: the catalogue has no feature {extra[0]!r}; it has {list(table.columns)}")
    place = items.rows(new_items["item_id"])
    columns = {}
    for name, column in table.columns.items():
        values = new_items[name] if name in new_items.columns else pl.Series([None] * len(new_items))
        try:
            columns[name] = _longer_column(column, values, place, moved, len(items))
        except (ValueError, pl.exceptions.PolarsError) as error:
            raise ValueError(f"new items: feature {name!r} ({column.kind.value}): {error}") from error
    return FeatureTable(len(items), columns)


def _longer_column(
    column: FeatureColumn, values: pl.Series, place: np.ndarray, moved: np.ndarray, rows: int
) -> FeatureColumn:
    """One column by the new rows.

    Args:
        column: by the old rows.
        values: of the new items.
        place: the new items' rows.
        moved: the old rows' new rows.
        rows: number of rows.
    """
    if column.kind is FeatureKind.TEXT:
        texts = np.full(rows, "", dtype=object)
        assert column.texts is not None
        texts[moved] = column.texts.to_pylist()
        texts[place] = values.cast(pl.String).fill_null("").to_list()
        return replace(column, texts=pl.Series(texts.tolist(), dtype=pl.String).to_arrow().cast(pa.large_string()))
    if column.kind is FeatureKind.NUMERIC:
        numbers = np.full(rows, np.nan, dtype=np.float32)
        numbers[moved] = column.values
        numbers[place] = values.cast(pl.Float32).fill_null(np.nan).to_numpy()
        return replace(column, values=numbers)
    assert column.vocabulary is not None
    if column.kind is FeatureKind.CATEGORICAL:
        codes = np.full(rows, PADDING, dtype=np.int32)
        codes[moved] = column.values
        codes[place] = _codes(column.vocabulary, values)
        return replace(column, values=codes)
    assert column.offsets is not None
    lists = values.cast(pl.List(pl.String if column.vocabulary.id_type == "string" else pl.Int64))
    lists = lists.list.drop_nulls()
    added = lists.list.len().fill_null(0).to_numpy().astype(np.int64)
    lengths = np.zeros(rows, dtype=np.int64)
    lengths[moved] = np.diff(column.offsets)
    lengths[place] = added
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    codes = np.empty(offsets[-1], dtype=np.int32)
    _scatter(codes, offsets, moved, np.diff(column.offsets), column.values)
    flat = lists.filter(pl.Series(added > 0)).explode()
    _scatter(codes, offsets, place, added, _codes(column.vocabulary, flat))
    return replace(column, values=codes, offsets=offsets)


def _codes(vocabulary: Vocabulary, values: pl.Series) -> np.ndarray:
    """Codes of values: PADDING (missing) for null and "", UNKNOWN for a value first seen here."""
    values = values.cast(pl.String if vocabulary.id_type == "string" else pl.Int64)
    if values.dtype == pl.String:
        values = values.set(values == "", None)
    return np.where(values.is_null().to_numpy(), PADDING, vocabulary.rows(values)).astype(np.int32)


def _scatter(
    target: np.ndarray, offsets: np.ndarray, rows: np.ndarray, lengths: np.ndarray, values: np.ndarray
) -> None:
    """Write pieces of ``values`` (of these lengths, one after the other) where ``offsets`` has ``rows``."""
    within = np.arange(len(values)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    target[np.repeat(offsets[rows], lengths) + within] = values
