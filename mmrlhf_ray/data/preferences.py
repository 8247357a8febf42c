"""Preferences from annotations: the votes on each pair of responses, counted."""

from collections import defaultdict
from itertools import combinations

import pyarrow as pa

from mmrlhf_ray.data.errors import DataError
from mmrlhf_ray.schema import ANNOTATION, PREFERENCE, PROMPT, check


def preferences_from_annotations(annotations: pa.Table, prompts: pa.Table) -> pa.Table:
    """PREFERENCE rows from ANNOTATION rows with ranks (kinds pair, rank and rate).

    A ranking of k responses is k·(k − 1)/2 votes. Votes on the same prompt and the same two texts, in whichever
    order they were listed, are one pair; the response with more votes is chosen. `margin` is the mean vote,
    (votes for − votes against) / votes with ties counted, in (0, 1]. Pairs without a majority, and pairs of equal
    texts, give no row; nor do annotations without ranks (corrections, demonstrations, clicks). Rows are in the order
    of a pair's first vote.

    Raises DataError for ranks that do not match the responses, for an unknown prompt, and for a prompt_id that
    occurs twice.
    """
    check(annotations, ANNOTATION, "preferences_from_annotations")
    check(prompts, PROMPT, "preferences_from_annotations")
    asked = {row["prompt_id"]: row for row in prompts.to_pylist()}
    if len(asked) != prompts.num_rows:
        raise DataError(f"prompts: prompt_id must be unique; {prompts.num_rows} rows have {len(asked)} different ids")
    # (prompt_id, text, text) in sorted order → votes: +1 for the first text, −1 for the second, 0 for a tie
    votes: dict[tuple[str, str, str], list[int]] = defaultdict(list)
    for i, row in enumerate(annotations.to_pylist()):
        responses, ranks = row["responses"], row["ranks"]
        if row["prompt_id"] not in asked:
            raise DataError(f"annotations row {i} ({row['annotation_id']}): unknown prompt_id {row['prompt_id']!r}")
        if not ranks:
            continue
        if len(ranks) != len(responses):
            raise DataError(
                f"annotations row {i} ({row['annotation_id']}): ranks expects one entry for each of the "
                f"{len(responses)} responses, got {len(ranks)}"
            )
        for (text_a, rank_a), (text_b, rank_b) in combinations(sorted(zip(responses, ranks, strict=True)), 2):
            if text_a != text_b:
                votes[row["prompt_id"], text_a, text_b].append((rank_a < rank_b) - (rank_a > rank_b))

    rows = []
    for (prompt_id, text_a, text_b), cast in votes.items():
        margin = sum(cast) / len(cast)
        if margin == 0:
            continue
        chosen, rejected = (text_a, text_b) if margin > 0 else (text_b, text_a)
        rows.append(asked[prompt_id] | {"chosen": chosen, "rejected": rejected, "margin": abs(margin)})
    return pa.Table.from_pylist(rows, schema=PREFERENCE)
