"""Evaluation: what one system earned on one set of targets, and the protocol it was judged by."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from corral.data.json_file import TRAIN_AGAIN, read_json

FORMAT_VERSION = 1


class Stage(StrEnum):
    """The list that is served, and the prefix of its metrics."""

    RETRIEVER = "retriever"
    RANKER = "ranker"
    FUSED = "fused"


@dataclass(frozen=True)
class Evaluation:
    """Results of :func:`corral.evaluation.evaluate.evaluate`.

    Attributes:
        metrics: means by name; those without a stage (``ndcg@10``) are of the list that is served.
        per_query: the same metrics of each query, float32 [Q], in the order of the targets; NaN where a
            query has none (an order given candidates that hold no target).
        queries: of each query [Q]: ``user`` and ``event`` rows, ``time``, ``targets`` (how many),
            ``history`` (events before it, 200 at most), ``cold_user`` (bool).
        targets: of each target [n], queries in order: ``query`` (0..Q-1), ``item`` row, ``group`` (0 cold,
            1 tail, 2 mid, 3 head, -1 unknown) and its rank in each list (``retriever``, ``ranker``, ...:
            1 = first, 0 = not in it).
        protocol: the rules of the judging; two runs may be compared where they agree (seeds aside).
        system: what was judged: channel, num_candidates, mixture weight, what is served, list lengths.
        seconds: where the time went.
    """

    metrics: dict[str, float]
    per_query: dict[str, np.ndarray]
    queries: dict[str, np.ndarray]
    targets: dict[str, np.ndarray]
    protocol: dict[str, object]
    system: dict[str, object]
    seconds: dict[str, float] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.queries["user"])

    def __repr__(self) -> str:
        value = self.metrics.get("ndcg@10")
        said = "" if value is None else f", served nDCG@10 {value:.4f}"
        return f"Evaluation({len(self):,} queries of {self.protocol.get('dataset', 'no named data')}{said})"

    def _repr_html_(self) -> str:
        # The table is made of evaluations, so it comes after them.
        from corral.evaluation.funnel_table import funnel_html

        return funnel_html(self)

    @property
    def served(self) -> Stage:
        """The stage whose list is served."""
        return Stage(str(self.system["serve_by"]))

    @property
    def num_candidates(self) -> int:
        """N, how many items stage 1 hands to stage 2."""
        return int(str(self.system["num_candidates"]))

    def save(self, directory: Path) -> None:
        """Writes ``evaluation.json`` and ``evaluation.npz`` (no pickle), each whole or not at all."""
        directory.mkdir(parents=True, exist_ok=True)
        prefix = f"{self.served}/"
        arrays = {
            f"{kind}:{name}": values
            for kind, group in (("query", self.queries), ("target", self.targets), ("metric", self.per_query))
            for name, values in group.items()
            # What is served repeats one stage's arrays: written once, restored by open.
            if not (kind == "metric" and prefix + name in self.per_query)
        }
        header = {
            "format_version": FORMAT_VERSION,
            "metrics": {name: None if np.isnan(value) else value for name, value in self.metrics.items()},
            "protocol": self.protocol,
            "system": self.system,
            "seconds": self.seconds,
        }
        temporary = directory / f"evaluation.npz.{os.getpid()}"
        with temporary.open("wb") as file:
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
        temporary.replace(directory / "evaluation.npz")
        temporary = directory / f"evaluation.json.{os.getpid()}"
        temporary.write_text(json.dumps(header, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        temporary.replace(directory / "evaluation.json")

    @classmethod
    def open(cls, directory: Path) -> Evaluation:
        """Reads what :meth:`save` wrote.

        Raises:
            ValueError: damaged, or written by a newer version.
        """
        path = directory / "evaluation.json"
        header = read_json(path)
        if header["format_version"] > FORMAT_VERSION:
            raise ValueError(f"{path}: format {header['format_version']}, this version reads {FORMAT_VERSION}")
        groups: dict[str, dict[str, np.ndarray]] = {"query": {}, "target": {}, "metric": {}}
        path = directory / "evaluation.npz"
        try:
            with np.load(path, allow_pickle=False) as arrays:
                for key in arrays.files:
                    kind, name = key.split(":", 1)
                    groups[kind][name] = arrays[key]
        except (ValueError, KeyError, EOFError, BadZipFile, zlib.error) as error:
            raise ValueError(f"{path}: damaged ({error}); {TRAIN_AGAIN}") from error
        per_query = groups["metric"]
        prefix = f"{header['system']['serve_by']}/"
        served = {name.removeprefix(prefix): values for name, values in per_query.items() if name.startswith(prefix)}
        return cls(
            {name: float("nan") if value is None else value for name, value in header["metrics"].items()},
            {**per_query, **{name: values for name, values in served.items() if name in header["metrics"]}},
            groups["query"],
            groups["target"],
            header["protocol"],
            header["system"],
            header["seconds"],
        )


# As of when a system's inputs are looked up: to read such an input or not is a difference of systems, not of rules.
INPUT_RULES = frozenset({"as_of_rule", "rar_rule", "behaviour_rule", "similar_rows_rule"})


def differing_rules(first: Mapping[str, object], second: Mapping[str, object]) -> list[str]:
    """Names of the rules two protocols do not share; seeds are none.

    Inputs' rules are where both have such an input, by their kind: how many blocks of time there are is a setting.
    """
    both = set(first) & set(second)
    names = sorted((set(first) | set(second)) - {"seed", "seeds"} - (INPUT_RULES - both))
    return [name for name in names if _rule(name, first) != _rule(name, second)]


def _rule(name: str, protocol: Mapping[str, object]) -> object:
    said = protocol.get(name)
    return str(said).split(":")[0] if name in INPUT_RULES else said
