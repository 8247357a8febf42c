"""The output of `mmrlhf data check`."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from mmrlhf_ray.pipelines.data.found import Found
from mmrlhf_ray.pipelines.data.rows import OpenData, Stages

_SHOWN = 20
_MIB = 2**20


def render(data: OpenData, found: Found, stages: Stages, output: Path | None) -> str:
    """The entire report. `output`: where all bad rows were written."""
    good = found.rows - found.bad
    lines = [*_what(data), f"{found.rows:,} rows: {good:,} good, {found.bad:,} bad", ""]
    lines += _table(["modality", "rows"], _counted(found.modality.most_common()))
    lines += _table(["task", "rows"], _first(found.task))
    if found.media:
        counts = [(kind, f"{m.shown:,}", f"{m.unique:,}", f"{m.copies:,}") for kind, m in sorted(found.media.items())]
        lines += _table(["media", "shown", "unique", "copies"], counts)
    lines += _table(["extras", "rows"], _first(found.extras))
    if found.unshown_tags:
        rows = f"{found.unshown_tags:,} rows have" if found.unshown_tags > 1 else "1 row has"
        lines += [f"{rows} <image>, <audio> or <video> in a text and no such medium: it is read as text", ""]
    if found.tokens:
        lines += _table(["tokens", "min", "median", "p95", "max"], _lengths(found))
        lines += [
            f"{found.too_long:,} prompts are longer than max_prompt_tokens {data.config.most_prompt_tokens:,}",
            "",
        ]
    return "\n".join([*lines, *_cost(found, stages), *_bad(found, output)])


def _what(data: OpenData) -> list[str]:
    files = data.source.files
    more = f" and {len(files) - 1} more" if len(files) > 1 else ""
    others = ", ".join(f"{kind.lower()}s" for kind in data.possible if kind != data.kind)
    also = f" (could be read as {others}, too)" if others else ""
    return [f"{files[0]}{more}: format {data.source.form.name}, read as {data.kind.lower()}s{also}"]


def _first(counts: Counter[str]) -> list[Sequence[str]]:
    shown = _counted(counts.most_common(_SHOWN))
    more = len(counts) - len(shown)
    return shown + ([(f"… and {more} more", "")] if more else [])


def _counted(counts: Iterable[tuple[str, int]]) -> list[Sequence[str]]:
    return [(name, f"{count:,}") for name, count in counts]


def _lengths(found: Found) -> list[Sequence[str]]:
    rows: list[Sequence[str]] = []
    for name, lengths in found.tokens.items():
        low, median, high, top = np.percentile(np.frombuffer(lengths, dtype=np.int64), [0, 50, 95, 100])
        rows.append((name, f"{low:,.0f}", f"{median:,.0f}", f"{high:,.0f}", f"{top:,.0f}"))
    return rows


def _cost(found: Found, stages: Stages) -> list[str]:
    slowest = max(stages.seconds, key=lambda stage: stages.seconds[stage])
    share = stages.seconds[slowest] / max(found.seconds, 1e-9)
    at_mark, at_end = found.memory_at_mark / _MIB, found.memory_at_end / _MIB
    return [
        f"{found.rows / max(found.seconds, 1e-9):,.0f} rows/s; slowest: {slowest}, {share:.0%} of the time",
        f"resident memory {at_mark:,.0f} MiB at 20 % of the rows, {at_end:,.0f} MiB at the end",
    ]


def _bad(found: Found, output: Path | None) -> list[str]:
    if not found.bad:
        return []
    lines = ["", "bad rows", *(f"  {bad}" for bad in found.bad_kept)]
    left = found.bad - len(found.bad_kept)
    if left:
        lines.append(f"  … and {left:,} more{'' if output else '; --output FILE writes all of them'}")
    return lines + ([f"  all of them are in {output}"] if output else [])


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns side by side, the first to the left; a blank line after them. Nothing without rows."""
    if not rows:
        return []
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    lines = [
        "  ".join(cell.rjust(width) if i else cell.ljust(width) for i, (cell, width) in enumerate(zip(row, widths)))
        for row in (head, *rows)
    ]
    return [line.rstrip() for line in lines] + [""]
