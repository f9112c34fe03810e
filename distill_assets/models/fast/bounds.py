"""Where the pairs of a batch lie among its packed tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional

Runs = Sequence[tuple[int, int]]


@dataclass(frozen=True)
class Bounds:
    """Where the pairs of a batch lie among its tokens; each view of it is made once, where it is asked for.

    Attributes:
        per_pair: tokens of each pair.
        device: where the tokens are.
    """

    per_pair: Sequence[int]
    device: torch.device

    @cached_property
    def runs(self) -> Runs:
        """(number of pairs, tokens of each) of neighbouring pairs of equal length."""
        return runs_of(self.per_pair)

    @cached_property
    def lengths(self) -> Tensor:
        """int64 (num_pairs,), tokens of each pair."""
        return torch.tensor(self.per_pair, dtype=torch.int64, device=self.device)

    @cached_property
    def firsts(self) -> Tensor:
        """int64 (num_pairs,), place of each pair's first token."""
        return self.lengths.cumsum(dim=0) - self.lengths

    @cached_property
    def positions(self) -> Tensor:
        """int64 (num_tokens,), place of each token in its own pair, from 0."""
        return torch.arange(sum(self.per_pair), device=self.device) - self.spread(self.firsts)

    @cached_property
    def cumulative(self) -> Tensor:
        """int32 (num_pairs + 1,): the bounds as the varlen kernel reads them."""
        return functional.pad(self.lengths.cumsum(dim=0), (1, 0)).to(torch.int32)

    def spread(self, per_pair: Tensor) -> Tensor:
        """One value per pair as one per token."""
        return per_pair.repeat_interleave(self.lengths, output_size=sum(self.per_pair))


def runs_of(lengths: Sequence[int]) -> list[tuple[int, int]]:
    """Neighbours of equal length, as (how many, length)."""
    runs: list[tuple[int, int]] = []
    for length in lengths:
        if runs and runs[-1][1] == length:
            runs[-1] = (runs[-1][0] + 1, length)
        else:
            runs.append((1, length))
    return runs


def split_runs(values: Tensor, runs: Runs) -> Sequence[Tensor]:
    """`values` (num_tokens, ...) cut at the ends of the runs."""
    return torch.split(values, [count * length for count, length in runs])  # type: ignore[no-untyped-call]
