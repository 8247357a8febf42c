"""What the documentation shows works: configurations load, records are read, links lead somewhere."""

import re
from pathlib import Path

import pytest
from PIL import Image

from mmrlhf_ray.config import DataConfig, load_config, read_job_kind
from mmrlhf_ray.data.records.readers import read_records
from mmrlhf_ray.schema import DEMONSTRATION

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
JOBS = [job for page in PAGES for job in re.findall(r"^```yaml\n(job: .*?)^```", page.read_text(), re.M | re.S)]


@pytest.mark.parametrize("job", JOBS, ids=[job.splitlines()[1] for job in JOBS])
def test_job_examples_are_valid(job, tmp_path):
    file = tmp_path / "job.yaml"
    file.write_text(job)
    load_config(file, [], read_job_kind(file).config)


def test_record_examples_are_read(tmp_path):
    text = (ROOT / "README.md").read_text()
    examples = re.findall(r'(\{"(?:messages|prompt)":.*?"response".*?\})', text)
    assert len(examples) == 2
    (tmp_path / "img").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "img" / "7.png")
    (tmp_path / "demonstrations.jsonl").write_text("\n".join(examples))
    read = read_records(DataConfig(path=str(tmp_path / "demonstrations.jsonl")), DEMONSTRATION, tmp_path)
    assert read.records["modality"].to_pylist() == ["image", "image"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    targets = re.findall(r"\]\(([^)#]+)", page.read_text())
    missing = [target for target in targets if "://" not in target and not (page.parent / target).exists()]
    assert missing == []
