"""Is what plays good or bad at this moment?"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mmrlhf_ray.feedback.questions.base import Answer, AnswerError, Asked, check_keys, check_list, check_whole, named
from mmrlhf_ray.feedback.questions.others import check_seconds, others

_MAX_PRESSES = 1000
GOOD, BAD = 1, -1


@dataclass(frozen=True)
class LiveAnswer(Answer):
    presses: tuple[tuple[int, float, int], ...]
    """(index of the medium, its second, GOOD or BAD), by medium and second."""


class Live:
    """Keys that are pressed while a sound or clip plays. Seconds are of the medium, however fast it plays."""

    kind = "live"
    template = "questions/live.html"
    responses = range(0, 1)
    shows: tuple[str, ...] = ("audio", "video")

    def check(self, answer: Mapping[str, Any], asked: Asked) -> LiveAnswer:
        check_keys(answer, ("presses",))
        given = check_list(answer.get("presses"), "presses")
        if not given:
            raise AnswerError("presses", "nothing was good or bad; press while it plays or skip the item")
        if len(given) > _MAX_PRESSES:
            raise AnswerError("presses", f"at most {_MAX_PRESSES} are taken, got {len(given)}")
        presses = sorted(_press(press, f"presses[{i}]", asked) for i, press in enumerate(given))
        return LiveAnswer(**others(answer, asked), presses=tuple(presses))


def _press(press: Any, field: str, asked: Asked) -> tuple[int, float, int]:
    if not isinstance(press, list | tuple) or len(press) != 3:
        raise AnswerError(field, f"expected [medium, second, 1 or -1], got {named(press)}")
    medium = check_whole(press[0], f"{field}[0]", 0, len(asked.media) - 1)
    if asked.media[medium] == "image":
        raise AnswerError(f"{field}[0]", f"medium {medium} is a picture, which does not play")
    second = check_seconds(press[1], f"{field}[1]", asked)
    if type(press[2]) is not int or press[2] not in (GOOD, BAD):
        raise AnswerError(f"{field}[2]", f"expected {GOOD} for good or {BAD} for bad, got {named(press[2])}")
    return medium, second, press[2]
