"""Proves that a refactoring changes no number.

Six short jobs (SFT, reward model, PPO, GRPO, DPO, discrete PPO) run through a checkout's own command line, on a tiny
model and on data with images, sounds, clips and text. Every figure of their metrics.jsonl and the bytes of the weights
that they export must be the same before and after.

    python benchmarks/same_numbers.py run BEFORE out/before --material out/material
    python benchmarks/same_numbers.py run AFTER out/after --material out/material
    python benchmarks/same_numbers.py compare out/before out/after

BEFORE and AFTER are checkouts, as `git worktree add` makes them. The first run makes the material, the second reads the
same bytes. Both need one machine with the same packages: another CPU or torch rounds differently. `compare` exits 0
only if everything is equal. `--engine '{"shared_prompt": false}'` sets keys that only one of the checkouts has. A run
takes five minutes on two cores.
"""

import argparse
import hashlib
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

STEPS = {"sft": 10, "reward-model": 10, "dpo": 5, "ppo": 5, "grpo": 5, "discrete": 3}
HASHES = "sha256.json"
TIMING = re.compile(r"(^|[_/ ])(time|seconds|ms|idle)([_/ ]|$)|per_second")
"""Names of metrics that measure time, which is never the same twice."""
DEMONSTRATIONS, PROMPTS, HELDOUT, PROMPTS_PER_STEP = 312, 78, 26, 13
# Each prompt is drawn once at most: what becomes of one that a step draws twice is not what is compared here.
assert PROMPTS_PER_STEP * max(STEPS["ppo"], STEPS["grpo"]) <= PROMPTS


def module_of(checkout: Path, definition: str) -> str:
    """Name of the module in which a top-level `definition`, such as "def build_model(", stands in this checkout."""
    for path in sorted((checkout / "mmrlhf_ray").rglob("*.py")):
        if re.search(rf"^{re.escape(definition)}", path.read_text(encoding="utf-8"), flags=re.MULTILINE):
            return ".".join(path.relative_to(checkout).with_suffix("").parts).removesuffix(".__init__")
    sys.exit(f"{checkout}: no module has {definition!r} at its top level")


def command_line(checkout: Path) -> list[str]:
    """Arguments of Python that start the checkout's `mmrlhf`, as its pyproject.toml names it."""
    module, _, function = entry_points(checkout)["console_scripts"]["mmrlhf"].partition(":")
    return ["-c", f"from {module} import {function}; {function}()"]


def entry_points(checkout: Path) -> dict[str, dict[str, str]]:
    """Group → name → "module:function"."""
    project = tomllib.loads((checkout / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return {"console_scripts": project["scripts"], **project["entry-points"]}


def learner_keys(checkout: Path, out: Path, keys: dict[str, Any]) -> dict[str, Any]:
    """Where SFT, reward-model and preference jobs have engine and optimizer: at the top, or later under `learner`."""
    config = module_of(checkout, "class SFTConfig(")
    command = [sys.executable, "-c", f"import {config} as c; print('learner' in c.SFTConfig.model_fields)"]
    said = subprocess.check_output(command, cwd=checkout, env=environment(checkout, out), text=True)
    return {"learner": keys} if said.split()[-1] == "True" else keys


def environment(checkout: Path, out: Path) -> dict[str, str]:
    """Of processes that must see this checkout's package and no other, whichever one is installed.

    vLLM finds our plugin by the entry points of installed packages, so the checkout's are written down in front.
    """
    metadata = out / "metadata" / "mmrlhf_ray-0.dist-info"
    metadata.mkdir(parents=True, exist_ok=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: mmrlhf-ray\nVersion: 0\n")
    with (metadata / "entry_points.txt").open("w") as file:
        for group, entries in entry_points(checkout).items():
            print(f"[{group}]", *(f"{name} = {target}" for name, target in entries.items()), sep="\n", file=file)
    inherited = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return inherited | {"PYTHONPATH": f"{metadata.parent}{os.pathsep}{checkout}", "OMP_NUM_THREADS": "1"}


def make_material(checkout: Path, directory: Path) -> None:
    """Write the model and all data into `directory`, with the checkout's package, which this process imports."""
    names = (module_of(checkout, f"def {name}(") for name in ("build_model", "build_data", "digit_row"))
    model, digits, decisions = map(importlib.import_module, names)
    model.build_model(directory / "base", seed=0)
    digits.build_data(directory, 0, digits.Sizes(DEMONSTRATIONS, PROMPTS, HELDOUT, 20, 10, 10, 10))
    decisions.build(directory / "discrete", 0, decisions.Sizes(320, 60))
    make_preferences(directory)


def make_preferences(directory: Path) -> None:
    """Each demonstration is preferred to the next one of its task that says something else."""
    records = pq.read_table(directory / "demonstrations" / "records.parquet")
    said = list(zip(records["task"].to_pylist(), records["response"].to_pylist()))
    rejected = [next(r for t, r in said[n:] + said if t == task and r != own) for n, (task, own) in enumerate(said)]
    pairs = records.drop_columns("feedback").rename_columns({"response": "chosen"})
    margin = pa.array([0.0] * len(said), pa.float32())
    pairs = pairs.append_column("rejected", pa.array(rejected)).append_column("margin", margin)
    for name, rows in (("heldout", pairs.slice(0, HELDOUT)), ("preferences", pairs.slice(HELDOUT))):
        (directory / name).mkdir()
        pq.write_table(rows.replace_schema_metadata(), directory / name / "records.parquet")
        shutil.copy(directory / "demonstrations" / "media.parquet", directory / name)


def hashes(directory: Path, pattern: str) -> dict[str, str]:
    """Path below `directory` → SHA-256 of the file, of all that match."""
    files = sorted(path for path in directory.glob(pattern) if path.is_file())
    return {str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def training_jobs(checkout: Path, out: Path, material: Path) -> list[dict[str, Any]]:
    """SFT, and from its policy the reward model and DPO. In ten steps of 32 rows a second epoch begins."""

    def job(kind: str, name: str, start: Path, lr: float, **keys: Any) -> dict[str, Any]:
        optimizer = {"lr": lr, "warmup_steps": 2, "schedule": "cosine", "weight_decay": 0.01}
        learner = {"engine": {"zero_stage": 1, "max_padding_share": 0.3}, "optimizer": optimizer}
        return {
            **shared(kind, name, out), "model": {"path": str(start)}, "batch_size": 32, "log_every_steps": 1,
            "workers": {"replicas": 2, "num_cpus": 0.2}, **learner_keys(checkout, out, learner), **keys,
        }  # fmt: skip

    def pairs(**keys: Any) -> dict[str, Any]:
        return {"data": data(material, "preferences", **keys), "eval_data": data(material, "heldout", **keys)}

    policy = out / "sft" / "model"
    judged = pairs(facts_column="facts") | {"eval_every_steps": 5, "center_coef": 0.01}
    return [
        job("sft", "sft", material / "base", 2e-3, data=data(material, "demonstrations")),
        job("reward-model", "reward-model", policy, 1e-3, **judged),
        job("preference", "dpo", policy, 1e-4, eval_every_steps=2, **pairs()),
    ]


def online_jobs(out: Path, material: Path) -> list[dict[str, Any]]:
    """PPO with a critic and GRPO, of the SFT policy against the reward model."""
    judge = {"name": "reward_model", "kind": "model", "model": {"path": str(out / "reward-model" / "model")}}
    learner = {"engine": {"zero_stage": 2, "max_padding_share": 0.3}, "optimizer": {"lr": 2e-4}}
    placement = {role: {"num_cpus": 0.2} for role in ("generator", "scorer", "functions", "reference", "encoder")}
    placement |= {role: {"num_cpus": 0.2, "replicas": 2} for role in ("policy", "critic")}

    def job(name: str, **algorithm: Any) -> dict[str, Any]:
        return {
            **shared("ppo", name, out), "policy": {"path": str(out / "sft" / "model")}, "rewards": [judge],
            "data": data(material, "prompts_train", facts_column="facts"), "sampling": {"max_response_tokens": 16},
            "algorithm": {"prompts_per_step": PROMPTS_PER_STEP, "kl_target": 0.5, "kl_horizon": 100, **algorithm},
            "learner": learner, "critic": learner, "placement": placement,
        }  # fmt: skip

    in_loss = {"kl_in": "loss", "kl_estimator": "k3", "kl_coef": 0.5, "aggregation": "sequence_mean"}
    ppo = job("ppo", n_samples_per_prompt=2, mini_batch_size=13, critic_warmup_steps=1)
    return [ppo, job("grpo", advantage_estimator="grpo", n_samples_per_prompt=4, mini_batch_size=26, **in_loss)]


def discrete_job(out: Path, material: Path) -> dict[str, Any]:
    """Which digit is written and dialled? The driver decides and learns: of actors, who answers first may matter."""
    rows = {part: {"path": str(material / "discrete" / "digits" / part)} for part in ("train", "heldout")}
    modalities = {"image": {"kind": "image"}, "tone": {"kind": "audio", "seconds": 0.4, "sampling_rate": 4000}}
    return {
        **shared("discrete", "discrete", out), "decisions_per_step": 256, "evaluation": {"every_steps": 1},
        "tasks": {"digit": {"kind": "decide", "classes": list("0123456789"), **rows}},
        "observation": {"modalities": modalities, "drop": 0.2}, "algorithm": {"kind": "ppo", "lr": 0.001},
        "env_runners": {"replicas": 0, "envs": 32}, "learners": {"replicas": 0},
    }  # fmt: skip


def shared(kind: str, name: str, out: Path) -> dict[str, Any]:
    """Keys of every job; `kind` is also the command."""
    keys = {"job": kind, "name": name, "steps": STEPS[name], "output_dir": str(out), "seed": 0, "device": "cpu"}
    return keys | {"deadlines": {"placement_s": 60}}


def data(material: Path, name: str, **keys: Any) -> dict[str, Any]:
    return {"path": str(material / name), "max_prompt_tokens": 64} | keys


def run(checkout: Path, out: Path, material: Path, engine: dict[str, Any]) -> None:
    """All jobs, one after the other, into `out/<job>`, with the hashes of `model/`, or of `module/` of discrete.
    `engine`: more keys of each learner's engine."""
    if (out / HASHES).exists():
        sys.exit(f"{out}: there is a run in it; choose another directory")
    env = environment(checkout, out)
    if not material.exists():
        draft = material.with_name(material.name + ".partial")
        shutil.rmtree(draft, ignore_errors=True)
        subprocess.run([sys.executable, __file__, "material", checkout, draft], cwd=checkout, env=env, check=True)
        draft.rename(material)
    (out / HASHES).write_text(json.dumps(hashes(material, "**/*"), indent=1))
    for job in (*training_jobs(checkout, out, material), *online_jobs(out, material), discrete_job(out, material)):
        for learner in (job[role] for role in ("learner", "critic") if role in job):
            learner["engine"] = learner["engine"] | engine
        name, began = job["name"], time.monotonic()
        file, log = out / f"{name}.yaml", out / f"{name}.log"
        file.write_text(yaml.safe_dump(job, sort_keys=False))
        command = [sys.executable, *command_line(checkout), job["job"], str(file)]
        with log.open("w") as said:
            done = subprocess.run(command, cwd=checkout, env=env, stdout=said, stderr=said, check=False)
        if done.returncode:
            sys.exit(f"{name}: exit status {done.returncode}; the end of {log}:\n{log.read_text()[-3000:]}")
        (out / name / HASHES).write_text(json.dumps(hashes(out / name, "mod*/*.safetensors"), indent=1))
        print(f"{name}: {time.monotonic() - began:.0f} s", flush=True)


def figures(directory: Path) -> dict[str, str]:
    """The measured figures, as "step 3 loss" → its digits as they are written, and "weights of FILE" → SHA-256."""
    found: dict[str, str] = {}
    if not (directory / HASHES).exists():
        return found
    for line in (directory / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line, parse_float=str, parse_int=str)
        found |= {f"step {row['step']} {key}": str(row[key]) for key in row if not TIMING.search(key)}
    return found | {f"weights of {file}": sha for file, sha in json.loads((directory / HASHES).read_text()).items()}


def compare(before: Path, after: Path) -> bool:
    """Print a line for each job; whether all are equal."""
    equal = (before / HASHES).read_text() == (after / HASHES).read_text()
    if not equal:
        print("not comparable: they were run on different material")
    for name, steps in STEPS.items():
        a, b = figures(before / name), figures(after / name)
        wanted = {f"step {step} step": "" for step in range(steps)}
        differing = [key for key in a | b | wanted if a.get(key) != b.get(key) or key not in a]
        verdict = "equal"
        for key in differing[:1]:
            verdict = f"{len(differing)} differ; first {key}: {a.get(key)} before, {b.get(key)} after"
        print(f"{name}: {steps} steps, {len(a)} figures: {verdict}")
        equal &= not differing
    return equal


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("run", "material", "compare"), help="material: make model and data only")
    parser.add_argument("first", type=Path, help="the checkout, or what to compare")
    parser.add_argument("second", type=Path, help="directory to write to, or what to compare with")
    parser.add_argument("--material", type=Path, help="of `run`: made if absent; default: material in its directory")
    parser.add_argument("--engine", type=json.loads, default={}, help="of `run`: more keys of `engine`, as JSON")
    given = parser.parse_args()
    first, second = given.first.resolve(), given.second.resolve()
    if given.command == "compare":
        sys.exit(0 if compare(first, second) else 1)
    if given.command == "material":
        make_material(first, second)
    else:
        run(first, second, (given.material or second / "material").resolve(), given.engine)


if __name__ == "__main__":
    main()
