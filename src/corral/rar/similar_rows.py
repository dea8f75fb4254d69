"""Similar rows with their labels, as inputs of a ranker: the rows of earlier blocks that are most like the one asked.

Shape letters: B queries, N items per query, L history length, J nearest items, P latest people of an item, K rows kept,
D key size, E inputs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from corral.data.batches import Query
from corral.data.features import FeatureTable
from corral.rar.exposure import PairLog
from corral.rar.item_log import ItemLog
from corral.rar.neighbours import Neighbours
from corral.rar.profile_keys import ProfileKeys
from corral.rar.time_rules import Rule
from corral.retrieval.index import ordered_top


class SimilarRowsEvidence(nn.Module):
    """What the K most similar rows of the train log said, as ``Evidence``: nothing of it learned.

    After RIM (Qin et al., KDD 2021), which searches the log for rows that share values with the one asked and reads
    their labels. Its BM25 counts shared values; here users and items share as much as their behaviour profiles agree:

        score = <user, user'>_met + <user, user'>_liked + (1 if item = item', else cosine of the items)

    Candidates are the latest P rows of the item and of each of its J nearest items, in blocks **before** the event's:
    no row finds its own label or a later one. Rows of the user itself are candidates like all others, as in RIM
    (``BehaviourEvidence`` leaves them out of its column). With y the label of a row beyond its user's habit
    (``keys.residuals``) and w = exp(temperature * score), over the K best

        4 sum y / (K' + lambda),  4 sum w y / (sum w + lambda),  log(1 + K') / 4,  mean score / 3,  largest score / 3

    where K' <= K is how many there were; all 0 without any.

    Args:
        keys: behaviour profiles.
        people: who met what, train events.
        own: all events of the log with their residuals: for the user's profile, strictly before the event.
        near: the J nearest items of each, as of each snapshot; its rule must be blocks.
        count: K.
        people_per_item: P.
        history_length: L, the latest items of the user's profile.
        temperature: of the weights.
        strength: lambda, in rows of score 0.
    """

    def __init__(
        self,
        keys: ProfileKeys,
        people: ItemLog,
        own: PairLog,
        near: Neighbours,
        *,
        count: int = 30,
        people_per_item: int = 50,
        history_length: int = 100,
        temperature: float = 2.0,
        strength: float = 3.0,
    ) -> None:
        super().__init__()
        if near.rule.rule is not Rule.BLOCKS:
            raise ValueError(
                f"rule={near.rule.rule.value}: similar rows need blocks, or a row would find its own or later labels"
            )
        if min(count, people_per_item) < 1:
            raise ValueError(f"count={count}, people_per_item={people_per_item}: need at least one row")
        self.keys, self.people, self.own, self.near, self.rule = keys, people, own, near, near.rule
        self.count, self.people_per_item, self.history_length = count, people_per_item, history_length
        self.temperature, self.strength = temperature, strength
        self.size = 5

    @torch.no_grad()
    def forward(self, query: Query, items: Tensor) -> Tensor:
        """Item rows [B, N] -> [B, N, E], about unit scale, without gradient."""
        snapshot = self.rule.snapshot(query.time, query.user)
        others = torch.cat([items[..., None], self.near.recall_items(snapshot, query.user, items)], 2)
        who, said, there = self.people.latest(snapshot, others.flatten(1), self.people_per_item)
        there &= (others.flatten(1) > 0)[..., None]
        # Under autocast scores would be those of bfloat16: other rows in training than in service.
        with torch.autocast(items.device.type, enabled=False):
            scores = self._users_agree(query, snapshot, who) + self._items_agree(snapshot, others).flatten(1)[..., None]
        scores = scores.masked_fill(~there, -torch.inf).view(items.numel(), -1)
        scores, place = ordered_top(scores, min(self.count, scores.shape[1]))
        said = said.view(items.numel(), -1).gather(1, place)
        return self._numbers(scores.view(*items.shape, -1), said.view(*items.shape, -1))

    def _users_agree(self, query: Query, snapshot: Tensor, who: Tensor) -> Tensor:
        """[B, n, P] for the users of rows [B, n, P]."""
        history = query.recent(self.history_length).history
        present = history > 0
        met, values = self.own.before(query.user[:, None], history, query.time[:, None])
        past = self.keys.item_vectors[snapshot[:, None], history].unbind(2)
        profile = self.keys.encode(snapshot, present, past, values * (met & present))
        total = torch.zeros(who.shape, dtype=profile.dtype, device=who.device)
        for kind in range(2):
            them = self.keys.user_vectors[snapshot[:, None], who.flatten(1), kind]
            total += torch.bmm(them, profile[:, kind, :, None]).view(who.shape)
        return total

    def _items_agree(self, snapshot: Tensor, others: Tensor) -> Tensor:
        """[B, N, 1 + J] of items [B, N, 1 + J] with the first of them: their vectors' cosine, 1 for itself."""
        vectors = functional.normalize(self.keys.item_vectors[snapshot[:, None, None], others], dim=4).flatten(3)
        alike = functional.cosine_similarity(vectors[:, :, :1], vectors, dim=3)
        return torch.where(others == others[:, :, :1], 1.0, alike)

    def _numbers(self, scores: Tensor, said: Tensor) -> Tensor:
        """[B, N, E] of the best rows' scores [B, N, K], -inf where there is none, and what they said."""
        there = ~scores.isinf()
        said, rows = said * there, there.sum(2)
        weight = (self.temperature * scores).exp()  # 0 where there is none
        known = scores.masked_fill(~there, 0.0)
        numbers = [
            4.0 * said.sum(2) / (rows + self.strength),
            4.0 * (weight * said).sum(2) / (weight.sum(2) + self.strength),
            rows.log1p() / 4,
            known.sum(2) / rows.clamp(min=1) / 3,
            known[..., 0] / 3,
        ]
        return torch.stack(numbers, 2)

    def renumber(self, moved: Tensor, items: FeatureTable) -> None:
        """See ``HoldsItemRows``."""
        self.near.renumber(moved, items)
        moved, rows = moved.to(self.keys.item_vectors.device), items.rows
        self.keys, self.people = self.keys.renumbered(moved, rows), self.people.renumbered(moved, rows)
        self.own = self.own.renumbered(moved, rows)
