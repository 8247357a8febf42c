"""A response of several turns: what the policy wrote, and what it was shown in between."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

TurnKind = Literal["response", "observation"]
TURN_KINDS: tuple[TurnKind, ...] = get_args(TurnKind)


@dataclass(frozen=True)
class EpisodeTurn:
    kind: TurnKind
    """response: the policy wrote it; observation: it was shown to it."""
    text: str
    media_ids: tuple[str, ...] = ()
    """What the turn shows, in order."""


def transcript(turns: Sequence[EpisodeTurn]) -> str:
    """The text of an episode, which stands for it wherever responses are compared; lines of observations begin with
    "> "."""
    texts = [turn.text if turn.kind == "response" else _quoted(turn.text) for turn in turns if turn.text.strip()]
    return "\n\n".join(texts)


def _quoted(text: str) -> str:
    return "\n".join(f"> {line}" for line in text.split("\n"))


def turn_of(row: Mapping[str, Any]) -> EpisodeTurn:
    """The turn of an object with the fields of EpisodeTurn; others are left alone. Raises KeyError or ValueError."""
    if row["kind"] not in TURN_KINDS:
        raise ValueError(f"expected a turn of the kind {' or '.join(TURN_KINDS)}, got {row['kind']!r}")
    return EpisodeTurn(row["kind"], str(row["text"]), tuple(map(str, row.get("media_ids", ()))))


def turn_json(turn: EpisodeTurn) -> dict[str, Any]:
    """The object of a turn: the inverse of turn_of()."""
    return {"kind": turn.kind, "text": turn.text, "media_ids": list(turn.media_ids)}


def episodes_of(text: str) -> tuple[tuple[EpisodeTurn, ...], ...]:
    """The turns of each response from the JSON of the column `turns` of ANNOTATION; raises as turn_of() does."""
    return tuple(tuple(turn_of(turn) for turn in turns) for turns in json.loads(text))
