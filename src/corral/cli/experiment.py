"""One experiment in a run directory: data, split, stage 1, stage 2, mixture; every phase resumes where it was."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from rich.console import Console
from torch import Tensor, nn

from corral import __version__
from corral.cli import build
from corral.cli.progress import progress
from corral.data.dataset import Dataset
from corral.data.event_loader import EventLoader
from corral.data.examples import Examples
from corral.data.sequence_loader import SequenceLoader
from corral.data.split import Part, Split
from corral.data.targets import TargetBatch, Targets, targets
from corral.evaluation.click_metrics import click_metrics
from corral.evaluation.evaluate import evaluate
from corral.evaluation.funnel import Funnel, evaluation_mode
from corral.evaluation.metrics import list_metrics, ranks_by_score, relevant_counts
from corral.evaluation.mixture import MixtureTuning, tune_mixture
from corral.retrieval.channels import ColdStartChannel, RetrieverChannel
from corral.retrieval.cold_ids import HasIdTables, share_unknown
from corral.retrieval.index import ExactIndex
from corral.retrieval.popularity import PopularityChannel
from corral.retrieval.retriever import CausalRetriever
from corral.settings import Settings, TrainingSettings, dump_settings, load_settings
from corral.training.fit import FitState, Loader, fit
from corral.training.optimizers import RowWiseAdam, warmup_constant, warmup_cosine
from corral.training.ranking_objectives import BinaryRankingObjective, ClickObjective, SoftmaxRankingObjective
from corral.training.retrieval_objectives import FullSoftmaxObjective, InBatchObjective, SampledSoftmaxObjective
from corral.training.tensorboard import tensorboard_writer

SETTINGS_FILE, DATA_FILE, MANIFEST_FILE = "settings.yaml", "data_hash.txt", "manifest.json"
Validate = Callable[[], Mapping[str, float]]


def write_text(path: Path, text: str) -> None:
    """Writes a small file whole or not at all."""
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


@dataclass(frozen=True)
class Experiment:
    """The parts that every phase needs, made from settings; models are seeded by ``settings.seed``.

    Attributes:
        settings: all of them.
        directory: the run directory.
        dataset: the events.
        split: their parts.
        quiet: no progress bars.
    """

    settings: Settings
    directory: Path
    dataset: Dataset
    split: Split
    quiet: bool = False

    @classmethod
    def start(cls, settings: Settings, directory: Path, *, quiet: bool = False) -> Experiment:
        """A new run, or one that goes on, in ``directory``.

        Raises:
            ValueError: the directory holds a run with other settings.
        """
        path = directory / SETTINGS_FILE
        if path.exists() and load_settings(path.read_text(encoding="utf-8"), str(path)) != settings:
            raise ValueError(f"{directory}: holds a run with other settings; choose another directory with --run")
        with progress("Data", quiet=quiet):
            dataset = build.open_data(settings.data)
            split = build.make_split(dataset, settings.split)
        experiment = cls(settings, directory, dataset, split, quiet)
        # What is wrong with labels should be known before stage 1 has trained for an hour.
        if experiment.has_clicks and settings.ranker_training.metric.startswith("ndcg"):
            raise ValueError(
                "ranker_training.loss=clicks is judged by clicks: set ranker_training.metric=auc (or gauc)"
            )
        trained_on = directory / DATA_FILE
        if trained_on.exists() and trained_on.read_text(encoding="utf-8").strip() != dataset.hash:
            raise ValueError(f"{directory}: was trained on other data than {dataset.name} holds now; use another --run")
        if split.warning:
            Console(stderr=True, soft_wrap=True).print(f"Note: {split.warning}", style="yellow")
        if not path.exists():
            directory.mkdir(parents=True, exist_ok=True)
            write_text(trained_on, dataset.hash + "\n")
            write_text(path, dump_settings(settings))
        if settings.threads:
            torch.set_num_threads(settings.threads)
        return experiment

    @classmethod
    def open(cls, directory: Path, *, quiet: bool = False) -> Experiment:
        """A run that was started before.

        Raises:
            ValueError: there is none.
        """
        path = directory / SETTINGS_FILE
        if not path.is_file():
            raise ValueError(f"{directory}: no run (no {SETTINGS_FILE}); make one with corral train")
        return cls.start(load_settings(path.read_text(encoding="utf-8"), str(path)), directory, quiet=quiet)

    @cached_property
    def device(self) -> torch.device:
        """Where models live."""
        return build.choose_device(self.settings.device)

    @cached_property
    def counts(self) -> np.ndarray:
        """Train events by item row."""
        return self.split.train_counts(self.dataset)

    @cached_property
    def catalogue(self) -> Tensor:
        """Item rows with a train event [M]."""
        return torch.from_numpy(self.split.catalogue(self.dataset))

    @cached_property
    def history_length(self) -> int:
        """L of the queries: the longest that a stage reads."""
        retriever, ranker = self.settings.retriever, self.settings.ranker
        lengths = [getattr(retriever, name, 0) for name in ("max_length", "history_length")]
        return max(*lengths, ranker.history_length if ranker else 0, 1)

    @cached_property
    def specs(self) -> dict[str, dict[str, Any]]:
        """How to build the models again: JSON values, kept in the bundle."""
        scales = build.scale_specs(self.dataset, self.split)
        sampled = self.settings.retriever_training.loss != "full-softmax"
        retriever = self.settings.retriever.model_dump(mode="json")
        specs = {"retriever": {**retriever, "sparse": sampled, **scales}}
        if self.settings.ranker:
            specs["ranker"] = {**self.settings.ranker.model_dump(mode="json"), **scales}
        return specs

    def targets(self, part: Part) -> Targets:
        """Queries and targets of a part."""
        return targets(
            self.dataset,
            self.split,
            part,
            history_length=self.history_length,
            repeats=self.settings.split.repeats,
        )

    @cached_property
    def validation(self) -> Targets:
        """The queries that early stopping and the mixture look at."""
        return self.targets(Part.VALID)

    @cached_property
    def labels(self) -> np.ndarray | None:
        """Click labels of all events, where the recipe says what a click is; None: every event is one."""
        mark = self.settings.ranker_training.label_at_least
        if mark is None:
            return None
        if self.dataset.events.value is None:
            raise ValueError("ranker_training.label_at_least: the data set has no value column")
        return (np.asarray(self.dataset.events.value) >= mark).astype(np.float32)

    @property
    def has_clicks(self) -> bool:
        """Whether the ranker learns from labels, so that click metrics and probabilities mean something."""
        if self.settings.ranker is None or self.settings.ranker_training.loss != "clicks":
            return False
        if self.labels is None and self.dataset.impressions is None:
            raise ValueError(
                "ranker_training.loss=clicks needs events that were not clicked: impressions in the data set, or "
                "ranker_training.label_at_least, the value from which on an event counts as a click"
            )
        return True

    def protocol(self) -> dict[str, object]:
        """The rules that are printed beside every result."""
        data, split = self.settings.data, self.split
        return {
            "dataset": self.dataset.name,
            "data_hash": self.dataset.hash,
            "filters": f"as the Dataset was made: {self.dataset.header.counts.filtered_events} events left out"
            if data.path is not None
            else f"users >= {data.min_user_events} events, items >= {data.min_item_events}, over the whole log"
            + (", iterated" if data.iterate else ""),
            "split": split.name,
            **split.facts,
            **({"warning": split.warning} if split.warning else {}),
            "history_rule": split.history_rule.value,
            "repeats": "recommended and counted" if self.settings.split.repeats else "left out of lists and targets",
            "catalogue": "items with a train event",
            "seed": self.settings.seed,
        }

    # Stage 1

    def retriever(self) -> nn.Module:
        """A fresh stage 1."""
        torch.manual_seed(self.settings.seed)
        model = build.make_retriever(
            self.specs["retriever"],
            self.dataset.user_features,
            self.dataset.item_features,
            torch.from_numpy(self.counts),
        )
        return model.to(self.device)

    def index(self, retriever: Any) -> ExactIndex:
        """An exact index of stage 1's current item vectors, over the catalogue."""
        catalogue = self.catalogue.to(self.device)
        with torch.no_grad(), evaluation_mode(retriever):
            return ExactIndex(retriever.encode_items(catalogue).float(), catalogue)

    @cached_property
    def popularity(self) -> PopularityChannel:
        """What stage 1 gives to users without history."""
        return PopularityChannel(torch.from_numpy(self.counts))

    def channel(self, retriever: Any) -> ColdStartChannel:
        """Stage 1 as it is served."""
        return ColdStartChannel(RetrieverChannel(retriever, self.index(retriever)), self.popularity)

    def share_unknown(self, model: nn.Module) -> None:
        """Ids without a train event take the trained "unknown"; done before a model is judged or used."""
        users = torch.zeros(self.dataset.n_users, dtype=torch.bool)
        users[torch.from_numpy(self.dataset.events.user[self.split.part == Part.TRAIN]).long()] = True
        share_unknown(cast(HasIdTables, model), users, torch.from_numpy(self.counts > 0))

    def train_retriever(self) -> nn.Module:
        """Stage 1, trained (or loaded, if it was trained before)."""
        model, chosen = self.retriever(), self.settings.retriever_training
        if not list(model.parameters()):
            return model
        counts, catalogue = torch.from_numpy(self.counts), self.catalogue
        objective: nn.Module
        if chosen.loss == "full-softmax":
            objective = FullSoftmaxObjective(model, catalogue, label_smoothing=chosen.label_smoothing)
        elif chosen.loss == "in-batch":
            objective = InBatchObjective(model, catalogue, counts)
        else:
            objective = SampledSoftmaxObjective(
                model,
                catalogue,
                build.make_sampler(chosen.sampler, catalogue, counts),
                num_negatives=chosen.num_negatives,
                seed=self.settings.seed,
            )
        loader: Loader
        if isinstance(model, CausalRetriever):
            length = self.settings.retriever.max_length  # type: ignore[union-attr]
            loader = SequenceLoader(
                self.dataset, self.split, length=length, batch_size=chosen.batch_size, seed=self.settings.seed
            )
        else:
            length = getattr(self.settings.retriever, "history_length", 0)
            loader = self._events(chosen, length, Examples.of(self.dataset, self.split, Part.TRAIN))
        few = self.validation.sample(chosen.validation_queries, seed=0)
        depth = self.settings.evaluation.num_candidates

        def validate() -> Mapping[str, float]:
            self.share_unknown(model)
            result = evaluate(
                few,
                self.channel(model),
                num_candidates=depth,
                cutoffs=(10, depth),
                recall_cutoffs=(depth,),
                batch_size=self.settings.evaluation.batch_size,
                device=self.device,
            )
            return {name: result.metrics[name] for name in ("ndcg@10", "recall@10", "mrr@10", f"recall@{depth}")}

        self._fit("retriever", objective.to(self.device), loader, chosen, validate)
        self.share_unknown(model)
        return model

    def _events(self, chosen: TrainingSettings, history_length: int, examples: Examples) -> EventLoader:
        return EventLoader(
            examples,
            history_length=history_length,
            batch_size=chosen.batch_size,
            seed=self.settings.seed,
            max_per_user=getattr(chosen, "max_per_user", 0),
        )

    def examples(self, part: Part) -> Examples:
        """Clicks of a part; with impressions and labels where the ranker learns from clicks."""
        if self.settings.ranker_training.loss != "clicks":
            return Examples.of(self.dataset, self.split, part)
        return Examples.of(self.dataset, self.split, part, label=self.labels, impressions=True)

    def _fit(
        self, stage: str, objective: nn.Module, loader: Loader, chosen: TrainingSettings, validate: Validate
    ) -> FitState:
        """Trains one stage under ``directory/stage`` and notes its time there."""
        per_epoch = loader.batches_per_epoch()
        total = max(chosen.epochs * per_epoch, 1)
        schedule = warmup_cosine(chosen.warmup_steps, total) if chosen.cosine else warmup_constant(chosen.warmup_steps)
        optimizer = RowWiseAdam(
            objective,
            learning_rate=chosen.learning_rate,
            weight_decay=chosen.weight_decay,
            max_norm=chosen.max_norm,
            schedule=schedule,
        )
        torch.manual_seed(self.settings.seed)
        folder = self.directory / stage
        add_to_tensorboard = tensorboard_writer(folder / "tensorboard")
        with progress(f"Training {stage}", total, quiet=self.quiet) as advance:

            def note(state: FitState) -> None:
                last = state.records[-1]
                add_to_tensorboard(last)
                value = last.get(chosen.metric)
                advance(0, f"epoch {state.epoch}" + ("" if value is None else f", {chosen.metric} {value:.4f}"))

            return fit(
                objective,
                loader,
                optimizer,
                epochs=chosen.epochs,
                validate=validate,
                metric=chosen.metric,
                patience=chosen.patience,
                validate_every=chosen.validate_every,
                directory=folder,
                checkpoint_seconds=chosen.checkpoint_seconds,
                device=self.device,
                low_precision=chosen.low_precision,
                on_step=lambda state: advance(1),
                on_epoch=note,
            )

    # Stage 2

    def ranker(self) -> nn.Module:
        """A fresh stage 2."""
        torch.manual_seed(self.settings.seed + 1)
        return build.make_ranker(self.specs["ranker"], self.dataset.user_features, self.dataset.item_features).to(
            self.device
        )

    def train_ranker(self, retriever: nn.Module) -> nn.Module:
        """Stage 2, trained (or loaded); it is judged by the order of stage 1's candidates, or by its clicks."""
        model, chosen = self.ranker(), self.settings.ranker_training
        assert self.settings.ranker is not None
        length = self.settings.ranker.history_length
        objective: nn.Module
        if self.has_clicks:
            objective = ClickObjective(model)
        else:
            kind = {"softmax": SoftmaxRankingObjective, "bce": BinaryRankingObjective}[chosen.loss]
            sampler = build.make_sampler(chosen.sampler, self.catalogue, torch.from_numpy(self.counts))
            objective = kind(model, sampler, num_negatives=chosen.num_negatives, seed=self.settings.seed + 1)
        loader = self._events(chosen, length, self.examples(Part.TRAIN))
        few = self.validation.sample(chosen.validation_queries, seed=0)
        judge = self._click_judge(model, Part.VALID) if self.has_clicks else self._order_judge(model, retriever, few)

        def validate() -> Mapping[str, float]:
            self.share_unknown(model)
            return judge()

        self._fit("ranker", objective.to(self.device), loader, chosen, validate)
        self.share_unknown(model)
        return model

    def _order_judge(self, ranker: nn.Module, retriever: nn.Module, few: Targets) -> Validate:
        """nDCG@10 of the ranker over stage 1's candidates, which are found once: stage 1 stands still."""
        settings = self.settings.evaluation
        funnel = Funnel(self.channel(retriever), None, settings.num_candidates)
        batches: list[tuple[TargetBatch, Tensor]] = [
            (scored.batch, scored.candidates.items)
            for scored in funnel.run(few, settings.num_candidates, settings.batch_size, self.device)
        ]

        def validate() -> Mapping[str, float]:
            total, queries = 0.0, 0
            for batch, items in batches:
                logits = ranker(batch.query.to(self.device), items).masked_fill(items == 0, -torch.inf)
                item, owner = batch.item.to(self.device), batch.owner.to(self.device)
                rank = ranks_by_score(items, logits, item, owner)
                found = list_metrics(rank, owner, relevant_counts(owner, len(batch.query)), [10])
                total += float(found["ndcg@10"].sum())
                queries += len(batch.query)
            return {"ndcg@10": total / max(queries, 1)}

        return validate

    def click_logits(self, ranker: nn.Module, part: Part) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Logits, labels and users [n] of a part's events."""
        assert self.settings.ranker is not None
        examples = self.examples(part)
        logits = []
        with torch.no_grad(), evaluation_mode(ranker):
            for start in range(0, len(examples), 4096):
                at = np.arange(start, min(start + 4096, len(examples)))
                batch = examples.batch(at, self.settings.ranker.history_length).to(self.device)
                logits.append(ranker(batch.query, batch.item[:, None])[:, 0].double().cpu().numpy())
        return np.concatenate(logits), examples.label, np.asarray(examples.user)

    def _click_judge(self, ranker: nn.Module, part: Part) -> Validate:
        def validate() -> Mapping[str, float]:
            logits, labels, users = self.click_logits(ranker, part)
            return click_metrics(labels, logits, users)

        return validate

    def tune(self, retriever: nn.Module, ranker: nn.Module) -> MixtureTuning:
        """The mixture of both scores that is best on validation."""
        settings = self.settings.evaluation
        return tune_mixture(
            self.validation.sample(self.settings.ranker_training.validation_queries, seed=0),
            self.channel(retriever),
            ranker,
            num_candidates=settings.num_candidates,
            batch_size=settings.batch_size,
            device=self.device,
        )

    def versions(self) -> dict[str, str]:
        """What produced the result."""
        return {
            "corral": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "machine": platform.machine(),
            "threads": str(torch.get_num_threads()),
        }

    def write_manifest(self, facts: Mapping[str, Any]) -> None:
        """Adds facts to the run's manifest."""
        path = self.directory / MANIFEST_FILE
        known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        known |= {
            "versions": self.versions(),
            "protocol": self.protocol(),
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            **facts,
        }
        write_text(path, json.dumps(known, indent=1, default=str) + "\n")
