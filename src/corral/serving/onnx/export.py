"""export_onnx: the models of a recommender as ONNX files, each checked against torch on real queries of the bundle.

Shape letters: B queries, N items per query, L history length.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from corral import __version__
from corral.data.atomic_directory import atomic_directory
from corral.retrieval.evaluation_mode import evaluation_mode
from corral.retrieval.retriever import pair_scores
from corral.serving.onnx.portable_models import ItemTower, PortableRanker, UserTower, evidence_parts
from corral.serving.onnx.session import Session
from corral.serving.queries import Queries
from corral.serving.recommender import TwoStageRecommender
from corral.serving.user_vectors import users_with_history

EXPORT_FILE = "export.json"
FORMAT_VERSION = 1
# Users whose queries the files are checked with.
CHECKED_USERS = 64
ROWS = (
    "Users and items are rows of the bundle's vocabularies, users.arrow and items.arrow: row 0 is padding, "
    "row 1 unknown, and row r >= 2 is the id at place r - 2."
)
MEANINGS = {
    "user": "user rows; 1 for somebody unknown",
    "history": "item rows, oldest first, padded with 0 at the front",
    "time": "of the request, in the data set's unit",
    "items": "item rows",
    "scores": "inner products of user and item vectors",
    "evidence": "what the bundle's own tables say of each pair, which only corral can look up",
    "vectors": "the score of a user and an item is the inner product of their vectors",
    "logits": "the ranker's, of each item on its own; greater is better",
}


@dataclass(frozen=True)
class ExportedModel:
    """One file.

    Attributes:
        name: of the model; the file is ``NAME.onnx``.
        part: the class it was made of.
        max_abs_difference: between ONNX Runtime and torch, over everything checked.
        queries: how many users' queries it was checked with.
    """

    name: str
    part: str
    max_abs_difference: float
    queries: int


def export_onnx(
    path: Path,
    recommender: TwoStageRecommender,
    bundle: Mapping[str, str],
    *,
    tolerance: float = 1e-4,
    overwrite: bool = False,
) -> list[ExportedModel]:
    """Writes ``user_tower.onnx``, ``item_tower.onnx``, ``ranker.onnx`` (if there is one) and ``export.json``.

    Args:
        path: the directory to make; whole or not at all.
        recommender: whose models; on the CPU.
        bundle: what it was loaded from: its version, the data's name and hash.
        tolerance: largest absolute difference that is accepted.
        overwrite: replace an older export.

    Raises:
        FileExistsError: something stands there.
        ValueError: a model cannot be exported, or does not do the same; the message names the part.
        ModuleNotFoundError: without ``corral[export]``.
    """
    import onnxscript  # noqa: F401  a missing one is told here, not by torch

    done, described = [], {}
    with (
        torch.no_grad(),
        evaluation_mode(recommender.retriever, recommender.ranker),
        atomic_directory(path, overwrite=overwrite, marker=EXPORT_FILE) as files,
    ):
        real = _RealQueries.of(recommender)
        for name, module, example, wide in _models(recommender, real):
            part = type(getattr(module, "retriever", None) or recommender.ranker).__name__
            what = f"the {name.replace('_', ' ')} ({part})"
            file = files.directory / f"{name}.onnx"
            session = _written(module, example, file, what)
            difference = _difference(module, session, wide)
            if not difference <= tolerance:
                raise ValueError(
                    f"{what}: ONNX Runtime and torch differ by {difference:.2g}, more than {tolerance:g} (--tolerance)"
                )
            queries = len(real.user)
            done.append(ExportedModel(name, part, difference, queries))
            described[name] = {
                "file": file.name,
                "part": part,
                "inputs": [{**one, "what": MEANINGS[one["name"]]} for one in session.inputs],
                "outputs": [{**one, "what": MEANINGS[one["name"]]} for one in session.outputs],
                "max_abs_difference": difference,
                "checked_queries": queries,
            }
        contents = {
            "format_version": FORMAT_VERSION,
            "corral": __version__,
            "bundle": dict(bundle),
            "rows": ROWS,
            "history_length": recommender.history_length,
            "tolerance": tolerance,
            "models": described,
            "files": {one.name: _digest(one) for one in sorted(files.directory.iterdir())},
        }
        files.text(EXPORT_FILE, json.dumps(contents, indent=1) + "\n")
    return done


@dataclass(frozen=True)
class _RealQueries:
    """Queries of the bundle's users, the last of somebody unknown, and the candidates that stage 1 finds for them."""

    user: Tensor
    history: Tensor
    time: Tensor
    items: Tensor
    scores: Tensor
    evidence: Tensor | None

    @classmethod
    def of(cls, recommender: TwoStageRecommender) -> _RealQueries:
        users = users_with_history(recommender.tables)
        rows = np.append(np.random.default_rng(0).permutation(users)[: CHECKED_USERS - 1], 1).astype(np.int64)
        queries = Queries(recommender.tables, recommender.history_length)
        query = queries.query(rows, queries.stored(rows), None, {})
        retriever = recommender.retriever
        found = recommender.index.search(retriever.encode_queries(query), recommender.num_candidates)
        scores = pair_scores(retriever.encode_queries(query), retriever.encode_items(found.items))
        known = [part(query, found.items) for part in evidence_parts(recommender.ranker)]
        evidence = torch.cat(known, -1) if known else None
        return cls(query.user, query.history, query.time, found.items, scores, evidence)

    def take(self, names: Sequence[str], queries: int, items: int) -> tuple[Tensor, ...]:
        """The inputs of these names, of the last so many queries and the first so many candidates."""
        each = {name: getattr(self, name)[-queries:] for name in names}
        return tuple(each[name][:, :items] if name in ("items", "scores", "evidence") else each[name] for name in names)


# A name, a module, inputs to trace it with, and several sets of inputs to check it with.
Model = tuple[str, nn.Module, dict[str, Tensor], list[dict[str, Tensor]]]


def _models(recommender: TwoStageRecommender, real: _RealQueries) -> Iterator[Model]:
    """The models with inputs: to trace, and to check at three sizes."""
    queries, width = real.items.shape
    sizes = [(queries, width), (1, width), (max(queries // 2, 1), max(width // 3, 1))]
    traced = (min(queries, 3), min(width, 5))

    def given(names: Sequence[str], size: tuple[int, int]) -> dict[str, Tensor]:
        return dict(zip(names, real.take(names, *size), strict=True))

    users = ["user", "history"]
    yield "user_tower", UserTower(recommender.retriever), given(users, traced), [given(users, one) for one in sizes]
    catalogue = recommender.index.items.cpu()
    parts = (catalogue[:5], catalogue[:1024], catalogue[-1:], real.items.unique())
    yield "item_tower", ItemTower(recommender.retriever), {"items": parts[0]}, [{"items": one} for one in parts[1:]]
    if isinstance(recommender.ranker, nn.Module):
        ranker = PortableRanker(recommender.ranker)
        yield "ranker", ranker, given(ranker.inputs, traced), [given(ranker.inputs, one) for one in sizes]


def _written(module: nn.Module, example: Mapping[str, Tensor], file: Path, what: str) -> Session:
    """The file, written and opened."""
    names = {"batch": torch.export.Dim("batch"), "candidates": torch.export.Dim("candidates")}
    if list(example) == ["items"]:
        axes: list[dict[int, Any]] = [{0: torch.export.Dim("items")}]
    else:
        wide = ("items", "scores", "evidence")
        axes = [
            {0: names["batch"], 1: names["candidates"]} if name in wide else {0: names["batch"]} for name in example
        ]
    shapes = (tuple(axes),) if isinstance(module, PortableRanker) else tuple(axes)
    try:
        with _quiet():
            program = torch.onnx.export(
                module.eval(),
                tuple(example.values()),
                dynamo=True,
                dynamic_shapes=shapes,
                input_names=list(example),
                output_names=["logits" if isinstance(module, PortableRanker) else "vectors"],
                verbose=False,
            )
            assert program is not None
            graph = program.model.graph
            for one in list(graph.inputs):
                if not list(one.uses()):  # whoever asks need not bring what is not read
                    graph.inputs.remove(one)
            program.save(file)
            session = Session(file)
        fixed = [one for one in session.inputs if isinstance(one["shape"][0], int)]
        if fixed:
            raise ValueError(f"its {fixed[0]['name']} would have to come {fixed[0]['shape'][0]} at a time")
        return session
    except Exception as error:  # exporter and runtime raise a dozen kinds of their own
        lines = [line for line in str(error).splitlines() if line.strip()]
        reason = next((line for line in lines if line.startswith("<class")), lines[0] if lines else "")
        raise ValueError(f"{what} cannot be exported to ONNX; serve it with torch. {reason[:300]}") from error


def _difference(module: nn.Module, session: Session, sets: Sequence[Mapping[str, Tensor]]) -> float:
    """The largest absolute difference to torch."""
    return max(float((module(*given.values()) - session(given)).abs().max()) for given in sets)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's own remarks, which fill pages."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        # What fails to be traced, torch prints as a whole program.
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _digest(path: Path) -> dict[str, Any]:
    with path.open("rb") as stream:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(stream, "sha256").hexdigest()}
