"""Rows in lines: a prompt that several rows have in common stands in a line once, with their responses behind it."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mmrlhf_ray.data.batches.collate import Batch, TokenRow, media_inputs
from mmrlhf_ray.data.encoding.encode import Features
from mmrlhf_ray.models import PART, PLACE, PLAIN_IDS, PLAIN_MASK, PROMPT


@dataclass(frozen=True)
class _Prompt:
    """A prompt at its place in a line."""

    line: int
    row: TokenRow
    """One of those that have it."""
    rows: list[int]
    """Numbers of the rows whose responses stand behind it."""


def collate_lines(
    rows: Sequence[TokenRow],
    lines: Sequence[int],
    dummies: Sequence[TokenRow],
    features: Mapping[str, Features],
    pad_token_id: int,
    towers: Collection[str],
    *,
    packed: bool = False,
    spread: int = 1,
) -> Batch:
    """As collate(), with a prompt that rows of one line have in common in it once. `lines`: of each row. A dummy has a
    line of its own, behind them. `packed`: there is one line, of rows and dummies that share nothing. `spread`: ranks
    that the pass is for; if more than one it is one line, dummies included, of a width that they can divide."""
    prompts = _apart(rows, dummies) if packed else _prompts(rows, lines, dummies, one_line=spread > 1)
    tokens = [len(p.row.context) + sum(len(rows[i].response) for i in p.rows) for p in prompts]
    loads = [0] * (prompts[-1].line + 1)
    for prompt, count in zip(prompts, tokens, strict=True):
        loads[prompt.line] += count
    width = -(-max(loads) // spread) * spread
    grid = _Grid.empty(len(loads), width, pad_token_id)
    response_positions: list[Tensor] = [torch.empty(0, dtype=torch.long)] * len(rows)
    last_positions, anchors, ends = [0] * len(rows), list[int](), [line * width for line in range(len(loads))]
    for number, prompt in enumerate(prompts):
        start = ends[prompt.line]
        end = grid.write(start, prompt.row.context, number, 0, 0)
        last = end - 1
        for part, row in enumerate(prompt.rows, 1):
            begin, end = end, grid.write(end, rows[row].response, number, part, last + 1 - start)
            response_positions[row] = torch.tensor([last, *range(begin, end - 1)][: end - begin], dtype=torch.long)
            last_positions[row] = end - 1 if end > begin else last
        if not prompt.rows:
            anchors.append(last)
        ends[prompt.line] = end
    shown = [prompt.row for prompt in prompts]
    inputs = grid.inputs() | _plain(prompts, rows, pad_token_id) | media_inputs(shown, features, towers)
    if packed:
        del inputs[PART]
    return Batch(
        inputs=inputs,
        response_positions=torch.cat([torch.empty(0, dtype=torch.long), *response_positions]),
        response_tokens=torch.tensor([t for row in rows for t in row.response], dtype=torch.long),
        last_positions=torch.tensor(last_positions, dtype=torch.long),
        anchor_positions=torch.tensor(anchors, dtype=torch.long),
    )


def _prompts(
    rows: Sequence[TokenRow], lines: Sequence[int], dummies: Sequence[TokenRow], *, one_line: bool
) -> list[_Prompt]:
    """Line by line, as the tokens and so the clips will stand. `one_line`: dummies have none of their own. A row whose
    response shows clips shares its prompt with none: theirs are other clips."""
    found: dict[tuple[int, bytes, tuple[str, ...], int], _Prompt] = {}
    order = {line: number for number, line in enumerate(sorted(set(lines)))}
    for number, (row, line) in enumerate(zip(rows, lines, strict=True)):
        alone = number if row.shown_later else -1
        key = (order[line], np.asarray(row.context, np.int64).tobytes(), tuple(row.media_ids), alone)
        found.setdefault(key, _Prompt(order[line], row, [])).rows.append(number)
    prompts = sorted(found.values(), key=lambda prompt: prompt.line)
    return prompts + [_Prompt(0 if one_line else len(order) + n, dummy, []) for n, dummy in enumerate(dummies)]


def _apart(rows: Sequence[TokenRow], dummies: Sequence[TokenRow]) -> list[_Prompt]:
    """All in one line, each with its own prompt."""
    return [*(_Prompt(0, row, [i]) for i, row in enumerate(rows)), *(_Prompt(0, dummy, []) for dummy in dummies)]


@dataclass(frozen=True)
class _Grid:
    """The tokens of all lines and what each of them is; all flat, [lines · width]."""

    lines: int
    ids: Tensor
    prompt: Tensor
    part: Tensor
    place: Tensor

    @classmethod
    def empty(cls, lines: int, width: int, pad_token_id: int) -> "_Grid":
        def full(value: int) -> Tensor:
            return torch.full((lines * width,), value, dtype=torch.long)

        return cls(lines, full(pad_token_id), full(-1), full(0), full(0))

    def write(self, start: int, tokens: Sequence[int], prompt: int, part: int, place: int) -> int:
        """Put tokens at `start`, the first of which is at `place` in its plain row; returns where they end."""
        end = start + len(tokens)
        self.ids[start:end] = torch.tensor(tokens, dtype=torch.long)
        self.prompt[start:end], self.part[start:end] = prompt, part
        self.place[start:end] = torch.arange(place, place + len(tokens))
        return end

    def inputs(self) -> dict[str, Tensor]:
        """[lines, width]."""
        named = {"input_ids": self.ids, PROMPT: self.prompt, PART: self.part, PLACE: self.place}
        return {name: values.view(self.lines, -1) for name, values in named.items()}


def _plain(prompts: Sequence[_Prompt], rows: Sequence[TokenRow], pad_token_id: int) -> dict[str, Tensor]:
    """Each prompt with its longest response as a plain row."""
    whole = [[*p.row.context, *max((rows[i].response for i in p.rows), key=len, default=())] for p in prompts]
    ids = torch.full((len(whole), max(map(len, whole))), pad_token_id, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for number, tokens in enumerate(whole):
        ids[number, : len(tokens)], mask[number, : len(tokens)] = torch.tensor(tokens), 1
    return {PLAIN_IDS: ids, PLAIN_MASK: mask}
