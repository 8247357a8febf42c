"""The built-in tools and the schemas of functions, without a process of their own but for `python`."""

import io
import json
import time

import numpy as np
import psutil
import pytest
from PIL import Image

from mmrlhf_ray.config import MediaLimits
from mmrlhf_ray.data.media import decode_image, decode_span, decode_video, read_audio
from mmrlhf_ray.environments.functions import Refused, tool_of
from mmrlhf_ray.environments.parts import clip, parts_of
from mmrlhf_ray.environments.protocol import Shown
from mmrlhf_ray.environments.tool_environment import ToolEnvironment
from mmrlhf_ray.environments.tools import load_tools
from mmrlhf_ray.errors import ConfigError
from tests.unit.environments.support import RATE, tools

LIMITS = MediaLimits()
TOOLS = load_tools(tools("crop", "zoom", "frames", "listen", {"python": {"memory_mb": 256}}, call_s=4))


def call(name, shown, **arguments):
    return parts_of(TOOLS[name].call(arguments, shown, LIMITS))[0]


@pytest.mark.parametrize(
    ("box", "size"),
    [
        ([0, 0, 1000, 1000], (40, 20)),
        ([-50, 0, 500, 2000], (20, 20)),
        ([999, 999, 1000, 1000], (1, 1)),
        ([100, 100, 100.1, 100.1], (1, 1)),
        ([250, 500, 750, 1000], (20, 10)),
    ],
)
def test_boxes_are_thousandths_and_are_kept_within_the_picture(image, box, size):
    assert decode_image(call("crop", [image], box=box).data).size == size


@pytest.mark.parametrize("box", [[5, 0, 5, 9], [9, 0, 5, 9], [1001, 0, 2000, 9], [float("nan"), 0, 5, 9]])
def test_an_empty_box_is_refused(image, box):
    with pytest.raises(Refused, match="is empty; left must be below right"):
        call("crop", [image], box=box)


def test_zoom_enlarges_and_has_a_limit(image):
    assert decode_image(call("zoom", [image], box=[0, 0, 500, 500], factor=3).data).size == (60, 30)
    wide = parts_of(np.zeros((10, 1500, 3), np.uint8))[0]
    assert decode_image(call("zoom", [wide], box=[0, 0, 1000, 1000], factor=16).data).size == (2048, 14)


def test_listen_plays_a_part_at_its_own_rate(tone):
    samples, rate = read_audio(call("listen", [tone], start=2, end=2.5).data)
    assert (rate, len(samples)) == (RATE, RATE // 2)
    assert np.allclose(samples, 0.2, atol=1e-4)
    samples, _ = read_audio(call("listen", [tone], start=-1, end=99).data)
    assert len(samples) == 4 * RATE


@pytest.mark.parametrize(("name", "medium"), [("listen", "tone"), ("frames", "film")])
@pytest.mark.parametrize(
    ("start", "end", "why"), [(2, 2, "empty"), (3, 1, "empty"), (4, 5, "outside"), (-2, 0, "outside")]
)
def test_times_outside_are_refused(request, name, medium, start, end, why):
    with pytest.raises(Refused, match=why):
        call(name, [request.getfixturevalue(medium)], start=start, end=end)


@pytest.mark.parametrize(
    ("start", "end", "greys"), [(0.5, 1.25, [20, 30, 40]), (0.6, 0.7, [20]), (-1, 99, [10 * n for n in range(8)])]
)
def test_frames_are_those_on_display_without_loss(film, start, end, greys):
    found = decode_video(call("frames", [film], start=start, end=end).data)
    assert [int(frame.min()) for frame in found.frames] == [int(frame.max()) for frame in found.frames] == greys
    assert found.fps == pytest.approx(4)
    assert found.seconds.tolist() == pytest.approx([n / 4 for n in range(len(greys))])


def test_only_the_frames_asked_for_are_bounded(film):
    few = MediaLimits(frames=3)
    found = decode_span(film.data, 1.0, 1.75, few)
    assert [int(frame.max()) for frame in found.frames] == [40, 50, 60]
    with pytest.raises(ValueError, match="4 frames, the limit is 3"):
        decode_span(film.data, 1.0, 2.0, few)
    with pytest.raises(Refused, match="no clip 1; so far no clip was shown"):
        call("frames", [], start=0, end=1)


def test_a_moving_picture_has_frames_too():
    frames = [Image.new("RGB", (9, 9), (grey, grey, grey)) for grey in (0, 80, 160, 240)]
    buffer = io.BytesIO()
    frames[0].save(
        buffer, "WEBP", save_all=True, append_images=frames[1:], lossless=True, duration=[500, 250, 500, 250]
    )
    shown = Shown("video", "image/webp", buffer.getvalue())
    found = decode_video(call("frames", [shown], start=0.6, end=1.3).data)
    assert [int(frame.max()) for frame in found.frames] == [80, 160, 240]
    assert found.seconds.tolist() == [0, 0.25, 0.75]


@pytest.mark.parametrize("size", [(1, 1), (1, 33), (640, 359)])
def test_clips_of_any_size_are_encoded(size):
    frames = np.random.default_rng(1).integers(0, 256, (2, *size, 3), np.uint8)
    assert (decode_video(clip(frames, [0, 0.5], 2).data).frames == frames).all()


def test_clips_keep_uneven_times_and_every_colour():
    frames = np.random.default_rng(0).integers(0, 256, (4, 17, 23, 3), np.uint8)
    found = decode_video(clip(frames, [0, 0.25, 0.75, 1.0], 4).data)
    assert (found.frames == frames).all()
    assert found.seconds.tolist() == [0, 0.25, 0.75, 1.0]


def test_numbers_count_the_clips_of_a_kind(image, tone, film):
    other = parts_of(np.full((4, 4, 3), 9, np.uint8))[0]
    shown = [image, tone, film, other]
    assert decode_image(call("crop", shown, box=[0, 0, 1000, 1000], image=2).data).size == (4, 4)
    with pytest.raises(Refused, match="no image 3; so far 2 images were shown"):
        call("crop", shown, box=[0, 0, 1000, 1000], image=3)
    with pytest.raises(Refused, match="no image 0"):
        call("crop", shown, box=[0, 0, 1000, 1000], image=0)


@pytest.mark.parametrize(
    ("code", "printed"),
    [("print(6 * 7)", "42"), ("x = 1", "(nothing was printed)"), ("import os; print(os.environ.get('HOME'))", "None")],
)
def test_python_shows_what_is_printed(code, printed):
    assert call("python", [], code=code) == printed


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("print('a'); 1 / 0", "^a\nZeroDivisionError: division by zero$"),
        ("while True: print('x' * 1000)", "^the code ran longer than 2 s$"),
        ("import os; os._exit(3)", "^the code ended its process with status 3$"),
        ("bytes(1 << 32)", "^MemoryError"),
        ("def f(", "SyntaxError"),
        ("open('x', 'wb').write(bytes(1 << 26))", "File too large|SIGXFSZ"),
    ],
)
def test_code_that_fails_says_why(code, why):
    with pytest.raises(Refused, match=why):
        call("python", [], code=code)


def test_what_code_starts_ends_with_it():
    code = """
import subprocess, sys
print(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True).pid)
"""
    number = int(call("python", [], code=code))
    until = time.monotonic() + 10
    while psutil.pid_exists(number) and psutil.Process(number).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < until
        time.sleep(0.05)


def turn(text, shown=(), **values):
    config = tools("crop", "frames", "listen", **values)
    return ToolEnvironment(config, load_tools(config), LIMITS, shown).step(text)


@pytest.mark.parametrize(("most", "sizes"), [(1, [(10, 20)]), (2, [(10, 20), (20, 20)])])
def test_the_first_calls_of_a_turn_are_run_and_others_are_told(image, most, sizes):
    step = turn("crop 0 0 250 1000\ncrop 0 0 500 1000\ncrop 0 0 1 1", [image], max_calls=most)
    *shown, told = step.observation
    assert [decode_image(part.data).size for part in shown] == sizes
    assert told == f"Calls in one turn: 3, at most {most}; not run: {', '.join(['crop'] * (3 - most))}."
    assert not step.done


def test_one_call_that_fails_does_not_hide_the_next(image):
    step = turn("crop 5 0 5 9\ncrop 0 0 250 1000", [image], max_calls=2)
    assert (step.observation[0], step.observation[1].kind) == (step.problem, "image")


def test_half_a_call_is_told_and_counts_as_a_turn(image):
    step = turn('<tool_call>{"name": "crop", "arguments": {"box": [0, 0', [image], call_format="hermes")
    assert step.observation == ("The call cannot be read: a <tool_call> has no </tool_call>.",)
    assert (step.done, step.problem) == (False, "a <tool_call> has no </tool_call>")


@pytest.mark.parametrize(
    ("name", "kind", "text"),
    [("crop", "image", "crop 0 0 1 1"), ("listen", "audio", "listen 0 1"), ("frames", "video", "frames 0 1")],
)
def test_clips_of_the_prompt_that_cannot_be_decoded_are_told(request, name, kind, text):
    whole = {"image": "image", "audio": "tone", "video": "film"}[kind]
    cut = Shown(kind, "x/y", request.getfixturevalue(whole).data[:-40])
    step = turn(text, [cut])
    assert "cut off" in step.problem
    assert step.observation == (step.problem,)
    assert not step.done


def test_search_finds_the_passages_that_fit_best(tmp_path):
    (tmp_path / "birds.md").write_text("# Birds\n\nThe wren is small.\n\nThe heron is tall, taller than the wren.\n")
    rows = [{"title": "Fish", "text": "A pike is a fish."}, {"text": "Eels are fish that look like snakes."}]
    (tmp_path / "fish.jsonl").write_text("\n".join(map(json.dumps, rows)))
    tool = load_tools(tools({"search": {"results": 2}}, search_index=str(tmp_path)))["search"]
    assert list(tool.schema["function"]["parameters"]["properties"]) == ["query"]
    found = tool.call({"query": "the HERON, the heron"}, [], LIMITS)
    assert found.startswith("birds.md: The heron is tall")
    assert tool.call({"query": "fish"}, [], LIMITS).splitlines() == [
        "Fish: A pike is a fish.", "", "fish.jsonl: Eels are fish that look like snakes."]  # fmt: skip
    with pytest.raises(Refused, match="no passage"):
        tool.call({"query": "granite"}, [], LIMITS)


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("a.jsonl", '{"text": 3}', "a.jsonl, line 1: expected an object with text"),
        ("a.jsonl", '{"text": "x"}\n{', "line 2: not JSON"),
        ("a.csv", "x", "has no passage"),
    ],
)
def test_an_index_that_cannot_be_read_is_refused(tmp_path, name, text, why):
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=why):
        load_tools(tools("search", search_index=str(tmp_path)))


@pytest.mark.parametrize(
    ("tool", "why"),
    [
        ("crp", "there is no built-in tool 'crp'; there are crop, zoom"),
        ({"crop": {"colour": 1}}, "crop has no argument 'colour'; its arguments are image, box"),
        ({"python": {"seconds": 10}}, "seconds=10 must be below call_s=10"),
    ],
)
def test_wrong_tools_are_refused(tool, why):
    with pytest.raises(ConfigError, match=why):
        load_tools(tools(tool))


class Opaque:
    """Nothing that JSON knows."""


def test_signatures_that_no_policy_could_fill_are_refused():
    def any_number(*boxes): ...
    def nameless(thing: np.ndarray): ...
    def opaque(thing: Opaque): ...
    def unset(thing: int, *, depth: int): ...

    for function, why in (
        (any_number, "names of their own"),
        (nameless, "is called one of"),
        (opaque, "cannot be described"),
        (unset, "needs the argument 'depth'"),
    ):
        with pytest.raises(TypeError, match=why):
            tool_of("x", function, {})


def test_settings_are_not_the_policys():
    with pytest.raises(Refused, match="memory_mb: Extra inputs are not permitted"):
        call("python", [], code="1", memory_mb=1 << 20)
    (parameters,) = [tool.schema["function"]["parameters"] for name, tool in TOOLS.items() if name == "python"]
    assert list(parameters["properties"]) == ["code"]
