import io
import re

import pytest
from rich.console import Console

from mmrlhf_ray.runtime.progress import Progress, duration


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def plain():
    return Console(file=io.StringIO(), force_terminal=False, width=40, highlight=False)


def lines(console):
    return console.file.getvalue().splitlines()


def test_plain_lines_come_at_most_every_five_seconds_and_at_the_end():
    console, clock = plain(), Clock()
    with Progress("PPO", total=10, unit="step", console=console, clock=clock) as progress:
        for step in range(1, 11):
            clock.now += 2.0
            progress.update(step, samples=64, reward=0.1 * step, kl=1.23456)
    got = lines(console)
    assert len(got) == 4  # after 6, 12 and 18 seconds, and the end
    assert got[0] == "PPO  step 3/10  14 s left  32.0 samples/s  reward 0.3  kl 1.235"
    assert got[-1] == "PPO  done, 10 steps, 640 samples in 20 s (32.0 samples/s)  reward 1  kl 1.235"


def test_resumed_steps_do_not_count_for_rate_and_time_left():
    console, clock = plain(), Clock()
    with Progress("PPO", total=100, unit="step", start=90, console=console, clock=clock) as progress:
        clock.now += 10.0
        progress.update(91, samples=50)
    assert lines(console)[0] == "PPO  step 91/100  1 min 30 s left  5.0 samples/s"
    assert "done, 1 step, 50 samples" in lines(console)[1]


def fail_at_step_two(console):
    with Progress("SFT", total=5, unit="step", console=console, clock=Clock()) as progress:
        progress.update(2, samples=8, loss=3.0)
        raise RuntimeError("boom")


def test_a_failure_says_where_it_stopped_and_is_not_swallowed():
    console = plain()
    with pytest.raises(RuntimeError, match="boom"):
        fail_at_step_two(console)
    assert lines(console) == ["SFT  stopped by RuntimeError after step 2/5, 0 s  loss 3"]


def test_nothing_done_is_still_a_line():
    console = plain()
    with Progress("SFT", total=5, unit="step", console=console, clock=Clock()):
        pass
    assert lines(console) == ["SFT  done, 0 steps, 0 samples in 0 s"]


def test_a_terminal_gets_a_live_line():
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    with Progress("reward model", total=4, unit="step", console=console) as progress:
        for step in range(1, 5):
            progress.update(step, samples=16, accuracy=0.75)
    text = console.file.getvalue()
    assert "step 4/4" in text
    assert "accuracy 0.75" in text
    assert "reward model  done, 4 steps, 64 samples" in text


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.2, "0 s"), (59.6, "1 min 00 s"), (200, "3 min 20 s"), (7500, "2 h 05 min")]
)
def test_duration(seconds, said):
    assert duration(seconds) == said


def test_start_up_is_a_line_of_its_own_and_counts_for_no_rate():
    console, clock = plain(), Clock()
    with Progress("SFT", total=36, unit="step", console=console, clock=clock) as progress:
        clock.now += 200.0
        progress.ready("2 workers")
        clock.now += 10.0
        progress.update(10, samples=80, loss=1.0)
    assert lines(console) == [
        "SFT  2 workers ready after 3 min 20 s",
        "SFT  step 10/36  26 s left  8.0 samples/s  loss 1",
        "SFT  done, 10 steps, 80 samples in 10 s (8.0 samples/s)  loss 1",
    ]


def test_what_came_before_the_first_update_is_forgotten_at_the_second():
    console, clock = plain(), Clock()
    with Progress("reference", total=100, unit="row", console=console, clock=clock) as progress:
        for done, seconds in ((10, 100.0), (20, 5.0), (30, 5.0)):
            clock.now += seconds
            progress.update(done, samples=10)
    assert [line.partition("  ")[2] for line in lines(console)[:3]] == [
        "row 10/100  15 min 00 s left  0.1 samples/s",
        "row 20/100  40 s left  2.0 samples/s",
        "row 30/100  35 s left  2.0 samples/s",
    ]


VALUES = {"score": 0.16441, "kl": 0.040849, "response_tokens": 17.531, "eval_score": 0.2}


@pytest.mark.parametrize(
    ("width", "shown"),
    [
        (60, "PPO .{8} step 5/600  9 min 55 s left  1.0 samples/s"),
        (80, "PPO .{14} step 5/600  9 min 55 s left  1.0 samples/s  score 0.1644"),
        (200, "PPO .{20} step 5/600  9 min 55 s left  1.0 samples/s  score 0.1644  kl 0.04085  response_tokens 17.53  "
              "eval_score 0.2"),
    ],
)  # fmt: skip
def test_a_terminal_s_line_has_name_bar_step_and_time_left_at_every_width(width, shown):
    console, clock = Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None), Clock()
    with Progress("PPO", total=600, unit="step", console=console, clock=clock) as progress:
        for step in range(1, 6):
            clock.now += 1.0
            progress.update(step, samples=1, **VALUES)
        progress._live.refresh()
    said = re.split(r"[\r\n]|\x1b\[[0-9;?]*[a-zA-Z]", console.file.getvalue())
    drawn = [line.rstrip() for line in said if "5/600" in line and "done" not in line]
    assert drawn
    assert re.fullmatch(shown, drawn[-1]), drawn[-1]
    assert max(map(len, said)) <= width


def test_the_last_line_fits_as_well():
    console, clock = Console(file=io.StringIO(), force_terminal=True, width=60, color_system=None), Clock()
    with Progress("PPO", total=1, unit="step", console=console, clock=clock) as progress:
        clock.now += 1.0
        progress.update(1, samples=8, **VALUES)
    last = console.file.getvalue().splitlines()[-1]
    assert last.endswith("PPO  done, 1 step, 8 samples in 1 s (8.0 samples/s)")
