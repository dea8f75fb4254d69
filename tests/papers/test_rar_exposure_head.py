"""The control "exposure as an ordinary second head": its loss by hand, what it draws and what it teaches."""

import math

import numpy as np
import pytest
import torch

from corral.data.batches import Batch, Query
from corral.ranking.ctr.fm import FM
from corral.ranking.fields import Fields
from corral.ranking.ranker import FieldRanker
from corral.rar.exposure import PairLog
from corral.rar.exposure_head import ExposureHeadObjective
from corral.training.ranking_objectives import ClickObjective

USERS, ITEMS, B, DRAWS = 9, 12, 40, 6


def log(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """60 events: users have met half of the few items."""
    random = np.random.default_rng(seed)
    return random.integers(2, USERS, 60), random.integers(2, ITEMS, 60), random.integers(0, 20, 60)


def make(**options: float) -> ExposureHeadObjective:
    torch.manual_seed(0)
    fields = Fields(USERS, ITEMS, field_size=4, id_dropout=0.5, embedding_std=0.5)
    ranker = FieldRanker(fields, FM(4, fields.num_context_fields, fields.num_item_fields))
    exposures = PairLog.of(*log(), num_items=ITEMS)
    keywords = {"num_draws": DRAWS, "tower_size": 5, "seed": 3, **options}
    return ExposureHeadObjective(ranker, exposures, torch.arange(2, ITEMS), **keywords).double()  # type: ignore[arg-type]


def batch(seed: int = 0) -> Batch:
    """Rows of the log, and in the second half the same users with other items, as sampled negatives."""
    user, item, time = (torch.from_numpy(column[:B]) for column in log(seed))
    item = torch.cat([item[: B // 2], torch.from_numpy(np.random.default_rng(5).integers(2, ITEMS, B // 2))])
    query = Query(user, torch.zeros(B).long(), torch.zeros(B, 0).long(), time)
    return Batch(query, item, torch.rand(B, generator=torch.Generator().manual_seed(1)).round().double())


def test_loss_is_clicks_and_exposures_cell_by_cell() -> None:
    objective, given = make(alpha=0.7).eval(), batch()
    user, item, time = log()
    losses = objective(given)
    drawn = torch.randint(ITEMS - 2, (B, DRAWS), generator=torch.Generator().manual_seed(3)) + 2
    logits = objective.ranker(given.query, given.item[:, None])[:, 0]
    click, total, left_out, not_shown = 0.0, 0.0, 0, 0
    for b in range(B):
        p = torch.sigmoid(logits[b]).item()
        click -= math.log(p if given.label[b] else 1 - p) / B
        who, what, when = (int(column[b]) for column in (given.query.user, given.item, given.query.time))
        cells = [(what, bool(((user == who) & (item == what) & (time <= when)).any()))]
        not_shown += not cells[0][1]
        for one in drawn[b].tolist():
            if one == what or ((user == who) & (item == one) & (time < when)).any():
                left_out += 1
            else:
                cells.append((one, False))
        loss = 0.0
        for one, exposed in cells:
            vectors = (
                table(torch.tensor([row]), keep_ids=True)[0].flatten()
                for table, row in zip(
                    (objective.ranker.fields.users, objective.ranker.fields.catalogue), (who, one), strict=True
                )
            )
            towers = [t(v) for t, v in zip((objective.user_tower, objective.item_tower), vectors, strict=True)]
            q = torch.sigmoid(towers[0] @ towers[1] / math.sqrt(5) + objective.bias).item()
            loss -= math.log(q if exposed else 1 - q) / len(cells)
        total += loss / B
    assert left_out > 10
    assert 0 < not_shown < B
    assert losses["click"].item() == pytest.approx(click, rel=1e-6)
    assert losses["exposure"].item() == pytest.approx(total, rel=1e-6)
    assert losses["total"].item() == pytest.approx(0.7 * click + 0.3 * total, rel=1e-6)


def test_the_click_loss_is_that_of_clicks_alone() -> None:
    objective, given = make().eval(), batch()
    assert objective(given)["click"].item() == pytest.approx(ClickObjective(objective.ranker)(given)["total"].item())


def test_the_head_teaches_the_embeddings_and_nothing_of_the_ctr_model() -> None:
    objective = make()
    objective(batch())["exposure"].backward()
    fields = objective.ranker.fields
    for table in (fields.users.id, fields.catalogue.id):
        assert table is not None
        assert table.weight.grad is not None
        assert table.weight.grad.any()
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in objective.ranker.ctr.parameters())
    heads = [*objective.user_tower.parameters(), *objective.item_tower.parameters(), objective.bias]
    assert all(parameter.grad.any() for parameter in heads)  # type: ignore[union-attr]


def test_the_ranker_keeps_nothing_of_the_head() -> None:
    names = make().ranker.state_dict()
    assert not [name for name in names if "tower" in name or "sampler" in name]


def test_later_events_change_nothing() -> None:
    given = batch()
    early = Batch(given.query, given.item, given.label)
    before = make().eval()(early)["exposure"]
    user, item, time = log()
    kept = time <= int(given.query.time.max())
    objective = make().eval()
    objective._exposures = lambda: PairLog.of(
        np.append(user[kept], user), np.append(item[kept], item), np.append(time[kept], time + 1000), num_items=ITEMS
    )
    torch.testing.assert_close(objective(early)["exposure"], before)


def test_it_learns_who_meets_what() -> None:
    """Users of even rows meet even items: the head must find out, from the log alone."""
    random = np.random.default_rng(0)
    user = random.integers(2, 22, 3000)
    item = 2 + 2 * random.integers(0, 20, 3000) + user % 2
    time = np.arange(3000)
    torch.manual_seed(0)
    fields = Fields(22, 42, field_size=4, embedding_std=0.5)
    ranker = FieldRanker(fields, FM(4, fields.num_context_fields, fields.num_item_fields))
    exposures = PairLog.of(user, item, time, num_items=42)
    objective = ExposureHeadObjective(ranker, exposures, torch.arange(2, 42), alpha=0.5, tower_size=8)
    optimizer = torch.optim.Adam(objective.parameters(), lr=0.01)
    columns = [torch.from_numpy(column) for column in (user, item, time)]
    for at in torch.randperm(3000).repeat(5).split(100):
        u, i, t = (column[at] for column in columns)
        query = Query(u, u, torch.zeros(len(u), 0).long(), t)
        optimizer.zero_grad()
        objective(Batch(query, i, torch.ones(len(u)))).get("total").backward()  # type: ignore[union-attr]
        optimizer.step()
    users, items = torch.arange(2, 22), torch.arange(2, 42)
    with torch.no_grad():
        found = objective.head(users, items.expand(20, -1))
    met = users[:, None] % 2 == items % 2
    assert found[met].min() > found[~met].max()


def test_draws_are_the_generators_and_resume() -> None:
    first, again = make().eval(), make().eval()
    values = [first(batch())["exposure"].item() for _ in range(3)]
    again(batch())
    state = again.generators()["exposure_draws"].get_state()
    resumed = make(seed=99).eval()
    resumed.generator.set_state(state)
    assert [resumed(batch())["exposure"].item() for _ in range(2)] == values[1:]
    assert values[0] != values[1]


@pytest.mark.parametrize("wrong", [{"alpha": 1.0}, {"alpha": 0.0}, {"num_draws": 0}])
def test_wrong_settings_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}="):
        make(**wrong)


def test_users_without_fields_are_refused() -> None:
    fields = Fields(USERS, ITEMS, field_size=4, user_id=False)
    ranker = FieldRanker(fields, FM(4, fields.num_context_fields, fields.num_item_fields))
    with pytest.raises(ValueError, match="fields of users"):
        ExposureHeadObjective(ranker, PairLog.empty(ITEMS), torch.arange(2, ITEMS))
