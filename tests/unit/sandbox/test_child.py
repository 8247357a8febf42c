"""Processes that answer JSON lines: whatever they do, there is an answer or a reason in time, and none is left."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from mmrlhf_ray.sandbox.child import Child, ChildFailed, kill_group

START_S = 60
PATIENCE_S = 20

PROGRAM = """
    import json, os, signal, subprocess, sys, time
    from mmrlhf_ray.sandbox.inside import converse, limit_growth, limit_memory, send

    def serve(requests, replies):
        for line in requests:
            try:
                answer = eval(json.loads(line)["do"])
            except MemoryError:
                answer = "no memory"
            send(replies, {"answer": answer})

    if __name__ == "__main__":
        converse(serve)
"""


def ended(processes):
    until = time.monotonic() + PATIENCE_S
    while any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in processes):
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True


@pytest.fixture
def program(tmp_path, monkeypatch):
    """A module that answers with the value of any expression."""
    (tmp_path / "expressions.py").write_text(textwrap.dedent(PROGRAM))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return "expressions"


@pytest.fixture
def child(program):
    made = Child(program)
    yield made
    made.end()


def ask(child, expression, seconds=START_S):
    child.send({"do": expression})
    return child.receive(time.monotonic() + seconds)["answer"]


def family(child):
    """The process, its guard, and what it has started."""
    leader = psutil.Process(ask(child, "os.getpid()"))
    return [leader, *leader.children(recursive=True)]


def test_one_process_answers_all_requests(child):
    assert [ask(child, "1 + 1"), ask(child, "'é' * 2"), ask(child, "vars().get('x')")] == [2, "éé", None]
    assert ask(child, "os.getpid()") == ask(child, "os.getpid()")


def test_output_does_not_get_into_the_answer(program, capfd):
    child = Child(program)
    assert ask(child, "print('{\"answer\": 9}') or os.system('echo from a shell') or sys.stdin.read()") == ""
    child.end()
    written = capfd.readouterr()
    assert written.out == ""
    assert '{"answer": 9}' in written.err
    assert "from a shell" in written.err


def test_large_requests_and_answers_pass_through(child):
    """Many times what a pipe holds, in both directions."""
    text = "x" * 10_000_000
    assert ask(child, f"{text!r} + 'y'") == text + "y"


def test_a_request_that_nobody_reads_is_given_up(child):
    processes = family(child)
    for process in processes:
        process.suspend()
    with pytest.raises(ChildFailed, match="did not answer by its deadline"):
        ask(child, repr("x" * 10_000_000), seconds=1)
    child.end()
    assert ended(processes)


def test_an_end_is_told_with_its_status(program):
    for expression, reason in (
        ("os._exit(3)", "ended its process with status 3"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "its process was ended by SIGSEGV"),
    ):
        with pytest.raises(ChildFailed, match=reason):
            ask(Child(program), expression)


def test_end_leaves_nothing_of_what_it_started(program):
    child = Child(program)
    ask(child, "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(1e9)']).pid")
    processes = family(child)
    assert len(processes) == 3
    assert child.end() == -signal.SIGKILL
    assert ended(processes)


@pytest.mark.parametrize("wait", ["time.sleep(1e9)", "__import__('re').fullmatch('(a|a)*b', 'a' * 60)"])
def test_nothing_is_left_when_the_parent_is_killed(program, wait):
    """Even while the child holds the interpreter's lock."""
    script = f"""
import time
from mmrlhf_ray.sandbox.child import Child
child = Child("{program}")
child.send({{"do": "1"}})
child.receive(time.monotonic() + {START_S})
child.send({{"do": {wait!r}}})
print("started", flush=True)
time.sleep(1e9)
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "started\n"
        processes = psutil.Process(parent.pid).children(recursive=True)
        parent.send_signal(signal.SIGKILL)
    assert len(processes) == 2, "the child and its guard"
    assert ended(processes)


def test_without_a_process_there_is_a_reason(program, monkeypatch):
    open_files = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(ChildFailed, match=r"its process could not be started: \[Errno 2\]"):
        Child(program)
    assert len(os.listdir("/proc/self/fd")) == open_files


@pytest.mark.parametrize("limit", ["limit_memory(1024)", "limit_growth(512)"])
def test_memory_is_limited_inside(child, limit):
    assert ask(child, limit) is None
    assert ask(child, "len(bytearray(1 << 20))") == 1 << 20
    assert ask(child, "len(bytearray(2 << 30))") == "no memory"


def test_what_left_its_group_ends_with_it(program):
    child = Child(program)
    started = "subprocess.Popen(['sleep', '1000'], start_new_session=True).pid"
    child.send({"do": started})
    orphan = psutil.Process(child.receive(time.monotonic() + START_S)["answer"])
    child.end()
    assert ended([orphan])


def test_secrets_stay_with_us(program, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN", "s3cret")
    monkeypatch.setenv("HARMLESS", "1")
    child = Child(program)
    child.send({"do": "[os.environ.get(name) for name in ('RAY_AUTH_TOKEN', 'HARMLESS')]"})
    assert child.receive(time.monotonic() + START_S)["answer"] == [None, "1"]
    child.end()


@pytest.mark.parametrize("junk", [b"junk\n", b"[1]\n", b"\xff\n"])
def test_whoever_writes_between_the_answers_has_failed(program, junk):
    """A function may find the pipe that replies go through among its open files."""
    child = Child(program)
    writable = "os.path.exists(f'/proc/self/fd/{fd}') and __import__('fcntl').fcntl(fd, 3) & os.O_WRONLY"
    child.send({"do": f"[os.write(fd, {junk!r}) for fd in range(3, 20) if {writable}]"})
    with pytest.raises(ChildFailed, match="wrote something else between its answers"):
        child.receive(time.monotonic() + START_S)
    child.end()


def test_one_that_is_interrupted_ends_the_wait_of_another_thread(child):
    processes = family(child)
    child.send({"do": "time.sleep(600)"})
    with ThreadPoolExecutor(1) as other:
        waiting = other.submit(child.receive, time.monotonic() + 600)
        child.interrupt()
        with pytest.raises(ChildFailed, match="ended by SIGKILL"):
            waiting.result(timeout=PATIENCE_S)
    assert ended(processes)
    child.interrupt()  # no harm once it has ended


def test_what_was_written_and_never_read_does_not_keep_a_child():
    process = subprocess.Popen(["true"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
    assert process.stdin is not None
    process.stdin.write(b"waits in our buffer")
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert kill_group(process) == 0
    assert process.stdin.closed
