"""The part of the decomposer that is trained from nothing: token states to a chain of relations.

A recurrent cell begins at the state of the mask that stands for the start, looks at the question's
tokens anew for each hop, and names a relation or the end. Hops come from the start outwards, in the
order in which they are answered.

Imported where torch is already needed, and by nobody else.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

WIDTH, HEADS = 192, 4


class ChainDecoder(nn.Module):  # type: ignore[misc]
    """Scores the next symbol of a chain.

    Args:
        symbols: how many there are: the relations, the end of a chain, and "none of these".
        dim: width of the token states.
    """

    def __init__(self, symbols: int, dim: int) -> None:
        super().__init__()
        self.begin = nn.Linear(dim, WIDTH)
        self.key = nn.Linear(dim, WIDTH)
        self.value = nn.Linear(dim, WIDTH)
        self.query = nn.Linear(WIDTH, WIDTH)
        self.cell = nn.GRUCell(2 * WIDTH, WIDTH)
        self.out = nn.Linear(2 * WIDTH, WIDTH)
        self.symbols = nn.Parameter(torch.randn(symbols, WIDTH) * 0.05)
        self.bias = nn.Parameter(torch.zeros(symbols))
        self.first = nn.Parameter(torch.zeros(WIDTH))
        self.drop = nn.Dropout(0.1)

    def prepared(self, states: Tensor, places: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What all steps share.

        Args:
            states: of the tokens, (questions, tokens, dim).
            places: of the mask in each question, (questions,).

        Returns:
            The cell's first state, (questions, WIDTH); keys and values, (questions, tokens, WIDTH).
        """
        at_mask = states[torch.arange(len(states)), places]
        return torch.tanh(self.begin(at_mask)), self.key(states), self.value(states)

    def step(
        self,
        hidden: Tensor,
        before: Tensor,
        seen: Tensor,
        keys: Tensor,
        values: Tensor,
        mask: Tensor,
        symbols: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One symbol further.

        Args:
            hidden: the cell's state, (rows, WIDTH).
            before: the vector of the symbol before, (rows, WIDTH).
            seen: what was looked at last, (rows, WIDTH).
            keys: of the tokens, (rows, tokens, WIDTH).
            values: likewise.
            mask: which tokens there are, (rows, tokens), bool.
            symbols: the vectors of the symbols, (symbols, WIDTH): :attr:`symbols`, or what a
                training makes of it.

        Returns:
            The new state, what is looked at now, and the symbols' log-odds, (rows, symbols).
        """
        rows, tokens, _ = keys.shape
        hidden = self.cell(torch.cat([before, seen], -1), hidden)
        asked = self.query(hidden).view(rows, 1, HEADS, WIDTH // HEADS)
        match = (asked * keys.view(rows, tokens, HEADS, -1)).sum(-1) / math.sqrt(WIDTH // HEADS)
        weight = match.masked_fill(~mask.unsqueeze(-1), -1e9).softmax(1).unsqueeze(-1)
        seen = (weight * values.view(rows, tokens, HEADS, -1)).sum(1).reshape(rows, WIDTH)
        made = self.out(self.drop(torch.cat([hidden, seen], -1)))
        return hidden, seen, made @ symbols.t() + self.bias
