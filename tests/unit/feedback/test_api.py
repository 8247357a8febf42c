"""The HTTP API as programs use it: items, media, votes, exports, deletion, reports of deployed models."""

import hashlib
import json
import uuid
from pathlib import Path
from typing import Any

import httpx
import pyarrow.parquet as pq
import pytest

from mmrlhf_ray.config import DataConfig
from mmrlhf_ray.data.records.readers import read_records
from mmrlhf_ray.demo.clips import clip_webm
from mmrlhf_ray.demo.digits import digit_png, digits_of
from mmrlhf_ray.errors import ConfigError
from mmrlhf_ray.feedback.collect.export_files import write_export
from mmrlhf_ray.schema import ANNOTATION, PROMPT, check
from tests.unit.feedback.world import World, fill, pair

IMAGE = digit_png(digits_of("train")[0].source)


def upload(world: World, data: bytes, query: str = "") -> str:
    name = hashlib.sha256(data).hexdigest()
    answer = world.call("admin", "PUT", f"/api/media/{name}{query}", content=data)
    assert answer.status_code == 201, answer.text
    return name


def vote(world: World, answer: dict[str, Any], role: str = "annotator") -> dict[str, Any]:
    """Lease and vote; what was sent and shown."""
    item = world.call(role, "POST", "/api/lease").json()
    body = {"vote_id": str(uuid.uuid4()), "item_id": item["item_id"], "answer": answer, "milliseconds": 1234}
    got = world.call(role, "POST", "/api/votes", json=body)
    assert got.status_code == 201, got.text
    return body | {"item": item}


def test_a_vote_from_lease_to_export(world: World) -> None:
    image = upload(world, IMAGE)
    content = [{"type": "image"}, {"type": "text", "text": "Which digit?"}]
    row = {
        "item_id": "digit",
        "messages": [{"role": "user", "content": content}],
        "media_ids": [image],
        "task": "digits",
        "extras": {"answer": "seven"},
        "question": "pair",
        "responses": [{"text": "It is 7.", "source": "policy-a"}, "It is <b>3</b>."],
        "round": 2,
    }
    for added, present in ((1, 0), (0, 1)):
        answer = world.call("admin", "POST", "/api/items", json=[row])
        assert answer.status_code == 201
        assert answer.json() == {"added": added, "present": present, "item_ids": ["digit"]}

    sent = vote(world, {"choice": "left", "critique": "blurred"})
    item = sent.pop("item")
    assert item["media"] == [{"media_id": image, "kind": "image", "mime": "image/png", "url": f"/media/{image}"}]
    assert item["messages"] == [{"role": "user", "content": content}]
    texts = ["It is 7.", "It is <b>3</b>."]
    assert item["responses"] == [texts[i] for i in item["order_shown"]]
    assert "seven" not in json.dumps(item), "what is known is not shown"
    assert "policy-a" not in json.dumps(item), "nor who answered"
    again = world.call("annotator", "POST", "/api/votes", json=sent)
    assert (again.status_code, again.json()) == (
        200, {"vote_id": sent["vote_id"], "item_id": "digit", "undone": False}
    )  # fmt: skip

    (exported,) = [json.loads(line) for line in world.call("admin", "GET", "/api/export").text.splitlines()]
    assert exported["responses"] == texts
    assert exported["responses"][exported["ranks"].index(1)] == item["responses"][0]
    wanted = {
        "annotation_id": sent["vote_id"], "item_id": "digit", "kind": "pair", "choice": "left", "critique": "blurred",
        "order_shown": item["order_shown"], "sources": ["policy-a", ""], "round": 2, "milliseconds": 1234,
        "gold": False, "role": "annotator",
    }  # fmt: skip
    assert {key: exported[key] for key in wanted} == wanted
    after = world.call("admin", "GET", "/api/export", params={"since": exported["created"]})
    assert (after.status_code, after.text) == (200, "")
    for bad in ("yesterday", "2026-01-01T00:00:00"):
        assert world.call("admin", "GET", "/api/export", params={"since": bad}).json()["field"] == "since"
    assert world.call("admin", "GET", "/api/export?format=pdf").json()["field"] == "format"


def test_media_are_what_their_address_says(world: World) -> None:
    name = upload(world, IMAGE)
    assert world.call("admin", "PUT", f"/api/media/{name}", content=IMAGE).status_code == 200
    got = world.call("annotator", "GET", f"/media/{name}")
    assert (got.content, got.headers["content-type"]) == (IMAGE, "image/png")
    assert got.headers["x-content-type-options"] == "nosniff"
    part = world.call("annotator", "GET", f"/media/{name}", headers={"range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, IMAGE[10:20])

    html = b"<script>alert(1)</script>"
    for path, data, words in (
        (name, IMAGE + b"x", "not the one in the address"),
        (hashlib.sha256(html).hexdigest(), html, "no media that can be shown"),
        (hashlib.sha256(IMAGE[:60]).hexdigest(), IMAGE[:60], "cut off"),
        ("..%2f..%2fetc", IMAGE, ""),
        (name.upper(), IMAGE, "lower-case"),
    ):
        answer = world.call("admin", "PUT", f"/api/media/{path}", content=data)
        assert answer.status_code in (404, 422), path
        assert words in answer.text
    assert world.call("annotator", "GET", "/media/" + "0" * 64).status_code == 404
    assert world.call("annotator", "GET", "/media/..%2f..%2ffeedback.sqlite3").status_code in (404, 422)


def test_limits_of_media(world: World) -> None:
    world.app.state.feedback = type(world.app.state.feedback)(
        world.config.model_copy(update={"limits": world.config.limits.model_copy(update={"pixels": 10})}),
        world.database,
    )
    answer = world.call("admin", "PUT", f"/api/media/{hashlib.sha256(IMAGE).hexdigest()}", content=IMAGE)
    assert (answer.status_code, "the limit is 10" in answer.text) == (422, True), answer.text


def test_items_that_cannot_be_asked(world: World) -> None:
    upload(world, IMAGE)
    good = pair()
    cases: list[tuple[dict[str, Any], int, str]] = [
        ({**good, "question": "guess"}, 422, "items[1].question"),
        ({**good, "responses": ["one"]}, 422, "items[1].responses"),
        ({**good, "responses": ["one", 2]}, 422, "items[1].responses[1]"),
        ({**good, "responses": ["one", "x" * 20_001]}, 422, "items[1].responses[1]"),
        ({**good, "overlap": 0}, 422, "items[1].overlap"),
        ({**good, "priority": "high"}, 422, "items[1].priority"),
        ({**good, "gold": {"choice": "up"}}, 422, "items[1].choice"),
        ({**good, "prompt": "<image> what?"}, 422, "items[1]"),
        ({**good, "prompt": "<image> what?", "media_ids": ["0" * 64]}, 422, "items[1]"),
        ({**good, "prompt": "<audio>", "media_ids": [hashlib.sha256(IMAGE).hexdigest()]}, 422, "items[1]"),
        ({**good, "prompt": "<image>", "images": ["../../etc/passwd"]}, 422, "items[1]"),
        ({**good, "prompt": ""}, 422, "items[1]"),
        ({**good, "question": "live", "responses": []}, 422, "items[1].media_ids"),
        ({**good, "item_id": "x" * 65}, 422, "items[1].item_id"),
        ({**good, "item_id": "taken", "responses": ["other", "texts"]}, 409, "items[1].item_id"),
        ({**good, "prompt": "other", "prompt_id": "p"}, 409, "items[1].prompt_id"),
    ]
    world.call("admin", "POST", "/api/items", json=[{**good, "item_id": "taken", "prompt_id": "p"}])
    for row, status, field in cases:
        answer = world.call("admin", "POST", "/api/items", json=[pair("first"), row])
        assert (answer.status_code, answer.json().get("field")) == (status, field), answer.text
    assert world.call("admin", "GET", "/api/progress").json()["items"] == 1, "all or none"


def test_what_a_vote_meets(world: World) -> None:
    (item,) = fill(world.database, world.config, pair())
    body = {"vote_id": str(uuid.uuid4()), "item_id": item, "answer": {"choice": "left"}}
    status = world.call("annotator", "POST", "/api/votes", json=body).status_code
    assert status == 410, "no lease"
    world.call("annotator", "POST", "/api/lease")
    bad = world.call("annotator", "POST", "/api/votes", json=body | {"answer": {"choice": "up"}})
    assert (bad.status_code, bad.json()["field"]) == (422, "choice")
    assert world.call("annotator", "POST", "/api/votes", json=body).status_code == 201
    assert world.call("annotator", "POST", "/api/votes", json=body | {"vote_id": str(uuid.uuid4())}).status_code == 409
    assert world.call("reviewer", "POST", f"/api/votes/{body['vote_id']}/undo").status_code == 404
    assert world.call("annotator", "POST", f"/api/votes/{body['vote_id']}/undo").json()["undone"] is True
    skipped = {"item_id": item, "reason": "other", "comment": "no idea"}
    assert world.call("annotator", "POST", "/api/skip", json=skipped).status_code == 200
    assert world.call("annotator", "POST", "/api/lease").status_code == 204


def test_one_person_s_data_out_and_gone(world: World) -> None:
    fill(world.database, world.config, pair("a", overlap=1), pair("b", overlap=1))
    vote(world, {"choice": "left", "critique": "mine"})
    item = world.call("annotator", "POST", "/api/lease").json()["item_id"]
    world.call("annotator", "POST", "/api/skip", json={"item_id": item, "reason": "unclear"})
    world.log_in("annotator")
    accounts = {row["name"]: row["id"] for row in world.call("admin", "GET", "/api/annotators").json()}
    who = accounts["annotator"]
    data = world.call("admin", "GET", f"/api/annotators/{who}/data").json()
    assert data["account"]["name"] == "annotator"
    assert [row["critique"] for row in data["annotations"]] == ["mine"]
    assert [row["reason"] for row in data["skips"]] == ["unclear"]
    assert "login" in [row["action"] for row in data["audit"]]

    gone = world.call("admin", "DELETE", f"/api/annotators/{who}/data")
    assert gone.json() == {"votes": 1, "reviews": 0, "skips": 1}
    left = world.call("admin", "GET", f"/api/annotators/{who}/data").json()
    assert (left["annotations"], left["skips"], left["account"]["active"]) == ([], [], False)
    assert left["account"]["name"] != "annotator"
    assert "annotator erased" in [row["action"] for row in left["audit"]]
    assert "127.0.0.1" not in json.dumps(left["audit"])
    assert world.call("annotator", "GET", "/api/progress").status_code == 401
    progress = world.call("reviewer", "GET", "/api/progress").json()
    assert (progress["cast"], progress["done"]) == (0, 0)
    assert world.call("reviewer", "POST", "/api/lease").status_code == 200, "the place is free again"
    assert world.call("admin", "DELETE", "/api/annotators/nobody/data").status_code == 404


def test_accounts(world: World) -> None:
    made = world.call("admin", "POST", "/api/annotators", json={"name": "Zoë", "role": "reviewer"})
    assert made.status_code == 201
    who, token = made.json()["id"], made.json()["token"]
    assert world.call("admin", "POST", "/api/annotators", json={"name": "Zoë"}).status_code == 409
    for bad in ({"name": "x", "role": "king"}, {"name": " "}, {"name": "a\nb"}, {"name": "x", "admin": True}):
        assert world.call("admin", "POST", "/api/annotators", json=bad).status_code == 422
    world.tokens["zoe"] = token
    assert world.call("zoe", "GET", "/api/progress").status_code == 200
    world.tokens["new"] = world.call("admin", "POST", f"/api/annotators/{who}/token").json()["token"]
    assert world.call("zoe", "GET", "/api/progress").status_code == 401
    assert world.call("new", "GET", "/api/progress").status_code == 200
    assert token not in world.call("admin", "GET", "/api/annotators").text


def test_reports_of_a_deployed_model(world: World) -> None:
    body = {"response_id": "r1", "text": "It is 7.", "source": "m-1", "prompt": {"prompt": "Which?"}}
    assert [world.call("client", "POST", "/api/responses", json=body).status_code for _ in range(2)] == [201, 200]
    assert world.call("client", "POST", "/api/responses", json=body | {"text": "x"}).status_code == 409
    assert (
        world.call("client", "POST", "/api/responses", json=body | {"response_id": "r2", "text": ""}).status_code == 422
    )
    event = {"event_id": "e1", "response_id": "r1", "kind": "edit", "value": {"text": "It is 1."}}
    assert [world.call("client", "POST", "/api/events", json=event).status_code for _ in range(2)] == [201, 200]
    for change, status in (
        ({"kind": "copy", "value": {}}, 409),
        ({"event_id": "e2", "kind": "sneeze"}, 422),
        ({"event_id": "e2", "value": {}}, 422),
        ({"event_id": "e2", "kind": "dwell", "value": {"seconds": -1}}, 422),
        ({"event_id": "e2", "kind": "dwell", "value": {"seconds": 1e999}}, 422),
        ({"event_id": "e2", "kind": "copy", "value": {"x": 1}}, 422),
        ({"event_id": "e2", "kind": "copy", "value": {}, "response_id": "r9"}, 404),
        ({"event_id": "e2", "kind": "copy", "value": {}}, 201),
    ):
        content = json.dumps(event | change).replace("Infinity", "1e999")
        answer = world.call(
            "client", "POST", "/api/events", content=content, headers={"content-type": "application/json"}
        )
        assert answer.status_code == status, (change, answer.text)


@pytest.mark.parametrize("ending", ["parquet", "jsonl"])
def test_exports_are_read_by_the_jobs(world: World, tmp_path: Path, ending: str) -> None:
    clip = upload(world, clip_webm(digits_of("train")[0].source, "left"))
    rows = [
        pair("<image> Which?", media_ids=[upload(world, IMAGE)], extras={"truth": [7]}, task="digits"),
        pair("<video> Where to?", media_ids=[clip]),
        pair("No media"),
    ]
    assert world.call("admin", "POST", "/api/items", json=rows).status_code == 201
    for _ in rows:
        vote(world, {"choice": "tie"})
    out = tmp_path / "out" / f"annotations.{ending}"
    with world.database.read() as session:
        assert write_export(session, world.config, out) == 3
        with pytest.raises(ConfigError, match="there already"):
            write_export(session, world.config, out)
        with pytest.raises(ConfigError, match="ends in .parquet or .jsonl"):
            write_export(session, world.config, tmp_path / "out.csv")
    if ending == "parquet":
        check(pq.read_table(out, schema=ANNOTATION), ANNOTATION, "test")
    else:
        assert [json.loads(line)["ranks"] for line in out.read_text().splitlines()] == [[1, 1]] * 3
    data = DataConfig(path=str(out.with_name(f"prompts.{ending}")))
    records = read_records(data, PROMPT, tmp_path / "run")
    assert sorted(records.records["modality"].to_pylist()) == ["image", "text", "video"]
    extras = dict(zip(records.records["task"].to_pylist(), records.records["extras"].to_pylist(), strict=True))
    assert json.loads(extras["digits"]) == {"truth": [7]}
    assert not [path for path in out.parent.iterdir() if path.name.startswith(".")], "nothing half-written"


def test_prompts_over_http(world: World) -> None:
    image = upload(world, IMAGE)
    world.call("admin", "POST", "/api/items", json=[pair("<image> Which?", media_ids=[image], extras={"truth": 7})])
    (line,) = world.call("admin", "GET", "/api/export?format=prompts").text.splitlines()
    row = json.loads(line)
    assert (row["images"], row["extras"]) == ([f"media/{image}"], {"truth": 7})
    assert isinstance(httpx.Response(200, text=line).json(), dict)
