"""A loop that learns from its server's arena too: a real server, votes with and without media, a stage run again."""

import json
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmrlhf_ray.config import FeedbackConfig
from mmrlhf_ray.data.media import media_id
from mmrlhf_ray.data.records.readers import read_records, write_records
from mmrlhf_ray.demo.digits import digit_png
from mmrlhf_ray.feedback.arena.asking import Answered
from mmrlhf_ray.feedback.collect import battles, queue
from mmrlhf_ray.feedback.collect.accounts import add_annotator
from mmrlhf_ray.feedback.collect.database import Database, open_database
from mmrlhf_ray.feedback.collect.media_files import store_media
from mmrlhf_ray.pipelines.iterate.client import LoopClient
from mmrlhf_ray.pipelines.iterate.metric import MixtureMetric
from mmrlhf_ray.pipelines.iterate.pairs import Pair, item_rows
from mmrlhf_ray.pipelines.iterate.stages import Loop, run_stage
from mmrlhf_ray.schema import MEDIA, PREFERENCE, PROMPT
from tests.unit.feedback.test_client import serving
from tests.unit.pipelines.loop import loop_config

IMAGE = digit_png(3)
OWN = {"prompt_id": "own", "messages": json.dumps([{"role": "user", "content": "Own?"}]), "media_ids": [],
       "task": "t", "modality": "text", "extras": json.dumps({"facts": "known"})}  # fmt: skip
MODELS = [{"name": name, "base_url": "http://127.0.0.1:9/v1"} for name in ("one", "two")]


class Server:
    """A running app, its people, and the loop that uses it."""

    def __init__(self, database: Database, config: FeedbackConfig, client: LoopClient, who: str, run_dir: Path) -> None:
        self.database, self.config, self.client, self.who, self.run_dir = database, config, client, who, run_dir

    def battle(self, text: str, choice: str | None, image: bool = False) -> None:
        asked = battles.Asked(text, *(((media_id(IMAGE),), ("image",)) if image else ()))
        answers = [Answered("one", f"good {text}"), Answered("two", f"bad {text}")]
        now = datetime.now(UTC)
        with self.database.write() as session:
            if image:
                store_media(session, self.config, media_id(IMAGE), IMAGE, "image")
            opened = battles.open_battle(session, self.who, asked, answers, self.config, now)
            session.flush()
            if choice is not None:
                side = ("left", "right")[opened.order_shown.index(0)] if choice == "good" else choice
                battles.vote(session, self.who, opened.id, {"choice": side}, 10, self.config, now)

    def answer_own(self) -> None:
        with self.database.write() as session:
            now = datetime.now(UTC)
            leased = queue.lease_next(session, self.who, self.config, now)
            assert leased is not None
            cast = queue.NewVote(str(uuid.uuid4()), leased.item.id, {"choice": "left"}, 10)
            queue.submit(session, self.who, cast, self.config, now)

    def labels(self, number: int, arena: bool = True) -> dict[str, Any]:
        """The figures of the stage in a round whose only question is `own`, after it was asked."""
        cfg = loop_config(
            ask={"arena": arena},
            feedback={"url": "http://x"},
            reward_model={"job": {"epochs": 1}, "heldout_share": 0.0},
        )
        prompts = read_records(
            cfg.prompts.model_copy(update={"path": str(self.run_dir / "prompts")}), PROMPT, self.run_dir
        )
        loop = Loop(cfg, self.run_dir, self.client, MixtureMetric((), prompts), prompts)
        paths = loop.paths(number)
        write_records(paths.prompts, prompts.records, prompts.media)
        rows = item_rows([Pair("own", f"a {number}", f"b {number}")], {"own": OWN}, cfg.ask, "loop", number)
        paths.items.write_text("".join(json.dumps(row) + "\n" for row in rows))
        run_stage(loop, number, "queue")
        return dict(run_stage(loop, number, "labels"))

    def preferences(self, number: int) -> dict[str, dict[str, Any]]:
        """By the chosen text."""
        table = pq.read_table(
            self.run_dir / f"round-{number:02d}" / "preferences" / "records.parquet", schema=PREFERENCE
        )
        rows = {row["chosen"]: row for row in table.to_pylist()}
        assert len(rows) == len(table), "each once"
        return rows


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    config = FeedbackConfig.model_validate({"data_dir": str(tmp_path / "data"), "arena": {"models": MODELS}})
    database = open_database(config)
    with database.write() as session:
        token = add_annotator(session, "loop", "admin", "test", datetime.now(UTC))[1]
        who = add_annotator(session, "Ann", "annotator", "test", datetime.now(UTC))[0].id
    write_records(tmp_path / "prompts", pa.Table.from_pylist([OWN], schema=PROMPT), MEDIA.empty_table())
    with serving(config) as url:
        client = LoopClient.connect(url, token)
        yield Server(database, config, client, who, tmp_path)
        client.close()
    database.close()


def test_its_votes_join_each_once_and_none_is_lost(server: Server) -> None:
    server.battle("Plain?", "good")
    server.battle("Seen?", "good", image=True)
    server.battle("Even?", "tie")
    server.battle("Nobody voted?", None)
    first = server.labels(1)
    assert (first["votes"], first["arena_votes"], first["preferences"]) == (3, 3, 2)
    assert server.labels(1) == first, "a stage that is run again says the same"
    server.battle("Later?", "good")
    server.answer_own()
    assert server.labels(1)["arena_votes"] == 4, "what came while the stage was down is not lost"
    server.battle("Last?", "good")
    second = server.labels(2)
    assert (second["votes"], second["arena_votes"], second["preferences"]) == (6, 5, 5)
    found = server.preferences(2)
    assert {"good Plain?", "good Seen?", "good Later?", "good Last?"} < set(found)
    seen = found["good Seen?"]
    assert (seen["rejected"], seen["modality"], seen["media_ids"]) == ("bad Seen?", "image", [media_id(IMAGE)])
    (own,) = (row for row in found.values() if row["prompt_id"] == "own")
    assert json.loads(own["extras"])["facts"] == "known"
    assert json.loads(seen["extras"])["facts"] == ""


def test_what_it_left_is_read_as_training_reads_it(server: Server) -> None:
    server.battle("Seen?", "good", image=True)
    server.labels(1)
    data = loop_config().prompts.model_copy(update={"path": str(server.run_dir / "round-01" / "preferences")})
    read = read_records(data, PREFERENCE, server.run_dir)
    assert read.records.column("chosen").to_pylist() == ["good Seen?"]
    assert [bytes(data) for data in read.media.column("data").to_pylist()] == [IMAGE]
    assert read.media.column("kind").to_pylist() == ["image"]


def test_without_the_setting_the_arena_is_left_alone(server: Server) -> None:
    server.battle("Plain?", "good")
    figures = server.labels(1, arena=False)
    assert (figures["votes"], figures["arena_votes"], figures["preferences"]) == (0, 0, 0)
