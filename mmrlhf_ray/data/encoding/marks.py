"""Which tokens of a record's responses people marked, from `extras.annotated.regions` (docs/feedback.md)."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from mmrlhf_ray.data.encoding.encode import Encoder, without_end


def marked_tokens(
    encoder: Encoder, record: Mapping[str, Any], texts: Sequence[str], token_ids: Sequence[Sequence[int]]
) -> list[list[bool]]:
    """For each token of each response whether somebody marked a part of it; [] where nobody marked anything.

    `texts` and `token_ids`: of the responses, in the record's order. Raises ValueError for a mark that is not in its
    response, and for a tokenizer that does not say where its tokens stand.
    """
    marks = _marks(record, texts)
    if not any(marks):
        return []
    return [_flags(encoder, *response) for response in zip(texts, token_ids, marks, strict=True)]


def _marks(record: Mapping[str, Any], texts: Sequence[str]) -> list[list[tuple[int, int]]]:
    """Characters [start, end) that were marked in each response."""
    annotated = json.loads(record["extras"]).get("annotated")
    regions = annotated.get("regions", ()) if isinstance(annotated, dict) else ()
    numbers = {name: i for i, name in enumerate(n for n in ("response", "chosen", "rejected") if n in record)}
    found: list[list[tuple[int, int]]] = [[] for _ in texts]
    for region in regions:
        try:
            if region["kind"] != "text":
                continue
            name, (start, end) = region["response"], region["extent"]
            number = name if isinstance(name, int) else numbers[name]
            inside = 0 <= start < end <= len(texts[number])
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise ValueError(f"extras.annotated.regions holds {region!r:.200}, which marks no response") from error
        if not inside:
            raise ValueError(f"extras.annotated.regions marks {start} to {end} of {name!r}, beyond its text")
        found[number].append((start, end))
    return found


def _flags(encoder: Encoder, text: str, token_ids: Sequence[int], marks: Sequence[tuple[int, int]]) -> list[bool]:
    if not encoder.tokenizer.is_fast:
        raise ValueError("marked words need a fast tokenizer, which says where its tokens stand; leave the marks out")
    text = without_end(encoder, text)
    offsets = encoder.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    words = [(b - len(text[a:b].lstrip()), b) for a, b in offsets]  # many tokens begin with the blank before a word
    flags = [any(a < end and start < b for start, end in marks) for a, b in words]
    return [*flags, *[False] * (len(token_ids) - len(flags))]  # the end of the turn is nobody's word
