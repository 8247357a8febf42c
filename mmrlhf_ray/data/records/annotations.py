"""Rows of the ANNOTATION table."""

from typing import Any

_EMPTY: dict[str, Any] = {
    "item_id": "",
    "role": "annotator",
    "choice": "",
    "ranks": [],
    "aspects": "{}",
    "text": "",
    "spans": "[]",
    "regions": "[]",
    "turns": "[]",
    "critique": "",
    "comment": "",
    "gold": False,
    "round": 0,
    "milliseconds": 0,
    "created": "",
}


def annotation_row(
    *, annotation_id: str, prompt_id: str, responses: list[str], annotator_id: str, kind: str, **others: Any
) -> dict[str, Any]:
    """A row of the ANNOTATION table; columns that are left out hold what stands for nothing.

    Responses count as shown in the order in which they are listed unless `order_shown` says otherwise.
    """
    return (
        _EMPTY
        | {
            "annotation_id": annotation_id,
            "prompt_id": prompt_id,
            "responses": responses,
            "sources": [""] * len(responses),
            "annotator_id": annotator_id,
            "kind": kind,
            "order_shown": list(range(len(responses))),
        }
        | others
    )
