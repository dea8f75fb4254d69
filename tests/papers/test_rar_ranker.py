"""RAR around any CTR model: what it adds, what it must not touch, and its joint loss."""

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from corral.data.batches import Batch, Query
from corral.ranking.ctr.deepfm import DeepFM
from corral.ranking.ctr.din import DIN
from corral.ranking.ctr.lr import LR
from corral.ranking.evidence import EvidenceRanker
from corral.ranking.fields import Fields
from corral.ranking.ranker import FieldRanker
from corral.rar.co_interaction import CoInteraction, Sets
from corral.rar.exposure import PairLog
from corral.rar.joint_ranker import Exposure, JointRanker
from corral.rar.keys import GivenKeys, OwnTables
from corral.rar.neighbours import CataloguePools, Neighbours
from corral.rar.objective import JointObjective
from corral.rar.random_selector import RandomSelector
from corral.rar.ranker import RarRanker
from corral.rar.selection import ExactSelector
from corral.rar.time_rules import TimeRule
from corral.training.fit import fit
from corral.training.optimizers import RowWiseAdam

USERS, ITEMS, SIZE, B, N = 30, 25, 4, 6, 3


def log(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """200 train events, the last user and the last item in none of them."""
    random = np.random.default_rng(seed)
    return random.integers(2, USERS - 1, 200), random.integers(2, ITEMS - 1, 200), random.integers(0, 100, 200)


def keys(seed: int = 0) -> GivenKeys:
    generator = torch.Generator().manual_seed(seed)
    return GivenKeys(torch.randn(USERS, 5, generator=generator), torch.randn(ITEMS, 5, generator=generator))


def make(kind: str = "deepfm", rule: TimeRule | None = None, **options: bool) -> RarRanker:
    torch.manual_seed(0)
    size = 1 if kind == "lr" else SIZE
    fields = Fields(USERS, ITEMS, field_size=size, id_dropout=0.5)
    sizes = (size, fields.num_context_fields, fields.num_item_fields)
    wide = 2 * size
    ctr = {
        "lr": lambda: LR(*sizes, num_extra=wide),
        "deepfm": lambda: DeepFM(sizes[0], sizes[1], sizes[2] + 2, hidden=(8,)),
        "din": lambda: DIN(sizes[0], sizes[1], sizes[2] + 2, num_history_fields=sizes[2], hidden=(8,)),
    }[kind]()
    ranker = RarRanker(
        EvidenceRanker(FieldRanker(fields, ctr), None),
        Neighbours(USERS, ITEMS, rule or TimeRule.static(), look_alikes=4, recall_items=5),
        CoInteraction(size, size, tower_size=8, output_size=None if kind == "lr" else size),
        as_extra=kind == "lr",
        **options,
    )
    return ranker.double()


def choose(ranker: RarRanker, selector: object = None) -> RarRanker:
    pools = CataloguePools(*log(), ranker.neighbours.rule)
    found = (selector or ExactSelector("cosine"),) * 2
    ranker.neighbours.refresh(keys(), pools, found)  # type: ignore[arg-type]
    return ranker


def queries(seed: int = 0) -> tuple[Query, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    user = torch.randint(2, USERS, (B,), generator=generator)
    history = torch.randint(2, ITEMS, (B, 5), generator=generator)
    time = torch.randint(0, 120, (B,), generator=generator)
    return Query(user, torch.zeros(B).long(), history, time), torch.randint(2, ITEMS, (B, N), generator=generator)


def test_neighbours_are_the_nearest_of_the_pool_but_oneself() -> None:
    ranker = choose(make())
    user_pool, item_pool = (set(column.tolist()) for column in log()[:2])
    vectors = keys()
    for table, pool, whole in (
        (ranker.neighbours.u2u[0], user_pool, vectors.users(0)),
        (ranker.neighbours.i2i[0], item_pool, vectors.items(0)),
    ):
        alike = functional.cosine_similarity(whole[:, None], whole[None], dim=-1)
        for row in range(2, len(whole)):
            others = sorted(pool - {row}, key=lambda other: -float(alike[row, other]))
            assert table[row].tolist() == others[: table.shape[1]]


@pytest.mark.parametrize("pool", [3, 10, 60, 100, 5000])
def test_lots_are_as_many_as_neighbours_would_be(pool: int) -> None:
    """The control has sets of the same size: k of the pool, none twice and not oneself, each as likely as another."""
    selector, rows = RandomSelector(seed=1), torch.arange(2, 2 + pool)
    selector.fit(torch.zeros(pool, 1), rows)
    own = rows[torch.arange(2000) % pool]
    found = selector.search(torch.zeros(2000, 1), 8, exclude=own).rows
    assert ((found > 0).sum(1) == min(8, pool - 1)).all()
    assert not (found == own[:, None]).any()
    ordered = found.sort(1).values
    assert not ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] > 0)).any()
    if pool <= 100:
        counts = torch.bincount(found[found > 0], minlength=2 + pool)[2:].double()
        expected = counts.sum() / pool
        assert float(((counts - expected) ** 2 / expected).sum()) < pool + 5 * (2 * pool) ** 0.5


@pytest.mark.parametrize("selector", [None, RandomSelector(seed=1)])
def test_never_oneself_never_padding_never_out_of_the_pool_never_twice(selector: object) -> None:
    ranker = choose(make(rule=TimeRule.blocks(log()[2], 4)), selector)
    for column, table in zip(log()[:2], (ranker.neighbours.u2u, ranker.neighbours.i2i), strict=True):
        assert not table[0].any()  # nobody is known in the first block
        for snapshot in range(1, 5):
            pool = {0, *column[ranker.neighbours.rule.holds(snapshot, log()[0], log()[2])].tolist()}
            for row in range(table.shape[1]):
                chosen = table[snapshot, row].tolist()
                assert set(chosen) <= pool
                assert row not in chosen or row == 0
                kept = [one for one in chosen if one]
                assert len(kept) == len(set(kept))
                assert chosen == kept + [0] * (len(chosen) - len(kept))


@pytest.mark.parametrize("kind", ["lr", "deepfm", "din"])
def test_logits_are_the_ctr_models_on_two_more_fields(kind: str) -> None:
    ranker = choose(make(kind)).eval()
    query, items = queries()
    found = ranker(query, items)
    fields, neighbours = ranker.ranker.fields, ranker.neighbours
    for b in range(B):
        for n in range(N):
            users = neighbours.u2u[0, query.user[b]].long()
            recalled = neighbours.i2i[0, items[b, n]].long()
            sets = Sets(
                fields.users(users)[None].flatten(2),
                fields.catalogue(recalled)[None, None].flatten(3),
                (users > 0)[None],
                (recalled > 0)[None, None],
            )
            common, diverse, _ = ranker.co_interaction(sets)
            one = Query(query.user[b : b + 1], query.event[:1], query.history[b : b + 1], query.time[:1])
            inner = ranker.ranker.ranker
            encoded = inner.encode(one)
            if kind == "lr":
                expected = inner.logits(encoded, items[b : b + 1, n : n + 1], torch.cat([common, diverse], -1))
            else:
                more = torch.stack([common, diverse], 2)
                expected = inner.logits(encoded, items[b : b + 1, n : n + 1], None, more)
            torch.testing.assert_close(found[b, n], expected[0, 0])


@pytest.mark.parametrize("kind", ["lr", "deepfm", "din"])
def test_without_neighbours_it_is_the_same_weights_with_zeroed_fields(kind: str) -> None:
    empty, zeroed = make(kind).eval(), choose(make(kind, zeroed=True)).eval()
    query, items = queries()
    torch.testing.assert_close(empty(query, items), zeroed(query, items))
    assert not torch.allclose(choose(make(kind)).eval()(query, items), zeroed(query, items))


def test_zeroed_learns_nothing_in_its_towers() -> None:
    ranker = choose(make(zeroed=True))
    query, items = queries()
    ranker(query, items).sum().backward()
    gradients = [parameter.grad for parameter in ranker.co_interaction.parameters()]
    assert all(gradient is None or not gradient.any() for gradient in gradients)


def test_gradient_reaches_the_chosen_rows_and_no_others() -> None:
    ranker = choose(make())
    query, items = queries()
    table = ranker.ranker.fields.users.id
    assert table is not None
    ranker.eval()
    ranker(query, items).sum().backward()
    assert table.weight.grad is not None
    touched = table.weight.grad.ne(0).any(1).nonzero().flatten().tolist()
    chosen = set(ranker.neighbours.u2u[0, query.user].flatten().tolist()) | set(query.user.tolist())
    assert set(touched) <= chosen
    assert set(ranker.neighbours.u2u[0, query.user].flatten().tolist()) - {0} <= set(touched)


def test_a_logit_depends_on_its_own_item_alone() -> None:
    ranker = choose(make("din")).eval()
    query, items = queries()
    alone = torch.cat([ranker(query, items[:, n : n + 1]) for n in range(N)], 1)
    torch.testing.assert_close(ranker(query, items), alone)


def batch(seed: int = 0) -> Batch:
    query, items = queries(seed)
    return Batch(query, items[:, 0], torch.tensor([1.0, 0.0, 1.0, 0.0, 0.0, 1.0]).double())


@pytest.mark.parametrize("granularity", list(Exposure))
@pytest.mark.parametrize("rule", [TimeRule.static(), TimeRule.blocks(log()[2], 3)])
def test_joint_loss_is_the_weighted_sum_with_labels_from_the_log(granularity: Exposure, rule: TimeRule) -> None:
    ranker = choose(make(rule=rule)).eval()
    user, item, time = log()
    exposures = PairLog.of(user, item, time, num_items=ITEMS)
    objective = JointObjective(
        JointRanker(ranker, exposures, lambda neighbours: None, alpha=0.7, granularity=granularity)
    )
    given = batch()
    losses = objective(given)
    enriched = ranker.enriched(given.query, given.item[:, None])
    click, total, count = 0.0, 0.0, 0
    for b in range(B):
        p = torch.sigmoid(enriched.logits[b, 0]).item()
        click -= math.log(p if given.label[b] else 1 - p) / B
        block = int(rule.snapshot(given.query.time[b : b + 1], given.query.user[b : b + 1]))
        held = rule.holds(block, user, time)
        known = set(zip(user[held].tolist(), item[held].tolist(), strict=True))
        cells = []
        for r, b_item in enumerate(enriched.item_rows[b, 0].tolist()):
            match = [
                torch.sigmoid(enriched.matching.logits[b, 0, a, r]).item()
                for a, one in enumerate(enriched.user_rows[b])
                if one
            ]
            if not b_item or not match:
                continue
            if granularity is Exposure.ITEM:
                mean = sum(match) / len(match)
                cells.append(-math.log(mean if (int(given.query.user[b]), b_item) in known else 1 - mean))
            else:
                for one, g in zip([int(u) for u in enriched.user_rows[b] if u], match, strict=True):
                    cells.append(-math.log(g if (one, b_item) in known else 1 - g))
        if cells:
            total, count = total + sum(cells) / len(cells), count + 1
    assert losses["click"].item() == pytest.approx(click, rel=1e-5)
    assert losses["exposure"].item() == pytest.approx(total / max(count, 1), rel=1e-5)
    assert losses["total"].item() == pytest.approx(0.7 * click + 0.3 * total / max(count, 1), rel=1e-5)


def test_alpha_one_is_the_click_loss_and_alpha_zero_is_refused() -> None:
    ranker = choose(make()).eval()
    assert set(JointObjective(JointRanker(ranker, None, lambda neighbours: None, alpha=1.0))(batch())) == {"total"}
    with pytest.raises(ValueError, match="alpha=0"):
        JointRanker(ranker, None, lambda neighbours: None, alpha=0.0)
    with pytest.raises(ValueError, match="exposures"):
        JointRanker(ranker, None, lambda neighbours: None, alpha=0.5)


def test_the_first_epoch_of_live_keys_warms_up_with_empty_sets() -> None:
    ranker = make()
    pools = CataloguePools(*log(), TimeRule.static())
    source = OwnTables(ranker.ranker.fields)
    objective = JointRanker(
        ranker,
        None,
        lambda neighbours: neighbours.refresh(source, pools, (ExactSelector("cosine"), ExactSelector("cosine"))),
        alpha=1.0,
        live=True,
    )
    objective.refresh()
    assert not ranker.neighbours.u2u.any()
    objective.refresh()
    first = ranker.neighbours.u2u.clone()
    assert first.any()
    with torch.no_grad():
        ranker.ranker.fields.users.id.weight.normal_()  # type: ignore[union-attr]
    objective.refresh()
    assert int(ranker.neighbours.version) == 2
    assert not torch.equal(first, ranker.neighbours.u2u)


def test_live_neighbours_are_judged_and_kept_as_the_weights_are() -> None:
    """At every validation, the first one too, and in the weights that are kept: what would be chosen now."""
    ranker = make().float()
    pools, source = CataloguePools(*log(), TimeRule.static()), OwnTables(ranker.ranker.fields)
    selectors = (ExactSelector("cosine"), ExactSelector("cosine"))
    joint = JointRanker(ranker, None, lambda known: known.refresh(source, pools, selectors), alpha=1.0, live=True)
    objective = JointObjective(joint)
    seen: list[Tensor] = []

    def chosen_now() -> Tensor:
        fresh = Neighbours(USERS, ITEMS, TimeRule.static(), look_alikes=4, recall_items=5)
        fresh.refresh(source, pools, selectors)
        return torch.cat([fresh.u2u.flatten(), fresh.i2i.flatten()])

    def known() -> Tensor:
        return torch.cat([ranker.neighbours.u2u.flatten(), ranker.neighbours.i2i.flatten()])

    class Loader:
        def batches_per_epoch(self) -> int:
            return 5

        def epoch(self, epoch: int, first_batch: int = 0) -> Iterator[Batch]:
            for number in range(first_batch, 5):
                yield batch(10 * epoch + number)

    def validate() -> dict[str, float]:
        assert known().any()
        assert torch.equal(known(), chosen_now())
        seen.append(known().clone())
        return {"auc": -abs(len(seen) - 2.0)}  # the second is the best

    fit(objective, Loader(), RowWiseAdam(objective, learning_rate=0.05), epochs=3, validate=validate, metric="auc")
    assert not torch.equal(seen[0], seen[1])
    assert torch.equal(known(), seen[1])
    assert torch.equal(known(), chosen_now())
    assert int(ranker.neighbours.version) == 2, "chosen once an epoch: the refresh after a validation need not"


def test_after_a_validation_one_refresh_alone_is_left_out() -> None:
    """Whatever passes between the two: a loss that asks the ranker for its logits alone, too."""
    calls: list[Neighbours] = []
    joint = JointRanker(make(), None, calls.append, alpha=1.0, live=True)
    joint.refresh()  # warm-up
    joint.renew()
    joint.refresh()
    assert len(calls) == 1
    joint.refresh()
    assert len(calls) == 2


def test_fixed_keys_are_compared_once() -> None:
    ranker, calls = make(), []
    pools = CataloguePools(*log(), TimeRule.static())

    def refresh(neighbours: Neighbours) -> None:
        calls.append(1)
        neighbours.refresh(keys(), pools, (ExactSelector("cosine"), ExactSelector("cosine")))

    objective = JointRanker(ranker, None, refresh, alpha=1.0)
    for _ in range(3):
        objective.refresh()
    assert calls == [1]


def test_own_keys_do_not_drop_ids_and_leave_the_mode_alone() -> None:
    fields = Fields(USERS, ITEMS, field_size=SIZE, id_dropout=0.9).train()
    source = OwnTables(fields)
    torch.testing.assert_close(source.users(0), fields.users.id.weight)  # type: ignore[union-attr]
    assert fields.users.training


def test_look_alikes_come_from_train_alone() -> None:
    """Whatever happens after train, the tables are the same: they are made from train columns."""
    user, item, time = log()
    rule = TimeRule.blocks(time, 4)
    first = make(rule=rule)
    first.neighbours.refresh(keys(), CataloguePools(user, item, time, rule), (ExactSelector("cosine"),) * 2)
    late = rule.edges[1]
    kept = time < int(late)
    second = make(rule=rule)
    second.neighbours.refresh(
        keys(), CataloguePools(user[kept], item[kept], time[kept], rule), (ExactSelector("cosine"),) * 2
    )
    for snapshot in range(3):  # snapshots whose events end before the corrupted part
        torch.testing.assert_close(first.neighbours.u2u[snapshot], second.neighbours.u2u[snapshot])
        torch.testing.assert_close(first.neighbours.i2i[snapshot], second.neighbours.i2i[snapshot])
