"""Projects: who is asked what in which, and by what rules."""

from datetime import timedelta
from typing import Any, get_args

import pytest

from mmrlhf_ray.config import FeedbackConfig, QuestionKind
from mmrlhf_ray.feedback.collect import projects
from mmrlhf_ray.feedback.collect.database import Database
from mmrlhf_ray.feedback.collect.erase import erase_annotator, personal_data
from mmrlhf_ray.feedback.collect.items import add_items
from mmrlhf_ray.feedback.collect.queue import NewVote, lease_next, submit, undo
from mmrlhf_ray.feedback.errors import Invalid, Refused, Unknown
from mmrlhf_ray.feedback.questions import QUESTIONS, AnswerError
from tests.unit.feedback.world import NOON, World, pair, person

TIE = {"choice": "tie"}


def make(database: Database, name: str, **settings: Any) -> None:
    with database.write() as session:
        projects.add_project(session, name, settings, "test", NOON)


def put(database: Database, config: FeedbackConfig, project: str, *rows: dict[str, Any]) -> None:
    with database.write() as session:
        add_items(session, rows, config, NOON, project)


def give(database: Database, project: str, who: str, role: str | None) -> None:
    with database.write() as session:
        projects.set_role(session, project, who, role, "test", NOON)


def group(database: Database, name: str, *people: str) -> None:
    with database.write() as session:
        projects.set_group(session, name, people, "test", NOON)


def leased(database: Database, config: FeedbackConfig, who: str, project: str = "", **at: Any) -> str | None:
    """Id of the item."""
    with database.write() as session:
        found = lease_next(session, who, config, NOON + timedelta(**at), project=project)
        return None if found is None else found.item.id


def vote(database: Database, config: FeedbackConfig, who: str, item: str, number: int, **at: Any) -> str:
    vote_id = f"00000000-0000-4000-8000-{number:012d}"
    with database.write() as session:
        submit(session, who, NewVote(vote_id, item, TIE, 1), config, NOON + timedelta(**at))
    return vote_id


def test_projects_come_by_their_priority_or_as_chosen(database: Database, config: FeedbackConfig) -> None:
    ann = person(database, "Ann")
    make(database, "urgent", priority=2)
    make(database, "later", priority=-1)
    for name in ("default", "later", "urgent"):
        put(database, config, name, pair(name, item_id=f"in-{name}", priority=5))
    assert leased(database, config, ann) == "in-urgent"
    assert leased(database, config, ann, "later") == "in-later", "another one is chosen"
    assert leased(database, config, ann) == "in-later", "what is held comes first"
    ben = person(database, "Ben")
    assert leased(database, config, ben) == "in-urgent", "Ann gave it back"
    with database.write() as session:
        projects.edit_project(session, "urgent", {}, False, "test", NOON)
    assert leased(database, config, person(database, "Cleo")) == "in-default", "nothing of a closed project is asked"


def test_only_those_with_a_role_work_on_a_closed_circle(database: Database, config: FeedbackConfig) -> None:
    ann, ben, cleo = (person(database, name) for name in ("Ann", "Ben", "Cleo"))
    make(database, "medical", everyone=False, overlap=3)
    put(database, config, "medical", pair(item_id="x-ray"))
    give(database, "medical", "Ann", "annotator")
    group(database, "doctors", "Ben")
    give(database, "medical", "@doctors", "annotator")
    assert [leased(database, config, who) for who in (ann, ben, cleo)] == ["x-ray", "x-ray", None]
    with pytest.raises(Unknown, match="there is no project 'medical', or you have no part in it"):
        leased(database, config, cleo, "medical")
    group(database, "doctors", "Cleo")
    with database.read() as session:
        names = {who: projects.names_with(session, who, "annotator") for who in (ann, ben, cleo)}
    assert names == {ann: ("default", "medical"), ben: ("default",), cleo: ("default", "medical")}


def test_the_highest_role_counts(database: Database) -> None:
    make(database, "own", everyone=False)
    people = {
        name: person(database, name, role) for name, role in (("A", "annotator"), ("R", "reviewer"), ("B", "admin"))
    }
    give(database, "own", "A", "annotator")
    group(database, "leads", "A")
    give(database, "own", "@leads", "admin")
    give(database, "default", "R", "annotator")
    with database.read() as session:
        roles = {
            (name, own.project.name): own.role
            for name, who in people.items()
            for own in projects.standings(session, who)
        }
        with pytest.raises(Refused, match="this takes the role admin in the project 'default'"):
            projects.need(session, people["A"], "default", "admin")
    assert roles == {
        ("A", "default"): "annotator", ("A", "own"): "admin",
        ("R", "default"): "reviewer",
        ("B", "default"): "admin", ("B", "own"): "admin",
    }  # fmt: skip
    give(database, "own", "@leads", None)
    with database.read() as session:
        assert projects.need(session, people["A"], "own", "annotator").role == "annotator"


def test_a_quota_ends_with_the_day_and_in_all(database: Database, config: FeedbackConfig) -> None:
    ann = person(database, "Ann")
    make(database, "few", quota_day=2, quota=3)
    put(database, config, "few", *(pair(f"q{i}", item_id=f"i{i}") for i in range(5)))
    for number in range(2):
        vote(database, config, ann, leased(database, config, ann) or "", number)
    assert leased(database, config, ann) is None
    with database.read() as session:
        rules = projects.need(session, ann, "few", "annotator").rules
        assert projects.votes_left(session, "few", rules, ann, NOON) == 0
        assert projects.votes_left(session, "few", rules, ann, NOON + timedelta(hours=12)) == 1
    with database.write() as session:
        undo(session, ann, "00000000-0000-4000-8000-000000000001", config, NOON)
    assert leased(database, config, ann) == "i1", "a vote that is taken back does not count"
    vote(database, config, ann, "i1", 7)
    vote(database, config, ann, leased(database, config, ann, hours=12) or "", 8, hours=12)
    assert leased(database, config, ann, days=9) is None, "three in all"
    assert leased(database, config, person(database, "Ben")) == "i0", "others have their own"


def test_assigned_items_are_theirs_alone(database: Database, config: FeedbackConfig) -> None:
    ann, ben, cleo = (person(database, name) for name in ("Ann", "Ben", "Cleo"))
    group(database, "night", "Ben")
    put(
        database, config, "default",
        pair("1", item_id="anns", assigned="Ann"), pair("2", item_id="nights", assigned="@night"),
    )  # fmt: skip
    assert [leased(database, config, who) for who in (cleo, ben, ann)] == [None, "nights", "anns"]
    with database.read() as session:
        overlaps = {name: session.get_one(projects.Item, name).overlap for name in ("anns", "nights")}
    assert overlaps == {"anns": 1, "nights": config.overlap}
    with pytest.raises(Invalid, match=r"there is no group") as caught:
        put(database, config, "default", pair("3", assigned="@nobody"))
    assert caught.value.field == "items[0].who"


def test_a_project_has_its_own_rules(database: Database, config: FeedbackConfig) -> None:
    ann = person(database, "Ann")
    make(database, "tone", kinds=["rate"], overlap=1, aspects=[{"name": "polite", "description": "Is it?"}])
    with pytest.raises(Invalid, match="the project 'tone' takes rate"):
        put(database, config, "tone", pair())
    put(database, config, "tone", {"prompt": "q", "question": "rate", "responses": ["a"], "item_id": "r"})
    assert leased(database, config, ann) == "r"
    with database.write() as session, pytest.raises(AnswerError, match="no such aspect; expected polite"):
        submit(session, ann, NewVote("0" * 32, "r", {"ratings": [{"helpful": 3}]}, 1), config, NOON)
    with database.write() as session:
        submit(session, ann, NewVote("0" * 32, "r", {"ratings": [{"polite": 3}]}, 1), config, NOON)
        assert session.get_one(projects.Item, "r").overlap == 1


def test_projects_know_every_kind_of_question() -> None:
    assert get_args(QuestionKind) == tuple(question.kind for question in QUESTIONS)


def test_one_question_may_be_asked_in_two_projects(database: Database, config: FeedbackConfig) -> None:
    make(database, "again")
    with database.write() as session:
        ids = [add_items(session, [pair()], config, NOON, name).item_ids[0] for name in ("default", "again", "again")]
    assert len(set(ids)) == 2


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"overlap": 0}, "overlap"),
        ({"kinds": ["pair", "pair"]}, "settings"),
        ({"kinds": ["guess"]}, "kinds.0"),
        ({"guidelines": {"de": "x"}}, "guidelines.de"),
        ({"colour": "red"}, "colour"),
        ({"aspects": [{"name": "Bad Name", "description": ""}]}, "aspects.0.name"),
    ],
)
def test_settings_that_make_no_sense_are_named(database: Database, settings: dict[str, Any], field: str) -> None:
    with pytest.raises(Invalid) as caught:
        make(database, "new", **settings)
    assert caught.value.field.startswith(field)


def test_erasing_somebody_ends_their_part(database: Database, config: FeedbackConfig) -> None:
    ann = person(database, "Ann")
    group(database, "night", "Ann")
    give(database, "default", "Ann", "admin")
    put(database, config, "default", pair(item_id="anns", assigned="Ann"))
    with database.write() as session:
        data = personal_data(session, ann, "test", NOON)
        assert (data["projects"], data["groups"]) == ({"default": "admin"}, ["night"])
        erase_annotator(session, ann, "test", NOON)
        assert (projects.roles_given(session, "default"), projects.groups(session)) == ([], {})
    assert leased(database, config, person(database, "Ben")) == "anns", "it is anyone's again"


def test_an_administrator_of_one_project_sees_no_other(world: World) -> None:
    make(world.database, "mine", everyone=False, title="我的")
    for name in ("default", "mine"):
        put(world.database, world.config, name, pair(f"of {name}", item_id=f"in-{name}"))
    give(world.database, "mine", "annotator", "admin")
    found = world.call("annotator", "GET", "/api/items").json()["items"]
    assert [(item["item_id"], item["project"]) for item in found] == [("in-mine", "mine")]
    assert world.call("annotator", "GET", "/api/items?project=default").status_code == 403
    assert world.call("annotator", "PATCH", "/api/items/in-default", json={"priority": 1.0}).status_code == 403
    assert world.call("annotator", "DELETE", "/api/items/in-default").status_code == 403
    assert world.call("annotator", "POST", "/api/items", json=[pair("x")]).status_code == 403
    assert world.call("annotator", "POST", "/api/items?project=mine", json=[pair("x")]).status_code == 201
    assert (
        world.call("annotator", "PATCH", "/api/items/in-mine", json={"assigned": "reviewer"}).json()["assigned"]
        == "reviewer"
    )
    assert world.call("annotator", "PATCH", "/api/projects/default", json={"settings": {}}).status_code == 403
    assert world.call("annotator", "POST", "/api/projects", json={"name": "more"}).status_code == 403
    assert world.call("annotator", "PATCH", "/api/projects/mine", json={"settings": {"overlap": 7}}).status_code == 200
    assert world.call("annotator", "GET", "/admin/item?id=in-default").status_code == 403
    assert world.call("annotator", "GET", "/project?name=mine").status_code == 200
    assert world.call("annotator", "GET", "/project?name=default").status_code == 403
    assert world.call("annotator", "GET", "/admin/quality").status_code == 200
    assert "in-default" not in world.call("annotator", "GET", "/admin/items").text


def test_reviewers_decide_in_their_projects_only(world: World) -> None:
    make(world.database, "mine", everyone=False)
    put(world.database, world.config, "mine", pair("q", item_id="theirs"))
    decision = {"item_id": "theirs", "answer": TIE}
    assert world.call("reviewer", "POST", "/api/reviews", json=decision).status_code == 404, "not theirs to know"
    give(world.database, "mine", "reviewer", "reviewer")
    assert world.call("reviewer", "POST", "/api/reviews", json=decision).status_code == 201


def test_export_progress_and_quality_are_of_a_project(world: World) -> None:
    make(world.database, "other")
    for name in ("default", "other"):
        put(world.database, world.config, name, pair(f"of {name}", item_id=f"in-{name}"))
        item = world.call("annotator", "POST", f"/api/lease?project={name}").json()
        assert (item["item_id"], item["project"]) == (f"in-{name}", name)
        body = {"vote_id": f"{len(name):032x}", "item_id": item["item_id"], "answer": TIE, "milliseconds": 5}
        assert world.call("annotator", "POST", "/api/votes", json=body).status_code == 201
    for what in ("annotations", "prompts"):
        lines = world.call("admin", "GET", f"/api/export?format={what}&project=other").text.splitlines()
        assert len(lines) == 1
        assert "of other" in lines[0]
    assert len(world.call("admin", "GET", "/api/export").text.splitlines()) == 2
    assert world.call("annotator", "GET", "/api/progress?project=other").json()["items"] == 1
    assert world.call("annotator", "GET", "/api/progress").json()["items"] == 2
    page = world.call("admin", "GET", "/admin/quality?project=other").text
    assert '<option value="other" selected>' in page


def test_pages_of_projects_work_without_a_script(world: World) -> None:
    browser = world.log_in("admin")
    csrf = browser.get("/").text.split('name="csrf" content="')[1].split('"')[0]

    def post(path: str, **fields: Any) -> Any:
        return browser.post(path, data={"csrf": csrf} | fields)

    assert post("/projects", name="tone", title="Tone").headers["location"] == "/project?name=tone"
    assert "there is a project &#39;tone&#39; already" in post("/projects", name="tone").text
    fields = {"name": "tone", "title": "Tone of voice", "kinds": ["rate", "pair"], "priority": "1.5", "quota_day": "4"}
    fields |= {"aspects": "polite: Is it polite?\nhelpful：Does what was asked.", "guidelines_zh_CN": "# 请客气"}
    assert post("/project", **fields).status_code == 303
    with world.database.read() as session:
        rules = projects.rules_of(projects.find_project(session, "tone"))
    assert (rules.title, rules.kinds, rules.priority, rules.quota_day) == ("Tone of voice", ("rate", "pair"), 1.5, 4)
    assert rules.everyone is False, "a box that is not checked is not sent"
    assert [aspect.name for aspect in rules.aspects or ()] == ["polite", "helpful"]
    assert (rules.aspects or ())[1].headings == {"zh_CN": "有帮助"}, "what the app says in Chinese stays"
    refused = post("/project", **fields | {"overlap": "none"})
    assert refused.status_code == 422
    assert "overlap: expected a number" in refused.text
    assert "Tone of voice" in refused.text
    assert post("/projects/group", group="night", people="annotator\nreviewer").status_code == 303
    assert "annotator, reviewer" in browser.get("/projects").text
    assert post("/project/role", name="tone", who="@night", role="annotator").status_code == 303
    assert post("/project/role", name="tone", who="nobody", role="annotator").status_code == 422
    home = world.log_in("annotator").get("/").text
    assert 'href="/work?project=tone"' in home
    assert "4 votes left for you today" in home
    assert "<h2>请客气</h2>" in world.log_in("annotator").get("/guide?project=tone").text
    assert post("/project/active", name="tone").status_code == 303
    assert "Tone of voice" not in world.log_in("annotator").get("/").text
