import io

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
    assert got[0] == "PPO  step 3/10  32.0 samples/s  reward 0.3  kl 1.235  14 s left"
    assert got[-1] == "PPO  done, 10 steps, 640 samples in 20 s (32.0 samples/s)  reward 1  kl 1.235"


def test_resumed_steps_do_not_count_for_rate_and_time_left():
    console, clock = plain(), Clock()
    with Progress("PPO", total=100, unit="step", start=90, console=console, clock=clock) as progress:
        clock.now += 10.0
        progress.update(91, samples=50)
    assert lines(console)[0] == "PPO  step 91/100  5.0 samples/s  1 min 30 s left"
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
