"""Reading teachers' distributions, and the policy's distance from them, off the head's output."""

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import torch
from torch import Tensor

from mmrlhf_ray.algorithms.distillation import teacher_kl, teacher_numbers
from mmrlhf_ray.config.distillation import DistillationConfig
from mmrlhf_ray.data.batches.collate import flat_column
from mmrlhf_ray.training.logprobs import ResponseLogprobs

COLUMN = "teacher_distributions"
"""Of EXPERIENCE."""


@dataclass(frozen=True)
class TeacherReader:
    """Reads what is to be known of a teacher, [N, numbers] as of teacher_numbers()."""

    read: ResponseLogprobs
    top_k: int | None

    def __call__(self, output: Tensor, tokens: Tensor) -> Tensor:
        return teacher_numbers(output, self.top_k, self.read.temperature, self.read.banned_on(output.device))


@dataclass(frozen=True)
class WithTeachers:
    """Reads from the policy's logits what `read` does of the tokens that come next, and as a last column the mean of
    the divergences from the teachers, by their weights.

    The tokens are [N, 1 + numbers]: what comes next, and the numbers of one teacher after the other; none where there
    is no response.
    """

    read: ResponseLogprobs
    cfg: DistillationConfig
    entropy: bool
    """Whether the entropy stands between the two."""

    def __call__(self, output: Tensor, tokens: Tensor) -> Tensor:
        own = self.read.with_entropy if self.entropy else self.read
        said = own(output, tokens[:, 0].long())
        teachers = tokens[:, 1:].chunk(len(self.cfg.teachers), dim=1) if tokens.shape[1] > 1 else ()
        weights = [teacher.weight for teacher in self.cfg.teachers]
        total = output.new_zeros(len(output), dtype=said.dtype)
        for weight, numbers in zip(weights, teachers, strict=False):
            total = total + weight / sum(weights) * self._divergence(output, numbers)
        return torch.cat([said if said.dim() == 2 else said[:, None], total[:, None]], dim=1)

    def _divergence(self, output: Tensor, numbers: Tensor) -> Tensor:
        banned = self.read.banned_on(output.device)
        return teacher_kl(output, numbers, self.cfg.divergence, self.cfg.top_k, self.read.temperature, banned)


def numbers_of(table: pa.Table, rows: Sequence[int]) -> Tensor:
    """What the teachers said of the response tokens of EXPERIENCE rows, [N, numbers]."""
    lists = table.column("response_token_ids").combine_chunks().take(pa.array(rows, pa.int64()))
    flat = torch.from_numpy(flat_column(table, COLUMN, rows).copy())
    return flat.reshape(len(lists.flatten()), -1) if len(rows) else flat.reshape(0, 0)
