"""Times as people and programs write them."""

from datetime import datetime

from mmrlhf_ray.feedback.errors import Invalid


def parse_time(text: str, field: str = "since") -> datetime:
    """An ISO 8601 time with its zone. Raises Invalid."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError as error:
        raise Invalid("expected an ISO 8601 time such as 2026-01-31T12:00:00+00:00", field) from error
    if time.tzinfo is None:
        raise Invalid("expected a time with its zone, such as …+00:00 or …Z", field)
    return time
