"""A second served model at little cost: chat completions by transformers in this process, likeliest tokens only."""

import base64
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import Qwen2_5OmniThinkerForConditionalGeneration as Thinker

from mmrlhf_ray.data.encoding.encode import Encoder, load_encoder
from tests.listening import Quiet, listening


@dataclass(frozen=True)
class TransformersModel:
    """A model that reads text and images."""

    encoder: Encoder
    model: Thinker

    @classmethod
    def load(cls, path: Path) -> "TransformersModel":
        return cls(load_encoder(path), Thinker.from_pretrained(path).eval())

    def answer(self, messages: Sequence[Mapping[str, Any]], max_tokens: int) -> str:
        """`messages` as OpenAI's API has them."""
        images: list[Image.Image] = []
        chat = [{"role": message["role"], "content": _parts(message["content"], images)} for message in messages]
        text = self.encoder.rendered(chat, ask=True)
        inputs = self.encoder.processor(text=[text], images=images or None, return_tensors="pt")
        with torch.inference_mode():
            tokens = self.model.generate(**inputs, max_new_tokens=max_tokens, do_sample=False)
        written = tokens[0, inputs["input_ids"].shape[1] :]
        return str(self.encoder.tokenizer.decode(written, skip_special_tokens=True))


@contextmanager
def serving_transformers(own: TransformersModel) -> Iterator[str]:
    """Its address, with /v1."""

    class Handler(Quiet):
        def do_GET(self) -> None:
            self.send({"data": [{"id": "own"}]})

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
            text = own.answer(asked["messages"], asked["max_tokens"])
            self.send({"choices": [{"message": {"role": "assistant", "content": text}}]})

        def send(self, body: Mapping[str, Any]) -> None:
            data = json.dumps(body).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    with listening(Handler) as url:
        yield f"{url}/v1"


def _parts(content: str | Sequence[Mapping[str, Any]], images: list[Image.Image]) -> list[dict[str, str]]:
    """Parts as chat templates take them; the pictures go into `images`."""
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    found: list[dict[str, str]] = []
    for part in content:
        if part["type"] == "text":
            found.append({"type": "text", "text": part["text"]})
        else:
            data = base64.b64decode(part["image_url"]["url"].partition("base64,")[2])
            images.append(Image.open(io.BytesIO(data)).convert("RGB"))
            found.append({"type": "image"})
    return found
