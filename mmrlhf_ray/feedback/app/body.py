"""JSON bodies: read, looked over, and checked as a model."""

from typing import Any, Generic, TypeVar

from fastapi import Depends, Request
from pydantic import BaseModel, ConfigDict, ValidationError

from mmrlhf_ray.data.errors import RowError
from mmrlhf_ray.data.validate import parse_json
from mmrlhf_ray.feedback.errors import Invalid

M = TypeVar("M", bound=BaseModel)
_MAX_DEPTH = 32
_MAX_VALUES = 200_000


class Message(BaseModel):
    """The base of all that is sent: closed, and strict about types."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Body(Generic[M]):
    """Dependency that reads the JSON body as a model."""

    def __init__(self, model: type[M]) -> None:
        self.documented = model

    async def __call__(self, request: Request) -> M:
        """The message. Raises Invalid, which names the field."""
        value = await read_json(request)
        try:
            return self.documented.model_validate(value)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            field = ".".join(str(part) for part in first["loc"]) or "body"
            raise Invalid(first["msg"], field) from error


def body_as(model: type[M]) -> Any:
    """Depends() that gives the JSON body as `model`."""
    return Depends(Body(model))


async def read_json(request: Request) -> Any:
    """The body, which must be called JSON: forms of other sites cannot send that. Raises Invalid."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise Invalid("send JSON with Content-Type: application/json", "content-type")
    try:
        value = parse_json(await request.body(), "the body")
    except RowError as error:
        raise Invalid(str(error), "body") from error
    check_values(value)
    return value


def check_values(value: Any) -> None:
    """Neither deep nor endless, and every text can be stored. Raises Invalid."""
    seen, level = 0, [value]
    for _ in range(_MAX_DEPTH):
        deeper: list[Any] = []
        for entry in level:
            if isinstance(entry, dict):
                deeper += [*entry.keys(), *entry.values()]
            elif isinstance(entry, list):
                deeper += entry
            elif isinstance(entry, str) and ("\0" in entry or (not entry.isascii() and _lone_surrogate(entry))):
                raise Invalid("a text holds NUL or half a surrogate pair; remove it", "body")
        seen += len(deeper)
        if seen > _MAX_VALUES:
            raise Invalid(f"the body has more than {_MAX_VALUES} values; send less at a time", "body")
        if not deeper:
            return
        level = deeper
    raise Invalid(f"the body is nested more than {_MAX_DEPTH} deep", "body")


def _lone_surrogate(text: str) -> bool:
    return any("\ud800" <= char <= "\udfff" for char in text)
