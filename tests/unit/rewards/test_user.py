"""Functions in their own process: what they are given, and what becomes of those that misbehave."""

import sys
import time

import psutil
import pytest

from mmrlhf_ray.config import FunctionReward
from mmrlhf_ray.errors import ConfigError
from mmrlhf_ray.rewards.user import FunctionProcess
from tests.unit.rewards.support import make_batch

PATIENCE_S = 20
OTHERS: list[psutil.Process] = []


@pytest.fixture(autouse=True)
def others() -> None:
    """Processes that other tests keep, such as decoders, are none of ours."""
    OTHERS[:] = psutil.Process().children(recursive=True)


def children() -> list[psutil.Process]:
    return [p for p in psutil.Process().children(recursive=True) if p not in OTHERS]


def ended(processes: list[psutil.Process]) -> bool:
    until = time.monotonic() + PATIENCE_S
    while any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in processes):
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True


def test_trl_gets_text_and_the_columns_that_it_takes(function):
    source = """
        def f(prompts, completions, answer, factor):
            assert prompts == ["<image> how many ?"] * 2, prompts
            return [factor * (c == a) for c, a in zip(completions, answer)]
    """
    process = function(source, arguments={"factor": 2.5})
    scores = process.score(make_batch(["7", "8"], answer=["7", "7"], other=[1, 2]))
    assert scores.values == (2.5, 0.0)
    assert scores.problems == (None, None)


def test_trl_with_keyword_columns_gets_all_and_arguments_win(function):
    source = """
        def f(completions, **columns):
            assert sorted(columns) == [
                "answer", "finish_reason", "modality", "prompt_id", "prompts", "response_tokens", "task",
                "turns",
            ], sorted(columns)
            return [len(columns["answer"])] * len(completions)
    """
    process = function(source, arguments={"answer": "four"})
    assert process.score(make_batch(["a"], answer=["x"])).values == (4.0,)


def test_trl_conversational(function):
    source = """
        def f(prompts, completions):
            assert prompts[0][0]["content"][1]["text"] == "how many ?"
            assert completions == [[{"role": "assistant", "content": "7"}]]
            return [1]
    """
    assert function(source, conversational=True).score(make_batch(["7"])).values == (1.0,)


def test_verl_rows_fail_on_their_own(function):
    source = """
        def f(data_source, solution_str, ground_truth, extra_info):
            if solution_str == "odd":
                raise KeyError("no such thing")
            if solution_str == "dict":
                return {"score": 0.5, "acc": 1}
            assert (data_source, extra_info["answer"], extra_info["prompt_id"][0]) == ("sums", ground_truth, "p")
            return solution_str == ground_truth
    """
    scores = function(source, convention="verl").score(
        make_batch(["7", "odd", "dict", "8"], answer=["7", "7", "7", "7"])
    )
    assert scores.values == (1.0, None, 0.5, 0.0)
    assert scores.problems == (None, "raised KeyError: 'no such thing' (mine.py, line 4)", None, None)


def test_verl_names_its_source_and_other_ground_truth(function):
    source = "def f(data_source, solution_str, ground_truth): return len(data_source) + ground_truth"
    process = function(source, convention="verl", ground_truth="truth")
    batch = make_batch(["a", "b"], truth=[10, 20], data_source=["gsm8k", None])
    assert process.score(batch).values == (15.0, 24.0)  # without a source of its own: the task, sums


def test_coroutines_and_numbers_of_other_libraries(function):
    source = """
        import numpy as np
        async def f(completions):
            return np.array([len(c) for c in completions], dtype=np.float32)
    """
    assert function(source).score(make_batch(["a", "bcd"])).values == (1.0, 3.0)


BAD = {
    "raises": (
        "def f(completions):\n    x = []\n    return x[3]",
        "raised IndexError: list index out of range (mine.py, line 3)",
    ),
    "too short": ("def f(completions): return [1.0]", "returned 1 numbers for 2 responses"),
    "no list": ("def f(completions): return 1.0", "returned 1.0 (float), expected a list of 2 numbers or None"),
    "nothing": ("def f(completions): pass", "returned None (NoneType), expected a list of 2 numbers or None"),
    "exits": ("import sys\ndef f(completions): sys.exit(3)", "raised SystemExit: 3 (mine.py, line 2)"),
    "exits at once": ("import os\ndef f(completions): os._exit(3)", "ended its process with status 3"),
    "is killed": (
        "import os, signal\ndef f(completions): os.kill(os.getpid(), signal.SIGSEGV)",
        "its process was ended by SIGSEGV (memory_mb=4096)",
    ),
}


@pytest.mark.parametrize(("source", "problem"), BAD.values(), ids=BAD.keys())
def test_a_failing_batch_has_no_number_at_all(function, source, problem):
    scores = function(source).score(make_batch(["a", "b"]))
    assert scores.values == (None, None)
    assert scores.problems == (problem, problem)


def test_only_the_rows_without_a_number_are_missing(function):
    source = "def f(completions): return [1, float('nan'), float('-inf'), 'high', None, True, [1]]"
    scores = function(source).score(make_batch(list("abcdefg")))
    assert scores.values == (1.0, None, None, None, None, 1.0, None)
    assert scores.problems == (
        None,
        "returned nan (float), expected a finite number",
        "returned -inf (float), expected a finite number",
        "returned 'high' (str), expected a number or None",
        None,
        None,
        "returned [1] (list), expected a number or None",
    )


def test_none_for_all_is_not_applicable(function):
    scores = function("def f(completions): return [None] * len(completions)").score(make_batch(["a", "b"]))
    assert scores.values == scores.problems == (None, None)


@pytest.mark.parametrize("wait", ["time.sleep(1e9)", "re.fullmatch('(a|a)*b', 'a' * 60)"], ids=["sleeps", "holds GIL"])
def test_hanging_is_bounded_and_the_next_call_works(function, wait):
    source = f"""
        import re, subprocess, sys, time
        def f(completions):
            if completions[0] == "hang":
                subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1e9)"])
                {wait}
            return [1.0] * len(completions)
    """
    process = function(source, deadline_s=5)
    process.start()
    assert process.score(make_batch(["fine"])).values == (1.0,)
    before = children()
    hung = process.score(make_batch(["hang", "b"]))
    assert hung.problems == ("did not answer by its deadline and was killed (deadline_s=5)",) * 2
    assert ended(before)
    assert process.score(make_batch(["fine"])).values == (1.0,)
    left = children()
    process.close()
    assert left
    assert ended(left)


def test_memory_is_bounded(function):
    source = """
        def f(completions):
            return [len(bytearray(2 << 30))]
    """
    scores = function(source, memory_mb=1024).score(make_batch(["a"]))
    assert scores.problems == ("raised MemoryError (mine.py, line 3) (memory_mb=1024)",)


def test_modules_beside_the_file_can_be_imported_and_ours_do_not_hide_them(function, tmp_path):
    (tmp_path / "judge.py").write_text("WORTH = 3")
    source = """
        import http.client
        from dataclasses import dataclass
        from judge import WORTH

        @dataclass
        class Part:
            worth: float = WORTH

        def f(completions): return [Part().worth]
    """
    assert function(source).score(make_batch(["a"])).values == (3.0,)


NOT_IMPORTABLE = {
    "no such function": ("def g(): pass", r"it has no function 'f'; its functions are g"),
    "raises": ("1 / 0", r"raised ZeroDivisionError: division by zero \(mine.py, line 1\)"),
    "syntax": ("def f(:", r"raised SyntaxError: .*\(mine.py, line 1\)"),
    "imports what is not there": ("import nowhere_to_be_found", "No module named 'nowhere_to_be_found'"),
}


@pytest.mark.parametrize(("source", "reason"), NOT_IMPORTABLE.values(), ids=NOT_IMPORTABLE.keys())
def test_what_cannot_be_imported_is_said_at_the_start(function, source, reason):
    with pytest.raises(ConfigError, match=rf"own: .*mine.py:f cannot be imported: .*{reason}"):
        function(source).start()


def test_an_import_that_hangs_is_given_up(function):
    with pytest.raises(ConfigError, match="did not answer by its deadline"):
        function("import time; time.sleep(1e9)\ndef f(): pass").start(seconds=2)
    assert ended(children())


def test_built_in_functions_run_the_same_way():
    reward = FunctionReward(kind="function", name="f1", function="f1", arguments={"key": "truth"})
    process = FunctionProcess(reward)
    try:
        # A column that is called like an option is not taken for it.
        scores = process.score(make_batch(["a b", "c"], truth=["a b", None], key=["x", "y"], prompts_=["", ""]))
    finally:
        process.close()
    assert scores.values == (1.0, None)


def test_without_a_process_there_is_a_reason(function, monkeypatch):
    process = function("def f(completions): return [1.0]")
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    scores = process.score(make_batch(["a", "b"]))
    assert scores.values == (None, None)
    assert scores.problems[0].startswith("its process could not be started: [Errno 2]")
    monkeypatch.undo()
    assert process.score(make_batch(["a"])).values == (1.0,)
