"""EarlierRun: the finished run that another one continues, its rows found again in the grown data."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from corral.cli.build import build_part
from corral.cli.own_parts import NO_PARTS, OwnParts
from corral.cli.run_files import BUNDLE, DATA_FILE, MANIFEST_FILE, check_finished
from corral.data.dataset import Dataset
from corral.data.json_file import read_json
from corral.data.split import Split
from corral.data.vocabulary import FIRST_ROW, UNKNOWN
from corral.retrieval.look_alike_items import LookAlikeItems
from corral.serving.bundle import load_bundle
from corral.serving.recommender import TwoStageRecommender
from corral.training.grow import grow


@dataclass(frozen=True)
class EarlierRun:
    """What a run that continues another one takes over.

    Attributes:
        directory: of the earlier run.
        recommender: its bundle.
        protocol: the rules it was judged by.
        data_hash: of the data it was trained on.
        users: where each of its user rows is now, UNKNOWN: gone.
        items: the same for item rows.
        learned: the same; UNKNOWN too for items without a train event then, of which nothing was learned.
        look_alikes: of items that nothing was learned of.
    """

    directory: Path
    recommender: TwoStageRecommender
    protocol: dict[str, Any]
    data_hash: str
    users: np.ndarray
    items: np.ndarray
    learned: np.ndarray
    look_alikes: LookAlikeItems

    @classmethod
    def open(
        cls, directory: Path, dataset: Dataset, split: Split, device: torch.device, own: OwnParts = NO_PARTS
    ) -> EarlierRun:
        """The run in ``directory``, as the present data see it.

        Raises:
            ValueError: it is not finished, was trained on other data, or on events that are now to be judged.
        """
        check_finished(directory, BUNDLE, MANIFEST_FILE)
        recommender = load_bundle(directory / BUNDLE, partial(build_part, own=own), device)
        protocol = read_json(directory / MANIFEST_FILE)["protocol"]
        tables = recommender.tables
        users, items = tables.users.rows_in(dataset.users), tables.items.rows_in(dataset.items)
        for found, what in ((users, "users"), (items, "items")):
            if not (found[FIRST_ROW:] != UNKNOWN).any():
                raise ValueError(
                    f"{directory}: none of its {what} is in {dataset.name}: a run is continued on its own data set, "
                    "grown by corral data append"
                )
        _refuse_leak(directory, protocol, split, _earlier_histories_stand(recommender, dataset, users, items))
        learned = np.full_like(items, UNKNOWN)
        indexed = recommender.index.items.cpu().numpy()
        learned[indexed] = items[indexed]
        learned[0] = 0
        known = np.zeros(dataset.n_items, dtype=bool)
        known[learned[learned >= FIRST_ROW]] = True
        return cls(
            directory,
            recommender,
            protocol,
            (directory / DATA_FILE).read_text(encoding="utf-8").strip(),
            users,
            items,
            learned,
            LookAlikeItems.of(dataset, split, known),
        )

    def scales(self, stage: str) -> dict[str, Any]:
        """How a stage's numeric features were standardised: the weights belong to these scales, not to new ones."""
        settings = self.recommender.specs[stage].settings
        return {key: settings[key] for key in ("user_scales", "item_scales") if key in settings}

    def start(self, stage: str, module: nn.Module) -> None:
        """Gives a newly built stage ("retriever" or "ranker") the earlier run's weights; see ``grow``.

        Raises:
            ValueError: the earlier run has no such stage, or one of another kind or size.
        """
        trained = getattr(self.recommender, stage)
        if trained is None:
            raise ValueError(f"{self.directory}: has no {stage} that could be continued; train one anew")
        try:
            grow(cast(nn.Module, trained), module, self.users, self.learned, self.look_alikes)
        except ValueError as error:
            raise ValueError(
                f"{self.directory}: its {stage} cannot be continued: {error}; leave the model's settings as they are, "
                "or train anew"
            ) from error


def _earlier_histories_stand(
    recommender: TwoStageRecommender, dataset: Dataset, users: np.ndarray, items: np.ndarray
) -> bool:
    """Whether every user's events of then are the first ones now: what came since came later."""
    histories = recommender.tables.histories
    lengths, events = np.diff(histories.offsets), dataset.events
    here = np.flatnonzero((users != UNKNOWN) & (lengths > 0))
    if (np.diff(events.offsets)[users[here]] < lengths[here]).any():
        return False
    owner = np.repeat(here, lengths[here])
    place = np.arange(len(owner)) - np.repeat(np.cumsum(lengths[here]) - lengths[here], lengths[here])
    then = items[histories.items[histories.offsets[owner] + place]]
    return bool((events.item[events.offsets[users[owner]] + place] == then).all())


def _refuse_leak(directory: Path, protocol: dict[str, Any], split: Split, histories_stand: bool) -> None:
    """Raises ValueError where the earlier run may have trained, or been chosen, on what is now judged."""
    if protocol["split"] != split.name:
        raise ValueError(f"{directory}: was split by {protocol['split']}, this run by {split.name}: keep split.rule")
    if split.name == "leave-last-two-out" and not histories_stand:
        raise ValueError(
            f"{directory}: some users have new events before old ones, or old ones were left out: under "
            "leave-last-two-out it may have trained on what is now tested; train anew"
        )
    for name in ("valid_from", "test_from") if split.name == "time-cut" else ():
        then, now = int(protocol[name]), int(str(split.facts[name]))
        if now < then:
            raise ValueError(
                f"{directory}: {name} moves back from {then} to {now}: it has trained on what would now be judged; "
                "append later events, give split.valid_from and split.test_from, or train anew"
            )
