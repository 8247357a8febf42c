"""Whether models that exchange token ids mean the same by them."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from mmrlhf_ray.errors import ModelError
from mmrlhf_ray.models.adapter import eos_token_ids
from mmrlhf_ray.models.families.registry import adapter_for


def check_same_tokens(policy: str | Path, *others: str | Path) -> None:
    """Raise ModelError unless all models read the token ids and media features that are made for `policy`."""
    if not others:
        return
    expected = _reading(Path(policy))
    for path in others:
        came = _reading(Path(path))
        for what, value in expected.items():
            if came[what] != value:
                raise ModelError(
                    f"{path}: expected the {what} of {policy}, whose token ids it is given; "
                    f"{_DIFFERENCE[what](value, came[what])}; use models of one family and tokenizer"
                )


def _reading(path: Path) -> dict[str, Any]:
    tokenizer = AutoTokenizer.from_pretrained(str(path), trust_remote_code=False)
    return {
        "model family": adapter_for(path).family,
        "vocabulary": tokenizer.get_vocab(),
        "control tokens": sorted(i for i, t in tokenizer.added_tokens_decoder.items() if t.special),
        "tokens that end a response": sorted(eos_token_ids(path)),
    }


def _values(expected: Any, came: Any) -> str:
    return f"that is {expected}, this is {came}"


def _first_token(expected: Mapping[str, int], came: Mapping[str, int]) -> str:
    token = min(t for t in expected.keys() | came.keys() if expected.get(t) != came.get(t))
    return f"token {token!r} is {expected.get(token)} there and {came.get(token)} here"


_DIFFERENCE: dict[str, Callable[[Any, Any], str]] = {
    "model family": _values,
    "vocabulary": _first_token,
    "control tokens": _values,
    "tokens that end a response": _values,
}
