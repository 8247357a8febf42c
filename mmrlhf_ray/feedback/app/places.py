"""What an answer may point at, and places that it pointed at, in words."""

from collections.abc import Sequence
from dataclasses import dataclass

from mmrlhf_ray.feedback.annotations import Annotation
from mmrlhf_ray.feedback.app.language import Words
from mmrlhf_ray.feedback.app.turns import Turn
from mmrlhf_ray.feedback.errors import N_
from mmrlhf_ray.feedback.regions import Region


@dataclass(frozen=True)
class Place:
    """A medium or a response."""

    value: str
    """"medium 0" or "response 0": what regions call it."""
    kind: str
    """image, audio, video or text."""
    label: str
    url: str = ""
    """Of a medium."""


def places(turns: Sequence[Turn], responses: int, words: Words) -> list[Place]:
    """The media of the prompt in order, then the responses as shown."""
    media = [medium for turn in turns for block in turn.blocks for medium in block.media]
    found = [Place(f"medium {i}", medium.kind, medium.label, medium.url) for i, medium in enumerate(media)]
    for number in range(responses):
        name = words.say(N_("Response %(number)s"), number=number + 1) if responses > 1 else words.say(N_("Response"))
        found.append(Place(f"response {number}", "text", name))
    return found


def region_words(annotation: Annotation, turns: Sequence[Turn], words: Words) -> list[str]:
    """A line for each region of an annotation, about the responses in the order in which they are stored."""
    labels = {place.value: place.label for place in places(turns, len(annotation.responses), words)}
    return [_words(region, annotation, labels, words) for region in annotation.regions]


def _words(region: Region, annotation: Annotation, labels: dict[str, str], words: Words) -> str:
    label = labels[f"{'response' if region.kind == 'text' else 'medium'} {region.index}"]
    if region.kind == "text":
        start, end = (int(value) for value in region.extent)
        where = f"“{annotation.responses[region.index][start:end]}”"
    elif region.kind == "range":
        first, last = (f"{value:.2f}" for value in region.extent)
        where = words.say(N_("%(start)s s to %(end)s s"), start=first, end=last)
    else:
        names = ("left", "top", "width", "height")
        shares = {name: f"{100 * share:.0f} %" for name, share in zip(names, region.extent, strict=True)}
        where = words.say(N_("box at %(left)s, %(top)s, of %(width)s × %(height)s"), **shares)
    claim = ""
    if region.claim is not None:
        response, start, end = region.claim
        claim = f"“{annotation.responses[response][start:end]}”"
    return f"{label}: " + " · ".join(filter(None, (where, region.aspect, claim, region.note)))
