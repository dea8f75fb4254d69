"""As-of statistics: counts and rates of user, item and user x category, strictly before any moment.

What a server would know of a pair when the request comes: how much and how gladly this user clicks, how gladly
this item is clicked, what the user makes of the item's categories. Nothing is learned; the sums are kept so that
any pair can be asked about at any time. **An event speaks of later times only**: a row's own label, and those of
the same time, are never in its inputs. Of no paper: corral's own choice.

Shape letters: n events, B queries, N items per query, W values of a feature, E statistics.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from corral.data.dataset import Dataset
from corral.data.examples import Examples
from corral.data.features import FeatureTable
from corral.data.running_sums import ONE, RunningSums, running, whole
from corral.data.split import Part, Split
from corral.data.user_categories import UserCategories, countable

# The rate of everything before anything has happened, as so many events, half of them clicks.
_PRIOR_EVENTS = 10.0


class AsOfRule(StrEnum):
    """Which events may be looked up, always strictly before the moment.

    STREAMING: all, of whichever part: as a server would know them. TRAIN: those of the train part.
    """

    STREAMING = "streaming"
    TRAIN = "train"

    @property
    def words(self) -> str:
        """For people."""
        return {
            AsOfRule.STREAMING: "as-of statistics see all events strictly before, as a server would",
            AsOfRule.TRAIN: "as-of statistics see train events strictly before",
        }[self]

    @classmethod
    def of(cls, split: Split) -> AsOfRule:
        """Streaming where the parts follow each other in time, else train."""
        return cls.STREAMING if split.name == "time-cut" else cls.TRAIN


class AsOfStatistics(nn.Module):
    """Statistics of any (user, item) pair at any time, from events strictly before it.

    Let g be the click rate of all events before the time; p_u = (clicks + s g) / (events + s) the user's and p_i
    the item's, with s = ``smoothing``. The residual of an event is its label less the other side's rate **as of
    that event**: less p_i where a user is judged, less p_u where an item is, so that a harsh user's clicks count
    for more; residuals are summed and divided by events + s. The statistics, by name:

    - ``user_count``, ``user_rate`` (logit p_u - logit g), ``user_residual``; ``user_recent_rate`` (logit of the
      latest ``recent`` events' rate, drawn to p_u, less logit p_u) and ``user_recent_residual``; ``user_age`` and
      ``user_idle``: time since the first and the last event.
    - ``item_count``, ``item_rate``, ``item_residual``; ``item_recent_count`` and ``item_recent_residual``: of the
      item's events within the last share ``window`` of the whole log before the time; ``item_age``.
    - for each categorical or multi-valued item feature F: ``F_count_mean``, ``F_count_max``, ``F_residual_mean``,
      ``F_residual_max``: of the user's events with each of the item's values, mean and maximum over the values.

    Counts are log(1 + n), times log(1 + t) in the data set's unit; 0 where nothing has happened yet. Without
    labels every event is a click: the counts and times alone.

    Everything but the items' categories, which are the feature table's, is a buffer that is saved: 24 bytes an
    event on either side (8 without labels), 16 for each event and category. A query costs one binary search
    for the user, two for each item, and two for each of the items' categories or for each category there is,
    whichever are fewer.

    Args:
        times: distinct times of the events [T], int64, ascending.
        totals: events, and clicks in units of 1 / ``ONE``, before each of them and before the end [T + 1, 2].
        users: by user row; values: label, residual (none without labels).
        items: by item row; the same.
        categories: of each feature; value: residual (none without labels).
        labelled: whether there are labels.
        smoothing: s > 0, in events.
        recent: latest events of a user.
        window: share of the log, in (0, 1].
    """

    times: Tensor
    totals: Tensor

    def __init__(
        self,
        times: Tensor,
        totals: Tensor,
        users: RunningSums,
        items: RunningSums,
        categories: Sequence[UserCategories],
        *,
        labelled: bool,
        smoothing: float = 5.0,
        recent: int = 8,
        window: float = 0.125,
    ) -> None:
        super().__init__()
        self.register_buffer("times", times)
        self.register_buffer("totals", totals)
        self.users, self.items = users, items
        self.categories = nn.ModuleList(categories)
        self.labelled, self.smoothing, self.recent, self.window = labelled, smoothing, recent, window
        self.names = (
            *(("user_count", "user_rate", "user_residual") if labelled else ("user_count",)),
            *(("user_recent_rate", "user_recent_residual") if labelled else ()),
            *("user_age", "user_idle"),
            *(("item_count", "item_rate", "item_residual") if labelled else ("item_count",)),
            *(("item_recent_count", "item_recent_residual") if labelled else ("item_recent_count",)),
            "item_age",
            *(name for one in categories for name in one.names),
        )

    @classmethod
    def of(
        cls,
        dataset: Dataset,
        split: Split,
        rule: AsOfRule,
        *,
        labels: np.ndarray | None = None,
        impressions: bool = False,
        smoothing: float = 5.0,
        recent: int = 8,
        window: float = 0.125,
    ) -> AsOfStatistics:
        """Counts the events that a rule allows.

        Args:
            dataset: the events, and the items' features.
            split: says which events are for training.
            rule: which events may be looked up.
            labels: of each event of the log [n], in [0, 1]; None: every event is a click.
            impressions: count what was shown and not clicked too, with label 0.
            smoothing, recent, window: see the class.
        """
        parts = [Part.TRAIN] if rule is AsOfRule.TRAIN else list(Part)
        log = [Examples.of(dataset, split, part, label=labels, impressions=impressions) for part in parts]
        labelled = labels is not None or (impressions and dataset.impressions is not None)
        user, item, time, label = (
            torch.from_numpy(np.concatenate([getattr(one, name) for one in log]).astype(kind))
            for name, kind in (("user", np.int64), ("item", np.int64), ("time", np.int64), ("label", np.float64))
        )
        return cls.of_log(
            user,
            item,
            time,
            label if labelled else None,
            dataset.item_features,
            num_users=dataset.n_users,
            num_items=dataset.n_items,
            smoothing=smoothing,
            recent=recent,
            window=window,
        )

    @classmethod
    def of_log(
        cls,
        user: Tensor,
        item: Tensor,
        time: Tensor,
        label: Tensor | None,
        item_features: FeatureTable,
        *,
        num_users: int,
        num_items: int,
        smoothing: float = 5.0,
        recent: int = 8,
        window: float = 0.125,
    ) -> AsOfStatistics:
        """Counts n events, in any order.

        Args:
            user: user rows [n], int64.
            item: item rows [n], int64.
            time: [n], int64.
            label: [n], in [0, 1]; None: every event is a click.
            item_features: by item row.
            num_users, num_items: rows, the reserved ones included.
            smoothing, recent, window: see the class.

        Raises:
            ValueError: a label is not in [0, 1].
        """
        times, moment = time.unique(return_inverse=True)
        moments, labelled = len(times) + 1, label is not None
        clicks = whole(torch.ones(len(user)) if label is None else label)
        if len(clicks) and not 0 <= int(clicks.min()) <= int(clicks.max()) <= ONE:
            raise ValueError(f"labels from {clicks.min() / ONE} to {clicks.max() / ONE}: must be in [0, 1]")
        totals = torch.zeros(len(times), 2, dtype=torch.int64)
        totals.index_add_(0, moment, torch.stack([torch.ones_like(clicks), clicks], 1))
        totals = running(totals)

        def sums(entity: Tensor, num: int, values: list[Tensor]) -> RunningSums:
            stacked = torch.stack(values, 1) if values else clicks.new_zeros(len(clicks), 0)
            return RunningSums(entity, moment, stacked, num_entities=num, num_moments=moments)

        if not labelled:
            users, items, residuals = sums(user, num_users, []), sums(item, num_items, []), clicks[:, None][:, :0]
        else:
            prior = _prior(totals[moment])
            # The rates as of each event, of which the residuals are made.
            user_rate = _rate(sums(user, num_users, [clicks]), user, moment, prior, smoothing)
            item_rate = _rate(sums(item, num_items, [clicks]), item, moment, prior, smoothing)
            of_user, of_item = clicks - whole(item_rate), clicks - whole(user_rate)
            users = sums(user, num_users, [clicks, of_user])
            items = sums(item, num_items, [clicks, of_item])
            residuals = of_user[:, None]
        categories = [
            UserCategories.of(column, user, item, moment, residuals, num_moments=moments)
            for column in countable(item_features)
        ]
        return cls(
            times,
            totals,
            users,
            items,
            categories,
            labelled=labelled,
            smoothing=smoothing,
            recent=recent,
            window=window,
        )

    @property
    def size(self) -> int:
        """E."""
        return len(self.names)

    @property
    def sizes(self) -> dict[str, Any]:
        """What :meth:`empty` needs to make statistics that these buffers fit into; JSON values."""
        return {
            "users": len(self.users.offsets) - 1,
            "items": len(self.items.offsets) - 1,
            "events": len(self.users.keys),
            "times": len(self.times),
            "labelled": self.labelled,
            "features": {one.name: one.sizes for one in self._categories()},
        }

    @classmethod
    def empty(
        cls,
        item_features: FeatureTable,
        *,
        users: int,
        items: int,
        events: int,
        times: int,
        labelled: bool,
        features: Mapping[str, Mapping[str, int]],
        smoothing: float = 5.0,
        recent: int = 8,
        window: float = 0.125,
    ) -> AsOfStatistics:
        """Statistics of the given sizes, to load saved buffers into."""
        values, moments = (2 if labelled else 0), times + 1

        def none(entities: int) -> RunningSums:
            return RunningSums.empty(entities=entities, events=events, values=values, moments=moments)

        return cls(
            torch.zeros(times).long(),
            torch.zeros(moments, 2).long(),
            none(users),
            none(items),
            [
                UserCategories.empty(item_features.columns[name], **size, values=int(labelled), moments=moments)
                for name, size in features.items()
            ],
            labelled=labelled,
            smoothing=smoothing,
            recent=recent,
            window=window,
        )

    def renumbered(self, moved: Tensor, item_features: FeatureTable) -> AsOfStatistics:
        """The same statistics for a longer catalogue.

        Args:
            moved: where each item row went [old rows].
            item_features: of the longer catalogue; codes as before.
        """
        return AsOfStatistics(
            self.times,
            self.totals,
            self.users,
            self.items.renumbered(moved, item_features.rows),
            [one.with_items(item_features.columns[one.name]) for one in self._categories()],
            labelled=self.labelled,
            smoothing=self.smoothing,
            recent=self.recent,
            window=self.window,
        )

    @torch.no_grad()
    def forward(self, user: Tensor, items: Tensor, time: Tensor) -> Tensor:
        """Statistics of each pair strictly before a time.

        Args:
            user: user rows [B], int64.
            items: item rows [B, N], int64.
            time: [B], int64.

        Returns:
            [B, N, E], float32, in the order of ``names``.
        """
        moment = torch.searchsorted(self.times, time.contiguous())
        total = self.totals[moment]
        prior = _prior(total)
        of_user = torch.stack(self._user(user, time, moment, prior), -1)[:, None]
        of_item = torch.stack(self._item(items, time[:, None], moment[:, None], prior[:, None]), -1)
        of_categories = [one(user, items, moment, self.smoothing) for one in self._categories()]
        return torch.cat([of_user.expand(*items.shape, -1), of_item, *of_categories], -1)

    def _user(self, user: Tensor, time: Tensor, moment: Tensor, prior: Tensor) -> list[Tensor]:
        """Each [B]."""
        first, stop = self.users.before(user, moment)
        count = stop - first
        columns = [count.float().log1p()]
        if self.labelled:
            clicks, residual = self.users.total(first, stop).unbind(-1)
            rate = _smoothed(clicks, count, prior, self.smoothing)
            since = torch.maximum(first, stop - self.recent)
            late_clicks, late_residual = self.users.total(since, stop).unbind(-1)
            late_rate = _smoothed(late_clicks, stop - since, rate, self.smoothing)
            columns += [
                _log_odds(rate) - _log_odds(prior),
                residual / (count + self.smoothing),
                _log_odds(late_rate) - _log_odds(rate),
                late_residual / (stop - since + self.smoothing),
            ]
        happened = count > 0
        return [
            *columns,
            self._elapsed(self.users, first, happened, time),
            self._elapsed(self.users, stop - 1, happened, time),
        ]

    def _item(self, items: Tensor, time: Tensor, moment: Tensor, prior: Tensor) -> list[Tensor]:
        """Each [B, N]; the others are [B, 1]."""
        first, stop = self.items.before(items, moment)
        # The first moment of the latest ``window`` of the log, and the item's first event from there on.
        events = self.totals[:, 0].contiguous()
        opening = torch.searchsorted(events, events[moment] - events[moment] * round(self.window * ONE) // ONE)
        since = self.items.before(items, opening)[1]
        count, late = stop - first, stop - since
        columns = [count.float().log1p()]
        if self.labelled:
            clicks, residual = self.items.total(first, stop).unbind(-1)
            rate = _smoothed(clicks, count, prior, self.smoothing)
            columns += [_log_odds(rate) - _log_odds(prior), residual / (count + self.smoothing)]
        columns.append(late.float().log1p())
        if self.labelled:
            columns.append(self.items.total(since, stop)[..., 1] / (late + self.smoothing))
        return [*columns, self._elapsed(self.items, first, count > 0, time)]

    def _elapsed(self, sums: RunningSums, place: Tensor, happened: Tensor, time: Tensor) -> Tensor:
        """log(1 + time since the event at this place); 0 where it has not ``happened``."""
        if not len(self.times):
            return torch.zeros(place.shape, device=place.device)
        since = time - self.times[sums.moments(place)]
        return since.masked_fill(~happened, 0).float().log1p()

    def _categories(self) -> list[UserCategories]:
        return [cast(UserCategories, one) for one in self.categories]


def _smoothed(clicks: Tensor, count: Tensor, prior: Tensor | float, smoothing: float) -> Tensor:
    return (clicks + smoothing * prior) / (count + smoothing)


def _prior(total: Tensor) -> Tensor:
    """The rate of everything so far from rows of ``totals`` [..., 2]."""
    return _smoothed(total[..., 1].float() / ONE, total[..., 0], 0.5, _PRIOR_EVENTS)


def _rate(sums: RunningSums, entity: Tensor, moment: Tensor, prior: Tensor, smoothing: float) -> Tensor:
    """The smoothed rate of entities before moments; the first value is the label."""
    first, stop = sums.before(entity, moment)
    return _smoothed(sums.total(first, stop)[..., 0], stop - first, prior, smoothing)


def _log_odds(rate: Tensor) -> Tensor:
    """Finite also where 10^8 clicks in a row have rounded the rate to 1."""
    return rate.logit(eps=1e-6)
