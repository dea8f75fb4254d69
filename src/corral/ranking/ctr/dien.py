"""Deep interest evolution network (Zhou et al., 2019): how interests moved, as the item sees it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from corral.ranking.ctr.interest_model import InterestModel


class AttentionalGru(nn.Module):
    """AUGRU: a GRU whose update gate u_t is multiplied by the attention a_t.

        u, r = sigmoid(W i_t + U s_{t-1} + b),  c = tanh(W_c i_t + b_c + r * U_c s_{t-1}),
        s_t = (1 - a_t u) * s_{t-1} + a_t u * c,  s_0 = 0.

    Without attention a step changes nothing. The inputs are the same for every item: their products are made
    once per query. Those of the states are not: 3 H^2 multiplications for every item and step, one step after
    the other, and autograd keeps about 8 tensors [B, N, H] of each. What of N candidates costs DIN N L pairs
    of small products costs this N L recurrences.
    """

    def __init__(self, input_size: int, size: int) -> None:
        super().__init__()
        self.size = size
        self.inputs = nn.Linear(input_size, 3 * size)
        self.states = nn.Linear(size, 3 * size, bias=False)

    def forward(self, inputs: Tensor, attention: Tensor, active: Sequence[int]) -> Tensor:
        """The last state [B, N, H].

        Args:
            inputs: i [B, L, I].
            attention: a [B, N, L].
            active: of each step, how many queries take it; the others, which come last, are done.
        """
        gates = self.inputs(inputs).unsqueeze(1).unbind(2)
        state = attention.new_zeros(*attention.shape[:2], self.size)
        done = []
        for count, gate, weight in zip(active, gates, attention.unsqueeze(-1).unbind(2), strict=False):
            if count < len(state):
                done.append(state[count:])
                state = state[:count]
            gate, weight = gate[:count], weight[:count]
            recurrent, split = self.states(state), 2 * self.size
            update, reset = torch.sigmoid(recurrent[..., :split] + gate[..., :split]).chunk(2, dim=-1)
            candidate = torch.tanh(torch.addcmul(gate[..., split:], reset, recurrent[..., split:]))
            state = torch.lerp(state, candidate.to(state.dtype), weight * update.to(state.dtype))
        return torch.cat([state, *reversed(done)])


class DIEN(InterestModel):
    """MLP over [context ; items ; the last state of the interests' evolution ; extra].

    A GRU reads the history once per query (interest extractor); its states h_t meet the target by attention
    softmax_t(<h_t, W target>), and an AUGRU runs over them for every item (interest evolution). Masked slots
    are taken out before: they are no step of either. On a CPU the queries are taken in the order of their
    lengths, so that padding costs nothing in the AUGRU.

    ReLU, not the paper's Dice: see ``DIN``. Left out: the auxiliary loss (each state should tell the next item
    from a sampled one), for which the objective would have to hand the model negatives of the history.

    Args:
        num_history_fields: see ``InterestModel``.
        state_size: H, of both recurrent layers; None: the size of a history slot, as in the paper. The cost a
            row is about 3 L H^2.
    """

    def __init__(
        self,
        field_size: int,
        num_context_fields: int,
        num_item_fields: int,
        *,
        num_history_fields: int | None = None,
        state_size: int | None = None,
        hidden: Sequence[int] = (200, 80),
        dropout: float = 0.0,
        batch_norm: bool = False,
        num_extra: int = 0,
    ) -> None:
        super().__init__(
            field_size,
            num_context_fields,
            num_item_fields,
            num_history_fields=num_history_fields,
            num_extra=num_extra,
        )
        history_size = self.slot_size
        self.state_size = history_size if state_size is None else state_size
        self.extractor = nn.GRU(history_size, self.state_size, batch_first=True)
        self.attention = nn.Linear(history_size, self.state_size, bias=False)
        self.evolution = AttentionalGru(self.state_size, self.state_size)
        self.add_mlp(self.state_size, hidden, dropout=dropout, batch_norm=batch_norm)

    def interest(self, target: Tensor, history: Tensor, mask: Tensor) -> Tensor:
        """See ``InterestModel``: the last state of the evolution."""
        lengths, order = mask.sum(1).sort(descending=True, stable=True)
        steps = torch.arange(mask.shape[1], device=mask.device)
        if mask.device.type == "cpu":
            active = [count for count in (lengths > steps.unsqueeze(1)).sum(1).tolist() if count]
        else:  # the lengths would have to be waited for
            active = [len(mask)] * len(steps)
        if not active or target.shape[1] == 0:
            return target.new_zeros(*target.shape[:2], self.state_size)
        # Real slots first, in their order; what is cut off is padding of all queries.
        slots = (~mask.index_select(0, order)).to(torch.int8).argsort(dim=1, stable=True)[:, : len(active)]
        packed = history.index_select(0, order)
        packed = packed.gather(1, slots.unsqueeze(-1).expand(-1, -1, packed.shape[2]))
        states, _ = self.extractor(packed)
        logits = self.attention(target.index_select(0, order)) @ states.transpose(1, 2)
        present = (lengths.unsqueeze(1) > steps[: len(active)]).unsqueeze(1)
        # A finite fill: a history of padding alone has equal weights here, and zero after the mask.
        attention = logits.masked_fill(~present, torch.finfo(logits.dtype).min).softmax(dim=2) * present
        return self.evolution(states, attention, active).index_select(0, order.argsort())
