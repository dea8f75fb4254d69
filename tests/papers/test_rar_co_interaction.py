"""RAR, sections 2 and 3: the matching matrix, its weights, and the exposure losses, against plain loops."""

import math

import pytest
import torch

from corral.rar.co_interaction import (
    CoInteraction,
    Matching,
    Normalisation,
    Pooling,
    Sets,
    _Products,
    item_exposure_loss,
    matched_and_exposed,
    pair_exposure_loss,
    set_weights,
)

B, N, KU, KI, DU, DI = 3, 2, 4, 5, 6, 7


def sets(seed: int = 0, dtype: torch.dtype = torch.float64) -> Sets:
    """Random sets; query 1 has no look-alikes, item (2, 0) no recall items, others some of both."""
    generator = torch.Generator().manual_seed(seed)
    user_mask = torch.rand(B, KU, generator=generator) < 0.7
    item_mask = torch.rand(B, N, KI, generator=generator) < 0.7
    user_mask[0, 0] = item_mask[0, :, 0] = True
    user_mask[1], item_mask[2, 0] = False, False
    return Sets(
        torch.randn(B, KU, DU, generator=generator, dtype=dtype),
        torch.randn(B, N, KI, DI, generator=generator, dtype=dtype),
        user_mask,
        item_mask,
    )


def test_matches_the_equations_cell_by_cell() -> None:
    torch.manual_seed(0)
    model, given = CoInteraction(DU, DI, tower_size=8).double(), sets()
    common, diverse, matching = model(given)
    for b in range(B):
        for n in range(N):
            users = [a for a in range(KU) if given.user_mask[b, a]]
            items = [r for r in range(KI) if given.item_mask[b, n, r]]
            v_c, v_d = torch.zeros(DU).double(), torch.zeros(DI).double()
            g = {}
            for a in users:
                for r in items:
                    z_l, z_r = model.user_tower(given.users[b, a]), model.item_tower(given.items[b, n, r])
                    g[a, r] = torch.sigmoid(z_l @ z_r / math.sqrt(8) + model.bias)
                    torch.testing.assert_close(torch.sigmoid(matching.logits[b, n, a, r]), g[a, r])
            if g:
                for a in users:
                    v_c += sum(g[a, r] for r in items) / len(items) * given.users[b, a]
                for r in items:
                    v_d += sum(g[a, r] for a in users) / len(users) * given.items[b, n, r]
            torch.testing.assert_close(common[b, n], v_c)
            torch.testing.assert_close(diverse[b, n], v_d)


def test_rows_projected_before_the_sum_are_the_sum_projected() -> None:
    torch.manual_seed(1)
    model, given = CoInteraction(DU, DI, tower_size=8, output_size=3).double(), sets(1)
    common, diverse, matching = model(given)
    of_users, of_items = set_weights(matching, Normalisation.MEAN)
    torch.testing.assert_close(common, model.projections[0](torch.einsum("bna,bad->bnd", of_users, given.users)))
    torch.testing.assert_close(diverse, model.projections[1](torch.einsum("bnr,bnrd->bnd", of_items, given.items)))


@pytest.mark.parametrize("normalisation", list(Normalisation))
@pytest.mark.parametrize("pooling", list(Pooling))
def test_empty_sets_give_exactly_zero_and_no_nan(normalisation: Normalisation, pooling: Pooling) -> None:
    model = CoInteraction(DU, DI, output_size=3, normalisation=normalisation, pooling=pooling).double()
    given = sets(2)
    given.users.requires_grad_(True)
    given.items.requires_grad_(True)
    common, diverse, _ = model(given)
    assert not common[1].any()
    assert not diverse[2, 0].any()
    (common.sum() + diverse.sum()).backward()
    assert given.users.grad is not None
    assert torch.isfinite(given.users.grad).all()
    assert not given.users.grad[~given.user_mask].any()
    assert given.items.grad is not None
    assert not given.items.grad[~given.item_mask].any()


def test_normalisations() -> None:
    cells = torch.ones(1, 1, 2, 3, dtype=torch.bool)
    cells[..., 2] = False
    logits = torch.tensor([[0.0, 2.0, 9.0], [-1.0, 1.0, 9.0]])[None, None]
    matching, g = Matching(logits, cells), torch.sigmoid(logits[0, 0, :, :2])
    users, items = set_weights(matching, Normalisation.MEAN)
    torch.testing.assert_close(users[0, 0], g.mean(1))
    torch.testing.assert_close(items[0, 0], torch.tensor([*g.mean(0).tolist(), 0.0]))
    torch.testing.assert_close(set_weights(matching, Normalisation.SUM)[0][0, 0], g.sum(1))
    torch.testing.assert_close(set_weights(matching, Normalisation.SUM_TO_ONE)[0][0, 0], g.mean(1) / g.mean(1).sum())
    soft = set_weights(matching, Normalisation.SOFTMAX)[1][0, 0]
    torch.testing.assert_close(soft, torch.tensor([*torch.tensor([-0.5, 1.5]).softmax(0).tolist(), 0.0]))


def test_sum_pooling_and_the_one_sided_controls_need_no_matrix() -> None:
    given = sets(3)
    for pooling in Pooling:
        torch.manual_seed(0)
        model = CoInteraction(DU, DI, pooling=pooling).double()
        common, diverse, _ = model(given)
        if pooling is Pooling.SUM:
            torch.testing.assert_close(common[0, 0], given.users[0][given.user_mask[0]].sum(0))
            torch.testing.assert_close(diverse[0, 1], given.items[0, 1][given.item_mask[0, 1]].sum(0))
        if pooling is Pooling.USERS:
            torch.testing.assert_close(common[0, 0], given.users[0][given.user_mask[0]].mean(0))
            assert not diverse.any()
        if pooling is Pooling.ITEMS:
            assert not common.any()


def test_the_matrix_s_own_gradient_is_that_of_its_values() -> None:
    generator = torch.Generator().manual_seed(0)
    users, items = (torch.randn(B, count, 5, generator=generator, dtype=torch.float64) for count in (KU, N * KI))
    towers = [one.requires_grad_() for one in (users, items, torch.zeros((), dtype=torch.float64))]
    assert torch.autograd.gradcheck(lambda a, b, c: _Products.apply(a, b, c, 1 / math.sqrt(5)), towers)


def test_exposed_cells_may_weigh_more() -> None:
    matching = CoInteraction(DU, DI).double()(sets(6))[2]
    cells = matching.cells
    exposed = torch.rand(B, N, KU, KI, generator=torch.Generator().manual_seed(1)) < 0.4
    p = torch.sigmoid(matching.logits.detach())
    each = torch.where(exposed, -3.0 * p.log(), -(1 - p).log()) * cells
    count = cells.sum((2, 3))
    wanted = ((each.sum((2, 3)) / count.clamp(min=1)).sum() / (count > 0).sum()).item()
    assert pair_exposure_loss(matching, exposed, 3.0).item() == pytest.approx(wanted, rel=1e-5)
    shown = exposed[:, :, 0]
    mean = (p * cells).sum(2) / cells.sum(2).clamp(min=1)
    valid = cells.any(2)
    each = torch.where(shown, -3.0 * mean.log(), -(1 - mean).log()).masked_fill(~valid, 0.0)
    count = valid.sum(2)
    wanted = ((each.sum(2) / count.clamp(min=1)).sum() / (count > 0).sum()).item()
    assert item_exposure_loss(matching, shown, 3.0).item() == pytest.approx(wanted, rel=1e-5)


def test_what_is_logged_is_of_valid_cells_alone() -> None:
    given = sets(7)
    matching = CoInteraction(DU, DI).double()(given)[2]
    exposed = torch.rand(B, N, KU, KI, generator=torch.Generator().manual_seed(1)) < 0.4
    found, cells = matched_and_exposed(matching, exposed), matching.cells
    torch.testing.assert_close(found["rar/matched"].double(), torch.sigmoid(matching.logits.detach())[cells].mean())
    torch.testing.assert_close(found["rar/exposed"], exposed[cells].float().mean())
    rows = [bool(given.user_mask[b].any() and given.item_mask[b, n].any()) for b in range(B) for n in range(N)]
    assert float(found["rar/covered"]) == pytest.approx(sum(rows) / len(rows))


def test_pair_loss_is_the_mean_over_valid_cells_then_examples() -> None:
    given = sets(4)
    model = CoInteraction(DU, DI).double()
    matching = model(given)[2]
    exposed = torch.rand(B, N, KU, KI) < 0.3
    total, count = 0.0, 0
    for b in range(B):
        for n in range(N):
            cells = [
                -math.log(p if exposed[b, n, a, r] else 1 - p)
                for a in range(KU)
                for r in range(KI)
                if matching.cells[b, n, a, r]
                for p in [float(torch.sigmoid(matching.logits[b, n, a, r].detach()))]
            ]
            if cells:
                total, count = total + sum(cells) / len(cells), count + 1
    assert pair_exposure_loss(matching, exposed).item() == pytest.approx(total / count, rel=1e-5)


def test_item_loss_is_the_log_loss_of_the_mean_match() -> None:
    matching = CoInteraction(DU, DI).double()(sets(5))[2]
    exposed = torch.rand(B, N, KI) < 0.3
    total, count = 0.0, 0
    for b in range(B):
        for n in range(N):
            losses = []
            for r in range(KI):
                users = [a for a in range(KU) if matching.cells[b, n, a, r]]
                if users:
                    p = sum(float(torch.sigmoid(matching.logits[b, n, a, r].detach())) for a in users) / len(users)
                    losses.append(-math.log(p if exposed[b, n, r] else 1 - p))
            if losses:
                total, count = total + sum(losses) / len(losses), count + 1
    assert item_exposure_loss(matching, exposed).item() == pytest.approx(total / count, rel=1e-5)


def test_item_loss_is_finite_where_the_mean_match_is_zero_or_one_in_floats() -> None:
    for sign in (1.0, -1.0):
        logits = torch.full((1, 1, 3, 2), 200.0 * sign, requires_grad=True)
        loss = item_exposure_loss(Matching(logits, torch.ones(1, 1, 3, 2, dtype=torch.bool)), torch.tensor([[[1, 0]]]))
        loss.backward()
        assert loss.item() == pytest.approx(100.0)
        assert logits.grad is not None
        assert torch.isfinite(logits.grad).all()


def test_no_valid_cell_gives_no_loss_and_no_gradient() -> None:
    logits = torch.zeros(2, 1, 3, 2, requires_grad=True)
    matching = Matching(logits, torch.zeros(2, 1, 3, 2, dtype=torch.bool))
    loss = pair_exposure_loss(matching, torch.ones(2, 1, 3, 2)) + item_exposure_loss(matching, torch.ones(2, 1, 2))
    loss.backward()
    assert loss.item() == 0.0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_the_bias_starts_at_the_logit_of_the_prior() -> None:
    assert torch.sigmoid(CoInteraction(DU, DI, prior=0.02).bias).item() == pytest.approx(0.02)
    with pytest.raises(ValueError, match="prior"):
        CoInteraction(DU, DI, prior=0.0)
    with pytest.raises(ValueError, match="needs fields"):
        CoInteraction(0, DI)
