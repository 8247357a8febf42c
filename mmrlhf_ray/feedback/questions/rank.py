"""In which order are the responses good?"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mmrlhf_ray.feedback.questions.base import (
    Answer,
    AnswerError,
    Asked,
    check_keys,
    check_list,
    check_whole,
)
from mmrlhf_ray.feedback.questions.others import others


@dataclass(frozen=True)
class RankAnswer(Answer):
    ranks: tuple[int, ...]


class Rank:
    kind = "rank"
    template = "questions/rank.html"
    responses = range(2, 10)  # one key each
    shows: tuple[str, ...] = ()

    def check(self, answer: Mapping[str, Any], asked: Asked) -> RankAnswer:
        check_keys(answer, ("ranks",))
        count = len(asked.responses)
        ranks = check_list(answer.get("ranks"), "ranks", count)
        ranks = [check_whole(rank, f"ranks[{i}]", 1, count) for i, rank in enumerate(ranks)]
        if min(ranks) != 1:
            raise AnswerError("ranks", f"the best response has rank 1, got {ranks}")
        return RankAnswer(**others(answer, asked), ranks=tuple(ranks))
