"""The places of a step's candidates, found with one transfer from the device and shared by all users."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class CandidateIndex:
    """The places of a boolean mask in row-major order. "Active" rows contain at least one place.

    Args:
        rows (`torch.LongTensor` of shape `(num_candidates,)`):
            Batch row of each candidate.
        columns (`torch.LongTensor` of shape `(num_candidates,)`):
            Column of each candidate.
        ranks (`torch.LongTensor` of shape `(num_candidates,)`):
            Number of each candidate's row among the active rows.
        slots (`torch.LongTensor` of shape `(num_candidates,)`):
            Number of each candidate within its row.
        active (`torch.LongTensor` of shape `(num_active,)`):
            The active rows, ascending.
        host_active (`list[int]`):
            The same as a list, available without a transfer from the device.
        first_columns (`list[int]`):
            First candidate of each active row.
        last_columns (`list[int]`):
            Last candidate of each active row.
        width (`int`):
            Largest number of candidates in a row; 0 if there are none.
    """

    rows: torch.Tensor
    columns: torch.Tensor
    ranks: torch.Tensor
    slots: torch.Tensor
    active: torch.Tensor
    host_active: list[int]
    first_columns: list[int]
    last_columns: list[int]
    width: int

    @classmethod
    def of(cls, candidates: torch.Tensor, on_host: torch.Tensor | None = None) -> "CandidateIndex":
        """Find the places of a mask.

        Args:
            candidates (`torch.BoolTensor` of shape `(batch, length)`):
                The mask; the index is on its device.
            on_host (`torch.BoolTensor` of shape `(batch, length)`, *optional*):
                A copy of it on the CPU; by default it is copied, which waits for the device.
        """
        on_host = candidates.cpu() if on_host is None else on_host
        rows, columns = on_host.nonzero(as_tuple=True)
        counts = on_host.sum(dim=-1)
        active = counts.nonzero().squeeze(-1)
        counts = counts[active]
        ends = counts.cumsum(dim=0)
        ranks = torch.repeat_interleave(torch.arange(active.numel()), counts)
        slots = torch.arange(rows.numel()) - (ends - counts)[ranks]
        # One upload, which does not wait for the device.
        host_active, firsts, lasts = active.tolist(), columns[ends - counts].tolist(), columns[ends - 1].tolist()
        packed = torch.cat([rows, columns, ranks, slots, active]).to(candidates.device, non_blocking=True)
        sizes = [rows.numel()] * 4 + [active.numel()]
        rows, columns, ranks, slots, active = packed.split(sizes)
        width = max(counts.tolist(), default=0)
        return cls(rows, columns, ranks, slots, active, host_active, firsts, lasts, width)

    @property
    def places(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Row, counted among the active rows, and column of each candidate."""
        return self.ranks, self.columns

    @property
    def is_full(self) -> bool:
        """Whether all active rows have the same number of candidates, so that nothing is padded."""
        return len(self.host_active) * self.width == self.ranks.numel()

    def padded(self, values: torch.Tensor) -> torch.Tensor:
        """Arrange values of the candidates by active row; shorter rows are filled with zeros.

        Args:
            values (`torch.Tensor` of shape `(num_candidates, ...)`):
                A value for each candidate, on any device.

        Returns:
            `torch.Tensor` of shape `(num_active, width, ...)`, on the device of `values`.
        """
        shape = (len(self.host_active), self.width, *values.shape[1:])
        if self.is_full:
            return values.view(shape)
        arranged = values.new_zeros(shape)
        arranged[self.ranks.to(values.device), self.slots.to(values.device)] = values
        return arranged

    def flat(self, arranged: torch.Tensor) -> torch.Tensor:
        """Undo [`padded`]: return the values of the candidates, shape `(num_candidates, ...)`."""
        return arranged.flatten(0, 1) if self.is_full else arranged[self.ranks, self.slots]
