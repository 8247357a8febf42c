"""Built-in rewards that look at the form of a response, and at whether its claims occur in the facts."""

import re
from collections.abc import Sequence
from typing import Any

from mmrlhf_ray.rewards.text import strings, words

# Words that claim nothing by themselves.
_FUNCTION_WORDS = frozenset(
    word
    for line in (
        "a an the this that these those there it its he she they them his her their i you we me my your our",
        "and or but nor so if then than as of in on at to from by with without for about into onto over under between",
        "is are was were be been being am do does did done have has had having will would can could may might shall",
        "should must not no yes also very which who whom whose what when where why how all any both each some such",
        "only own same too s t re ve ll d m",  # the last ones are what apostrophes leave
    )
    for word in line.split()
)


def format_match(
    prompts: Sequence[str], completions: Sequence[str], *, pattern: str, whole: bool = True, **columns: Any
) -> list[float | None]:
    """1 where the regular expression `pattern` matches, else 0. whole: the entire response; else any part of it.

    A full stop in the pattern matches line ends too.
    """
    try:
        compiled = re.compile(pattern, re.DOTALL)
    except re.error as error:
        raise ValueError(f"pattern expects a regular expression, got {pattern!r}: {error}") from error
    match = compiled.fullmatch if whole else compiled.search
    return [float(match(text) is not None) for text in completions]


def length_penalty(
    prompts: Sequence[str],
    completions: Sequence[str],
    *,
    free_tokens: int,
    cost: float = 0.01,
    most: float = 1.0,
    response_tokens: Sequence[int],
    **columns: Any,
) -> list[float | None]:
    """−cost for each token beyond `free_tokens` (the one that ends the response counts), at least −most."""
    for name, value in (("free_tokens", free_tokens), ("cost", cost), ("most", most)):
        if value < 0:
            raise ValueError(f"{name} expects a number of at least 0, got {value}")
    return [0.0 - min(most, cost * max(0, tokens - free_tokens)) for tokens in response_tokens]


def turn_penalty(
    prompts: Sequence[str],
    completions: Sequence[str],
    *,
    free_turns: int = 1,
    cost: float = 0.1,
    turns: Sequence[int],
    **columns: Any,
) -> list[float | None]:
    """−cost for each turn of the policy beyond `free_turns`, so that tools are used where they help."""
    for name, value in (("free_turns", free_turns), ("cost", cost)):
        if value < 0:
            raise ValueError(f"{name} expects a number of at least 0, got {value}")
    return [0.0 - cost * max(0, count - free_turns) for count in turns]


def repetition_penalty(
    prompts: Sequence[str], completions: Sequence[str], *, n: int = 3, most: float = 1.0, **columns: Any
) -> list[float | None]:
    """−most times the share of the response's n-grams of words that are repetitions: 1 − different ones / all.

    0 for a response of up to n words. The measure is that of Yeo et al. 2025, "Demystifying Long Chain-of-Thought
    Reasoning in LLMs", section 4, for the entire response and not per token.
    """
    if n < 1:
        raise ValueError(f"n expects 1 or more, got {n}")
    if most < 0:
        raise ValueError(f"most expects a number of at least 0, got {most}")
    penalties: list[float | None] = []
    for text in completions:
        said = words(text)
        grams = [tuple(said[i : i + n]) for i in range(len(said) - n + 1)]
        penalties.append(-most * (1 - len(set(grams)) / len(grams)) if grams else 0.0)
    return penalties


def grounding(
    prompts: Sequence[str],
    completions: Sequence[str],
    *,
    key: str = "facts",
    ignore: Sequence[str] = (),
    **columns: Any,
) -> list[float | None]:
    """Share of the different content words and numbers in the response that occur in the facts, in [0, 1].

    The column holds text, or JSON of which every text, number and key counts. Content words are all but English
    function words and those in `ignore`. A response without any claims nothing and scores 0; a row without facts is
    not applicable. Words are compared, not meanings: "not red" is as grounded as "red".
    """
    neutral = _FUNCTION_WORDS | {word for text in ignore for word in words(text)}
    scores: list[float | None] = []
    for text, facts in zip(completions, columns[key], strict=True):
        known = {word for fact in strings(facts) for word in words(fact)}
        claimed = set(words(text)) - neutral
        scores.append(len(claimed & known) / max(len(claimed), 1) if facts is not None else None)
    return scores
