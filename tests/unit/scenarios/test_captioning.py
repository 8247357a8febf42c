"""Flickr30k Entities' layout: phrases, boxes, and what is asked about that is not there."""

from pathlib import Path

import pytest

from mmrlhf_ray.errors import DataError
from mmrlhf_ray.scenarios import captioning, captioning_scenes
from mmrlhf_ray.scenarios.captioning import BOXES, CAPTION, CLAIM, IMAGES, PLACE, SENTENCES
from mmrlhf_ray.scenarios.cases import Case

XML = """<annotation><size><width>50</width><height>40</height></size>
<object><name>1</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>10</xmax><ymax>10</ymax></bndbox></object>
<object><name>1</name><name>2</name><bndbox><xmin>21</xmin><ymin>5</ymin><xmax>50</xmax><ymax>40</ymax></bndbox></object>
<object><name>3</name><scene>1</scene></object></annotation>"""
CAPTIONS = {
    "10": "[/EN#1/people Two young men] carry [/EN#2/other a Canoe 4021] along [/EN#3/scene the beach] .",
    "11": "[/EN#2/other The boat] lies before [/EN#1/people a woman] .",
}


@pytest.fixture
def described(tmp_path: Path) -> Path:
    for place in (IMAGES, SENTENCES, BOXES):
        (tmp_path / place).mkdir()
    for name, caption in CAPTIONS.items():
        (tmp_path / SENTENCES / f"{name}.txt").write_text(caption)
        (tmp_path / BOXES / f"{name}.xml").write_text(XML)
        (tmp_path / IMAGES / f"{name}.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    return tmp_path


def test_phrases_are_asked_about_with_the_box_around_all_of_their_boxes(described: Path) -> None:
    cases = [case for case in captioning.read(described) if case.source == "10"]
    there = [(case.text, case.more["box"], case.group) for case in cases if case.task == PLACE]
    assert there == [
        ("two young men", [0, 0, 50, 40], "large"),
        ("canoe <number>", [20, 4, 50, 40], "large"),  # 1080 of 2000 pixels
    ]
    assert [case.text for case in cases if case.task == CLAIM and case.answer == "there"] == [
        text for text, *_ in there
    ]


def test_what_is_not_there_is_another_pictures_and_does_harm_when_claimed(described: Path) -> None:
    for case in captioning.read(described):
        if case.answer == "absent":
            own = CAPTIONS[case.source].lower()
            assert case.text.split()[-1] not in own
            assert (case.more["harm"], case.group) == (["there"], "not there")
        else:
            assert "harm" not in case.more
    assert sum(case.answer == "absent" for case in captioning.read(described)) == 4


def test_an_answer_in_words_has_the_boxes_in_it(described: Path) -> None:
    case = next(case for case in captioning.read(described) if case.task == CAPTION)
    assert case.answer == "two young men [0, 0, 50, 40], canoe <number> [20, 4, 50, 40]"
    assert case.more["boxes"] == [[0, 0, 50, 40], [20, 4, 50, 40]]


@pytest.mark.parametrize("place", [IMAGES, BOXES])
def test_a_file_that_is_missing_is_named(described: Path, place: str) -> None:
    next((described / place).glob("11.*")).unlink()
    with pytest.raises(DataError, match=r"11\.\w+: (not there|its picture .*11.jpg is not there)"):
        list(captioning.read(described))


def test_the_stand_in_is_in_the_layout_and_a_seed_makes_it_again(tmp_path: Path) -> None:
    def read(name: str) -> list[Case]:
        return list(captioning.read(tmp_path / name))

    captioning_scenes.make(tmp_path / "a", 3, pictures=12)
    captioning_scenes.make(tmp_path / "b", 3, pictures=12)
    assert read("a") == read("b")
    assert {case.text for case in read("a") if case.task != CAPTION} == captioning_scenes.THINGS.keys()
    places = [case for case in read("a") if case.task == PLACE]
    assert {case.group for case in places} == {"small", "large"}
    for case in places:
        x1, y1, x2, y2 = case.more["box"]  # type: ignore[misc]
        assert 0 <= x1 < x2 <= 48
        assert 0 <= y1 < y2 <= 48
