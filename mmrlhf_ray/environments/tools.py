"""The built-in tools. They are written as a user's own would be: a function whose clips are given by number."""

import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

from PIL import Image
from pydantic import Field

from mmrlhf_ray.config.environment import ToolsEnvironment, named_tools, tool_name
from mmrlhf_ray.data.media import Clip
from mmrlhf_ray.environments.functions import Refused, Tool, tool_of
from mmrlhf_ray.environments.parts import Film, Sound
from mmrlhf_ray.environments.search import Index, read_index
from mmrlhf_ray.errors import ConfigError
from mmrlhf_ray.sandbox.child import Child, ChildFailed
from mmrlhf_ray.sandbox.inside import load_function

_PYTHON = "mmrlhf_ray.environments.python_process"
_THOUSANDTHS = 1000
_PYTHON_S, _PYTHON_SHARE = 5.0, 0.5
_MAX_SIDE = 2048
"""Of an enlarged picture."""

Box = Annotated[tuple[float, float, float, float], Field(description="left, top, right, bottom, each from 0 to 1000")]


def crop(image: Image.Image, box: Box) -> Image.Image:
    """Show a part of an image."""
    return image.crop(_pixels(box, image))


def zoom(image: Image.Image, box: Box, factor: Annotated[float, Field(ge=1, le=16)] = 2.0) -> Image.Image:
    """Show a part of an image, enlarged.

    factor: how many times as wide and high
    """
    part = image.crop(_pixels(box, image))
    factor = min(factor, max(1.0, _MAX_SIDE / max(part.size)))
    size = (round(part.width * factor), round(part.height * factor))
    return part.resize(size, Image.Resampling.BICUBIC)


def frames(clip: Film, start: float, end: float) -> Clip:
    """Show the frames of a clip between two times.

    start: seconds from the beginning of the clip
    end: seconds from the beginning of the clip
    """
    try:
        return clip.between(*_span(start, end, clip.seconds))
    except ValueError as error:
        raise Refused(str(error)) from None


def listen(sound: Sound, start: float, end: float) -> Sound:
    """Play a sound between two times.

    start: seconds from the beginning of the sound
    end: seconds from the beginning of the sound
    """
    first, last = _span(start, end, len(sound.samples) / sound.rate)
    begin = min(int(first * sound.rate), len(sound.samples) - 1)
    return Sound(sound.samples[begin : max(begin + 1, round(last * sound.rate))], sound.rate)


def python(code: str, *, seconds: float, memory_mb: int = 512, characters: int = 4000) -> str:
    """Run Python code and show what it prints.

    code: a program; nothing is kept from earlier calls
    """
    with tempfile.TemporaryDirectory(prefix="mmrlhf-") as directory:
        try:
            child = Child(_PYTHON)
        except ChildFailed as error:
            raise Refused(str(error)) from None
        try:
            child.send({"code": code, "directory": directory, "memory_mb": memory_mb, "characters": characters})
            reply = child.receive(time.monotonic() + seconds)
        except ChildFailed as error:
            late = "deadline" in str(error)
            raise Refused(f"the code ran longer than {seconds:g} s" if late else f"the code {error}") from None
        finally:
            child.end()
    if reply["problem"] is not None:
        raise Refused("\n".join(filter(None, [reply["printed"].strip(), reply["problem"]])))
    return reply["printed"].strip() or "(nothing was printed)"


def search(query: str, *, index: Index, results: int = 3, characters: int = 600) -> str:
    """Search the library and show the passages that fit best.

    query: words to look for
    """
    found = index.best(query, results)
    if not found:
        raise Refused("no passage has any of these words")
    return "\n\n".join(f"{passage.name}: {passage.text[:characters]}" for passage in found)


BUILT_IN: Mapping[str, Callable[..., Any]] = {
    "crop": crop,
    "zoom": zoom,
    "frames": frames,
    "listen": listen,
    "python": python,
    "search": search,
}


def load_tools(config: ToolsEnvironment) -> dict[str, Tool]:
    """All tools, by the names that the policy calls them by. Raises ConfigError, and whatever a user's file raises."""
    return {tool_name(name): _load(name, arguments, config) for name, arguments in named_tools(config.tools)}


def _load(name: str, arguments: Mapping[str, Any], config: ToolsEnvironment) -> Tool:
    if ":" not in name and name not in BUILT_IN:
        raise ConfigError(
            f"there is no built-in tool {name!r}; there are {', '.join(BUILT_IN)}; a function of yours is "
            "path/to/file.py:function"
        )
    fixed = dict(arguments)
    if name == "python":
        fixed.setdefault("seconds", min(_PYTHON_S, _PYTHON_SHARE * config.call_s))
        if not fixed["seconds"] < config.call_s:
            raise ConfigError(f"python: seconds={fixed['seconds']:g} must be below call_s={config.call_s:g}")
    if name == "search":
        assert config.search_index is not None
        fixed["index"] = read_index(Path(config.search_index))
    try:
        return tool_of(tool_name(name), load_function(name) if ":" in name else BUILT_IN[name], fixed)
    except TypeError as error:
        raise ConfigError(f"{name} {error}") from None


def _pixels(box: Box, image: Image.Image) -> tuple[int, int, int, int]:
    """A box in thousandths as pixels, at least one; corners beyond the edge are moved to it."""
    left, top, right, bottom = (min(max(value, 0.0), _THOUSANDTHS) for value in box)
    if not (left < right and top < bottom):
        raise Refused(f"the box {list(box)} is empty; left must be below right and top below bottom, from 0 to 1000")
    width, height = image.size
    x, y = int(left * width / _THOUSANDTHS), int(top * height / _THOUSANDTHS)
    x, y = min(x, width - 1), min(y, height - 1)
    return x, y, max(x + 1, round(right * width / _THOUSANDTHS)), max(y + 1, round(bottom * height / _THOUSANDTHS))


def _span(start: float, end: float, length: float) -> tuple[float, float]:
    """Times within a clip of `length` seconds."""
    if not start < end:
        raise Refused(f"from {start:g} to {end:g} s is empty; start must be below end")
    if start >= length or end <= 0:
        raise Refused(f"from {start:g} to {end:g} s is outside; it is {length:.3g} s long")
    return max(start, 0.0), min(end, length)
