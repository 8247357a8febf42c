"""What the help of each command shows of its use."""

from collections.abc import Mapping, Sequence

EXAMPLES: Mapping[str, tuple[str, ...]] = {
    "demo": ("mmrlhf demo --fast", "mmrlhf demo --seed 1 --output runs/demo-1"),
    "doctor": ("mmrlhf doctor", "mmrlhf doctor --fix"),
    "config": (
        "mmrlhf config sft > my-sft.yaml",
        "mmrlhf config grpo --full --output my-grpo.yaml",
        "mmrlhf config ppo --schema > ppo.schema.json",
    ),
    "sft": ("mmrlhf sft my-sft.yaml --dry-run", "mmrlhf sft my-sft.yaml epochs=3 learner.optimizer.lr=2e-5"),
    "reward-model": ("mmrlhf reward-model my-reward-model.yaml", "mmrlhf reward-model my-reward-model.yaml ensemble=4"),
    "preference": (
        "mmrlhf preference my-dpo.yaml beta=0.2",
        "mmrlhf preference my-dpo.yaml objective=ipo name=my-ipo --resume",
    ),
    "ppo": (
        "mmrlhf ppo my-ppo.yaml --dry-run",
        "mmrlhf ppo my-ppo.yaml algorithm.kl_coef=0.02 steps=200",
        "mmrlhf ppo my-ppo.yaml --resume --supervise 3",
    ),
    "train": ("mmrlhf train my-sft.yaml", "mmrlhf train my-ppo.yaml steps=200 --resume"),
    "iterate": ("mmrlhf iterate my-loop.yaml rounds=2",),
    "evaluate": ("mmrlhf evaluate my-evaluation.yaml", "mmrlhf evaluate my-evaluation.yaml sampling.temperature=0"),
    "probe-reward": ("mmrlhf probe-reward my-probe.yaml prompts=32",),
    "parity": ("mmrlhf parity models/my-model", "mmrlhf parity --families"),
    "plan": (
        "mmrlhf plan --gpus 1x8xH100 --model models/my-model",
        "mmrlhf plan --gpus 4x8xA100-80GB --file my-ppo.yaml",
    ),
    "submit": (
        "mmrlhf submit my-ppo.yaml --address http://127.0.0.1:8265 --root /shared/me",
        "mmrlhf submit my-ppo.yaml steps=200 --resume --no-wait",
    ),
    "export": (
        "mmrlhf export runs/my-ppo my-model",
        "mmrlhf export runs/my-ppo my-model-int8 --quantize int8 --data heldout.jsonl",
    ),
    "push": (
        "mmrlhf push runs/my-ppo ORG/my-model --dry-run",
        "mmrlhf push runs/my-ppo ms:ORG/my-model --private --evaluation runs/my-evaluation",
    ),
    "generate": (
        'mmrlhf generate runs/my-ppo "Which digit is written?" --image digit.png',
        'mmrlhf generate hf:ORG/NAME "What is said?" --audio said.wav --temperature 0',
    ),
    "chat": ("mmrlhf chat runs/my-ppo", 'mmrlhf chat models/my-model --system "Answer in one word."'),
    "serve": (
        "mmrlhf serve runs/my-ppo",
        "mmrlhf serve runs/my-ppo --host 0.0.0.0 --replicas 2 --feedback http://127.0.0.1:8765",
    ),
    "average": ("mmrlhf average my-mean runs/a/model runs/b/model runs/c/model",),
    "discrete": ("mmrlhf discrete my-decisions.yaml", "mmrlhf discrete my-decisions.yaml algorithm.lr=3e-4 --sweep"),
    "behaviour": (
        "mmrlhf behaviour my-behaviour.yaml",
        "mmrlhf behaviour my-behaviour.yaml ask.choose=random name=my-random",
    ),
    "discrete-export": ("mmrlhf discrete-export runs/my-decisions",),
    "discrete-serve": ("mmrlhf discrete-serve runs/my-decisions --port 8001 --replicas 2",),
    "runs": ("mmrlhf runs", "mmrlhf runs show runs/my-ppo", "mmrlhf runs compare runs/a runs/b"),
    "runs list": ("mmrlhf runs", "mmrlhf runs list /shared/me/runs"),
    "runs show": ("mmrlhf runs show runs/my-ppo", "mmrlhf runs show runs/my-ppo --port 8010"),
    "runs compare": ("mmrlhf runs compare runs/a runs/b", "mmrlhf runs compare runs/a runs/b --once compare.html"),
    "report": ("mmrlhf report runs/my-ppo", "mmrlhf report runs/a runs/b --output compare.html"),
    "data": ("mmrlhf data check my-data.jsonl", "mmrlhf data show my-data.jsonl"),
    "data check": (
        "mmrlhf data check my-data.jsonl --model models/my-model",
        "mmrlhf data check hf:ORG/NAME --split train --columns question=prompt,answer=response",
    ),
    "data convert": ("mmrlhf data convert my-data.jsonl converted.jsonl --to trl",),
    "data show": ("mmrlhf data show my-data.jsonl", "mmrlhf data show my-data.jsonl --once page.html"),
    "feedback": ("mmrlhf feedback serve --demo", "mmrlhf feedback export votes.parquet"),
    "feedback serve": ("mmrlhf feedback serve --demo", "mmrlhf feedback serve --config feedback.yaml --port 9000"),
    "feedback add": (
        "mmrlhf feedback add runs/my-ppo --question pair --overlap 2",
        "mmrlhf feedback add runs/sft-eval runs/dpo-eval --url https://votes.example.org",
        "mmrlhf feedback add my-data.jsonl --question rate",
        "mmrlhf feedback add my-data.jsonl --project safety --assign @doctors",
    ),
    "feedback backup": ("mmrlhf feedback backup /backups/votes-2026-01-31 --config feedback.yaml",),
    "feedback restore": ("mmrlhf feedback restore /backups/votes-2026-01-31 --set data_dir=/srv/restored",),
    "feedback migrate": ("mmrlhf feedback migrate --config feedback.yaml",),
    "feedback export": ("mmrlhf feedback export votes.parquet --since 2026-01-31T00:00:00Z --project safety",),
    "feedback implicit": ("mmrlhf feedback implicit my-clicks --kind preference",),
    "feedback agreement": ("mmrlhf feedback agreement votes.parquet",),
    "feedback derive": ("mmrlhf feedback derive votes.parquet my-pairs --kind preference",),
    "feedback to": ("mmrlhf feedback to argilla votes.parquet for-argilla",),
    "feedback import": ("mmrlhf feedback import label_studio export.json imported",),
    "feedback projects": ("mmrlhf feedback projects add safety --key overlap=2", "mmrlhf feedback projects list"),
    "feedback projects add": (
        "mmrlhf feedback projects add safety --key 'title=Is it safe?' --key 'kinds=[rate, pair]' --key quota_day=200",
        "mmrlhf feedback projects add safety --settings safety.yaml",
    ),
    "feedback projects edit": (
        "mmrlhf feedback projects edit safety --key overlap=3",
        "mmrlhf feedback projects edit safety --close",
    ),
    "feedback projects list": ("mmrlhf feedback projects list --config feedback.yaml",),
    "feedback projects role": (
        "mmrlhf feedback projects role safety Zoë reviewer",
        "mmrlhf feedback projects role safety @doctors annotator",
        "mmrlhf feedback projects role safety @doctors none",
    ),
    "feedback groups": ("mmrlhf feedback groups set doctors Zoë Omar", "mmrlhf feedback groups list"),
    "feedback groups set": ("mmrlhf feedback groups set doctors Zoë Omar",),
    "feedback groups list": ("mmrlhf feedback groups list --config feedback.yaml",),
    "feedback annotators": ("mmrlhf feedback annotators add Zoë", "mmrlhf feedback annotators list"),
    "feedback annotators add": ("mmrlhf feedback annotators add Zoë --role reviewer",),
    "feedback annotators list": ("mmrlhf feedback annotators list --set data_dir=feedback",),
    "feedback annotators remove": ("mmrlhf feedback annotators remove Zoë --erase",),
}
"""Command, with the groups that it is in → lines that one could type."""

GROUPS: Mapping[str, tuple[str, ...]] = {
    "Start here": ("demo", "doctor", "config"),
    "Look at data, ask people": ("data", "feedback"),
    "Train": ("sft", "reward-model", "preference", "ppo", "iterate", "train"),
    "Look at runs": ("runs", "report"),
    "Measure": ("evaluate", "probe-reward", "parity"),
    "Use a cluster": ("plan", "submit"),
    "Use a model": ("generate", "chat", "serve", "export", "push", "average"),
    "Decide, with small networks": ("discrete", "discrete-export", "discrete-serve", "behaviour"),
}
"""Heading in `mmrlhf --help` → commands."""

MEANT: Mapping[str, str] = {
    "finetune": "sft", "fine-tune": "sft", "eval": "evaluate", "test": "evaluate", "rm": "reward-model",
    "reward": "reward-model", "label": "feedback", "annotate": "feedback", "init": "config",
    "template": "config", "check": "data check", "convert": "data convert", "run": "train",
}  # fmt: skip
"""What people may type who come from elsewhere → the command."""


def epilog(command: str) -> str | None:
    """The end of a command's help."""
    lines = EXAMPLES.get(command)
    return None if lines is None else example_lines(lines)


def example_lines(lines: Sequence[str]) -> str:
    """As they stand at the end of a help, which does not wrap them."""
    return "\n  ".join(["\b\nExamples:", *lines])
