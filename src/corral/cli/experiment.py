"""Experiment: the data of a run, their split, and all that follows from them and the settings before any training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from rich.console import Console
from torch import Tensor, nn

from corral.cli import build, run_files
from corral.cli.earlier_run import EarlierRun
from corral.cli.open_data import open_data
from corral.cli.own_parts import NO_PARTS, OwnParts
from corral.cli.progress import progress
from corral.cli.ranker_inputs import RankerInputs
from corral.cli.start_notes import start_notes
from corral.cli.target_check import check_labels, check_snapshots, check_targets
from corral.data.dataset import Dataset
from corral.data.examples import Examples
from corral.data.sampled_negatives import with_sampled_negatives
from corral.data.split import Part, Split
from corral.data.targets import Targets, targets
from corral.retrieval.cold_ids import HasIdTables, share_unknown
from corral.retrieval.popularity import PopularityChannel
from corral.scale.sharded_embedding import shard_tables
from corral.scale.sharded_softmax import own_items
from corral.scale.workers import Workers
from corral.settings import Settings
from corral.stage_settings import CorrSettings
from corral.training.fit import FitState

OnEpoch = Callable[[str, FitState], None]
# From so many rows on, gradients of embedding tables are kept sparse: below, a dense step is cheaper than sorting
# the rows that repeat (benchmarks/bench_training.py).
SPARSE_FROM = 200_000


@dataclass(frozen=True)
class Experiment:
    """What every phase of a run needs; nothing in it is trained.

    Attributes:
        settings: all of them.
        directory: the run directory.
        dataset: the events.
        split: their parts.
        quiet: no progress bars.
        on_epoch: called after every epoch of every training with its name ("retriever", "ranker", "together") and
            state, when its checkpoint is written: it may end the run by raising.
        own: parts that the settings call ``own``.
        workers: who train it together, this process among them; None: it alone.
    """

    settings: Settings
    directory: Path
    dataset: Dataset
    split: Split
    quiet: bool = False
    on_epoch: OnEpoch = lambda training, state: None
    own: OwnParts = NO_PARTS
    workers: Workers | None = None

    @classmethod
    def start(
        cls,
        settings: Settings,
        directory: Path,
        *,
        quiet: bool = False,
        on_epoch: OnEpoch = lambda training, state: None,
        own: OwnParts = NO_PARTS,
        workers: Workers | None = None,
    ) -> Experiment:
        """A new run, or one that goes on, in ``directory``.

        Raises:
            ValueError: the directory holds another run or one that is being trained, the data lack what the settings
                need, or a part of one's own is missing.
        """
        own.check(settings)
        if workers is None:
            run_files.check_free(directory)
            return cls._start(settings, directory, quiet, on_epoch, own, None, new=True)
        # The first caches the data and notes whose run it is; the others find it done.
        with workers.one_by_one():
            quiet = quiet or not workers.first
            return cls._start(settings, directory, quiet, on_epoch, own, workers, new=workers.first)

    @classmethod
    def _start(
        cls,
        settings: Settings,
        directory: Path,
        quiet: bool,
        on_epoch: OnEpoch,
        own: OwnParts,
        workers: Workers | None,
        *,
        new: bool,
    ) -> Experiment:
        run_files.check_settings(directory, settings)
        with progress("Data", quiet=quiet):
            dataset = open_data(settings.data)
            split = build.make_split(dataset, settings.split)
            if new:
                check_targets(settings, dataset, split)
                check_snapshots(settings, dataset)
        experiment = cls(settings, directory, dataset, split, quiet, on_epoch, own, workers)
        # What is wrong with labels should be known before stage 1 has trained for an hour.
        if experiment.has_clicks and new:
            check_labels(settings.data.path or dataset.name, experiment.examples)
        if not (directory / run_files.BUNDLE).exists():
            _ = experiment.earlier
        run_files.begin(directory, settings, dataset.name, dataset.hash)
        if experiment.writes:
            console = Console(stderr=True, soft_wrap=True, highlight=False)
            for note in start_notes(settings, dataset, split):
                console.print(f"Note: {note}", style="yellow", markup=False)
        if settings.deterministic:
            build.be_deterministic()
        if settings.threads:
            torch.set_num_threads(settings.threads)
        return experiment

    @classmethod
    def open(cls, directory: Path, *, quiet: bool = False, own: OwnParts = NO_PARTS) -> Experiment:
        """A run that was started before.

        Raises:
            ValueError: there is none, or its data changed.
        """
        settings = run_files.read_settings(directory)
        own.check(settings)
        return cls._start(settings, directory, quiet, lambda training, state: None, own, None, new=False)

    @cached_property
    def device(self) -> torch.device:
        """Where models live."""
        return build.choose_device(self.settings.device) if self.workers is None else self.workers.device

    @property
    def writes(self) -> bool:
        """Whether this process writes the run's files: of several workers the first."""
        return self.workers is None or self.workers.first

    def placed(self, model: nn.Module) -> nn.Module:
        """A new model where it will be trained: on the device, its id tables cut over the workers if there are some."""
        if self.workers is not None and isinstance(model, HasIdTables):
            shard_tables(model, self.workers)
        return model.to(self.device)

    def low_precision(self, chosen: bool | Literal["auto"]) -> bool:
        """Whether a training that says ``chosen`` multiplies in bfloat16: the switch for all comes first."""
        switch = self.settings.low_precision
        wanted = chosen if switch is None else switch
        return build.multiplies_in_bfloat16(self.device) if wanted == "auto" else wanted

    @cached_property
    def earlier(self) -> EarlierRun | None:
        """The run that this one continues."""
        continues = self.settings.continues
        return (
            None if continues is None else EarlierRun.open(continues, self.dataset, self.split, self.device, self.own)
        )

    @cached_property
    def counts(self) -> np.ndarray:
        """Train events by item row."""
        return self.split.train_counts(self.dataset)

    @cached_property
    def catalogue(self) -> Tensor:
        """Item rows with a train event [M]."""
        return torch.from_numpy(self.split.catalogue(self.dataset))

    @cached_property
    def own_items(self) -> Tensor:
        """Those of them whose vectors this process has at hand: all, or a worker's part."""
        return self.catalogue if self.workers is None else own_items(self.catalogue, self.dataset.n_items, self.workers)

    @cached_property
    def popularity(self) -> PopularityChannel:
        """What stage 1 gives to users without history."""
        return PopularityChannel(torch.from_numpy(self.counts))

    @cached_property
    def history_length(self) -> int:
        """L of the queries: the longest that a stage reads."""
        linear = self.settings.ranker and self.settings.ranker.linear
        return max(self.retriever_history_length, self.ranker_history_length, linear.history_length if linear else 0, 1)

    @property
    def retriever_history_length(self) -> int:
        """The longest history that the retriever reads; 0: none."""
        return max(getattr(self.settings.retriever, name, 0) for name in ("max_length", "history_length"))

    @property
    def ranker_history_length(self) -> int:
        """The longest history that the ranker reads while training, its evidence included; 0 without a ranker."""
        ranker = self.settings.ranker
        if ranker is None:
            return 0
        early = None if ranker.linear is None or ranker.linear.late else ranker.linear
        longest = max(ranker.history_length, ranker.evidence.recent if ranker.evidence else 0)
        return max(
            longest, *(part.history_length for part in (early, ranker.behaviour, ranker.similar_rows) if part), 0
        )

    @cached_property
    def specs(self) -> dict[str, dict[str, Any]]:
        """How to build the models again: JSON values, kept in the bundle."""
        scales = build.scale_specs(self.dataset, self.split)
        large, together = self.dataset.n_items + self.dataset.n_users >= SPARSE_FROM, self.settings.together
        full = self.settings.retriever_training.loss == "full-softmax"
        if together is not None:  # whatever its kind, it reads every row only by a full softmax of its own
            full = (full and together.warm_start) or (isinstance(together, CorrSettings) and together.full_softmax)
        retriever = self.settings.retriever.model_dump(mode="json")
        specs = {"retriever": {**retriever, "sparse": large and not full, **scales}}
        if self.settings.ranker:
            ranker = {**self.settings.ranker.model_dump(mode="json"), "sparse": large, **scales}
            assert self.inputs is not None
            for name, noted in self.inputs.noted.items():
                ranker[name] = {**ranker[name], **noted}
            specs["ranker"] = ranker
        if self.earlier is not None:
            for stage in specs.keys() & self.earlier.recommender.specs.keys():
                specs[stage] |= self.earlier.scales(stage)
        return specs

    @cached_property
    def inputs(self) -> RankerInputs | None:
        """What the ranker reads beside fields and history; None without a ranker."""
        ranker = self.settings.ranker
        if ranker is None:
            return None
        return RankerInputs(
            ranker, self.dataset, self.split, self.labels, self.has_clicks, self.settings.seed, self.quiet
        )

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
        """Whether the ranker learns from labels, so that click metrics and probabilities mean something.

        Raises:
            ValueError: it should, and the data have none.
        """
        if self.settings.ranker is None or self.settings.ranker_training.loss != "clicks":
            return False
        if self.settings.ranker_training.exposure_head and self.settings.ranker.rar is not None:
            raise ValueError(
                "ranker_training.exposure_head is the control without RAR's neighbours: leave ranker.rar out, whose "
                "alpha weighs its own exposure loss"
            )
        sampled = self.settings.ranker_training.sampled_negatives
        if self.labels is None and self.dataset.impressions is None and not sampled:
            raise ValueError(
                "ranker_training.loss=clicks needs events that were not clicked: impressions in the data set, "
                "ranker_training.label_at_least, the value from which on an event counts as a click, or "
                "ranker_training.sampled_negatives, how many to draw for each event"
            )
        return True

    @cached_property
    def _examples(self) -> dict[Part, Examples]:
        return {}

    def examples(self, part: Part) -> Examples:
        """Clicks of a part; with labels, impressions and sampled negatives where the ranker learns from clicks."""
        if part not in self._examples:
            self._examples[part] = self._new_examples(part)
        return self._examples[part]

    def _new_examples(self, part: Part) -> Examples:
        chosen = self.settings.ranker_training
        if chosen.loss != "clicks":
            return Examples.of(self.dataset, self.split, part)
        examples = Examples.of(self.dataset, self.split, part, label=self.labels, impressions=True)
        if not chosen.sampled_negatives:
            return examples
        return with_sampled_negatives(
            examples,
            self.dataset,
            self.split,
            part,
            per_positive=chosen.sampled_negatives,
            repeats=self.settings.split.repeats,
            seed=chosen.sampled_negatives_seed,
        )

    def share_unknown(self, model: nn.Module) -> None:
        """Ids without a train event take the trained "unknown"; done before a model is judged or used."""
        if isinstance(model, HasIdTables):
            users = torch.from_numpy(self.split.train_users(self.dataset))
            share_unknown(model, users, torch.from_numpy(self.counts > 0))

    def _negatives_rule(self) -> dict[str, object]:
        """What click metrics are of, where it is not what was shown."""
        chosen = self.settings.ranker_training
        if self.settings.ranker is None or not chosen.sampled_negatives:
            return {}
        repeats = self.settings.split.repeats
        return {
            "negatives": f"{chosen.sampled_negatives} sampled a click, in every part, by train events before it, never "
            + ("what the user takes then or later" if repeats else "what the user had, or takes in train or this part")
            + f"; seed {chosen.sampled_negatives_seed}",
            "clicks left out": "those of items without an earlier train event"
            + ("" if repeats else ", and of what the user had before")
            + ": no negative could be like them",
        }

    def _weights_rule(self) -> dict[str, object]:
        """What events count in training, where they do not count alike."""
        weights = self.dataset.header.event_weights
        if weights is None:
            return {}
        told = ", ".join(f"{name} {weight:g}" for name, weight in weights.items()) or "as the data's column says"
        return {"event_weights": f"{told}: in the losses of training; judged events count once each"}

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
            **self._weights_rule(),
            **self._negatives_rule(),
            **({} if self.inputs is None else self.inputs.rules),
            "seed": self.settings.seed,
        }
