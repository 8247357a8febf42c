"""TRL's side of vs_trl: one GRPO run in this process. Knows nothing of mmrlhf_ray.

python -m benchmarks.vs_trl_peer SETTINGS.json OUT.json
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from PIL import Image
from transformers import AutoProcessor, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from benchmarks.vs_trl_reward import vowels


class Times(TrainerCallback):
    """When each optimizer step began and ended."""

    def __init__(self) -> None:
        self.began: list[float] = []
        self.ended: list[float] = []

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.began.append(time.time())

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.ended.append(time.time())


def rows(file: Path) -> Dataset:
    """Prompts with their pictures, which TRL puts before the text of the first message."""
    read = [json.loads(line) for line in file.read_text().splitlines()]
    pictures = [[Image.open(path).convert("RGB") for path in row["images"]] for row in read]
    return Dataset.from_dict({"prompt": [row["prompt"] for row in read], "images": pictures})


def main() -> None:
    settings, out = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    torch.set_num_threads(settings["threads"])
    responses, updates = settings["prompts"] * settings["samples"], settings["updates"]
    processor = AutoProcessor.from_pretrained(settings["model"])
    tokenizer = processor.tokenizer
    ends = json.loads((Path(settings["model"]) / "generation_config.json").read_text())["eos_token_id"]
    ends = ends if isinstance(ends, list) else [ends]
    config = GRPOConfig(
        output_dir=str(out.parent / "trl"),
        per_device_train_batch_size=responses // updates,
        steps_per_generation=updates,
        num_generations=settings["samples"],
        max_steps=settings["steps"] * updates,
        max_completion_length=settings["tokens"],
        learning_rate=settings["lr"],
        beta=settings["kl_coef"],
        loss_type="grpo",
        # A placeholder that was sampled would stand for a picture that is not there; ours never samples one.
        generation_kwargs={"suppress_tokens": [i for i in tokenizer.all_special_ids if i not in ends]},
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        logging_steps=1,
        disable_tqdm=True,
        seed=settings["seed"],
    )
    times = Times()
    trainer = GRPOTrainer(
        model=settings["model"],
        reward_funcs=vowels,
        args=config,
        train_dataset=rows(Path(settings["data"])),
        processing_class=processor,
        callbacks=[times],
    )
    trainer.train()
    logged = [line for line in trainer.state.log_history if "completions/mean_length" in line]
    lengths = [line["completions/mean_length"] for line in logged]
    out.write_text(json.dumps({"began": times.began, "ended": times.ended, "lengths": lengths}))


if __name__ == "__main__":
    main()
