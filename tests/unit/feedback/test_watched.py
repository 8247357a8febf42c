"""/healthz and /metrics."""

from prometheus_client.parser import text_string_to_metric_families

from tests.unit.feedback.test_api import vote
from tests.unit.feedback.world import World, fill, pair


def test_health_needs_no_account_and_tells_nothing(world: World) -> None:
    answer = world.http.get("/healthz")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


def test_health_says_when_the_database_is_gone(world: World) -> None:
    from sqlalchemy import event
    from sqlalchemy.exc import OperationalError

    def gone(*_: object) -> None:
        raise OperationalError("connect", {}, Exception("gone"))

    event.listen(world.database.engine, "begin", gone)
    answer = world.http.get("/healthz")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert "gone" not in answer.text


def test_metrics_are_what_is_in_the_database(world: World) -> None:
    fill(world.database, world.config, *(pair(f"{n}") for n in range(3)), pair("g", gold={"choice": "left"}))
    for role in ("annotator", "reviewer"):
        vote(world, {"choice": "tie"}, role=role)
    held = world.call("annotator", "POST", "/api/lease").json()["item_id"]
    world.call("annotator", "POST", "/api/skip", json={"item_id": held, "reason": "offensive"})
    world.call("annotator", "POST", "/api/lease")
    answer = world.call("client", "GET", "/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    found = {
        (sample.name.removeprefix("mmrlhf_feedback_"), *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }
    last = found.pop(("last_vote_seconds",))
    assert last > 1.7e9
    assert found == {
        ("items", "pair", "done"): 1,
        ("items", "pair", "open"): 3,
        ("votes_wanted",): 4,
        ("votes", "pair"): 2,
        ("skips", "offensive"): 1,
        ("accounts", "annotator"): 1,
        ("accounts", "reviewer"): 1,
        ("accounts", "admin"): 1,
        ("accounts", "client"): 1,
        ("leases",): 1,
        ("reviews",): 0,
        ("logins_failed",): 0,
        ("webhook_waiting",): 0,
    }
    assert world.call("annotator", "GET", "/metrics").status_code == 403
    assert world.http.get("/metrics").status_code == 401
