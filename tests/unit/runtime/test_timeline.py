"""The timeline of a run's actors, from events as Ray gives them; tests/ray has real ones."""

from mmrlhf_ray.runtime.timeline import Span, chrome_trace

POLICY, SAMPLER = "a" * 32, "b" * 32
NAMES = {POLICY: "policy-0", SAMPLER: "generator-0"}


def event(actor, name, start, length, category="task::"):
    args = {"name": name, "task_id": "0123456789abcdef" + actor}
    return {"cat": f"{category}{name}", "name": name, "ph": "X", "ts": start * 1e6, "dur": length * 1e6, "args": args}


def calls(trace):
    """(process, name, thread, start, length) in seconds."""
    names = {e["pid"]: e["args"]["name"] for e in trace["traceEvents"] if e["name"] == "process_name"}
    shown = [e for e in trace["traceEvents"] if e["ph"] == "X"]
    return [(names[e["pid"]], e["name"], e["tid"], e["ts"] / 1e6, e["dur"] / 1e6) for e in shown]


SPANS = (Span("step 3", 100.0, 104.0), Span("step 4", 104.0, 107.0))


def test_calls_of_one_actor_at_a_time_are_in_lanes_of_their_own():
    events = [
        event(SAMPLER, "generate", 100.5, 2.0),
        event(SAMPLER, "generate", 101.0, 0.5),
        event(SAMPLER, "generate", 102.5, 1.0),
        event(POLICY, "update", 103.0, 1.0),
    ]
    assert calls(chrome_trace(events, NAMES, SPANS)) == [
        ("driver", "step 3", 0, 0.0, 4.0),
        ("driver", "step 4", 0, 4.0, 3.0),
        ("generator-0", "generate", 0, 0.5, 2.0),
        ("generator-0", "generate", 1, 1.0, 0.5),
        ("generator-0", "generate", 0, 2.5, 1.0),
        ("policy-0", "update", 0, 3.0, 1.0),
    ]


def test_other_times_other_actors_phases_and_signs_of_life_are_left_out():
    events = [
        event(POLICY, "update", 98.0, 1.5),
        event(POLICY, "update", 107.5, 1.0),
        event("c" * 32, "work", 101.0, 1.0),
        event(POLICY, "update", 101.0, 1.0, category="task:execute"),
        event(POLICY, "joined", 101.0, 0.1),
        event(POLICY, "update", 99.0, 1.5),
    ]
    assert calls(chrome_trace(events, NAMES, SPANS, ["joined"]))[2:] == [("policy-0", "update", 0, -1.0, 1.5)]
