"""How many tokens rows have for a model: its processor counts them."""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from mmrlhf_ray.config.data import DataConfig
from mmrlhf_ray.data.encoding.encode import (
    EncodedPrompt,
    Encoder,
    RawMedia,
    encode_prompt,
    encode_response,
    load_encoder,
)
from mmrlhf_ray.data.errors import RowError
from mmrlhf_ray.data.records.quarantine import Rejected
from mmrlhf_ray.data.records.store import LoadedRow
from mmrlhf_ray.pipelines.data.found import Found

_ANSWERS = ("response", "chosen", "rejected")


@dataclass(frozen=True)
class TokenCounter:
    """Notes what each row has."""

    encoder: Encoder
    most_prompt_tokens: int

    @classmethod
    def of(cls, model: Path, config: DataConfig, allowed: Sequence[str]) -> Self:
        """Of a model directory; `allowed` as of load_encoder(). Raises ModelError."""
        return cls(load_encoder(model, config, allowed=allowed), config.most_prompt_tokens)

    def counted(self, row: LoadedRow, found: Found) -> LoadedRow | Rejected:
        """The row, counted in `found`; Rejected where the model cannot read it."""
        media = [RawMedia.of(m) for m in row.media]
        try:
            prompt = encode_prompt(self.encoder, row.record["messages"], media)
            answers = [(name, len(encode_response(self.encoder, text))) for name, text in _answers(row.record)]
        except ValueError as error:
            return row.rejected(
                error if isinstance(error, RowError) else RowError(str(error), "fix it or leave it out")
            )
        for name, tokens in [*_lengths(prompt, len(media)).items(), *answers]:
            found.tokens.setdefault(name, array("l")).append(tokens)
        found.too_long += len(prompt.token_ids) > self.most_prompt_tokens
        return row


def _lengths(prompt: EncodedPrompt, clips: int) -> dict[str, int]:
    """A clip is one placeholder before the processor expands it."""
    text = len(prompt.collapsed_token_ids) - clips
    return {"text": text, "media": len(prompt.token_ids) - text, "prompt": len(prompt.token_ids)}


def _answers(record: dict[str, Any]) -> list[tuple[str, str]]:
    own = [(name, record[name]) for name in _ANSWERS if name in record]
    return own + [("response", text) for text in record.get("responses", ())]
