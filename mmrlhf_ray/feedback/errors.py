"""Why a request cannot be met."""

from mmrlhf_ray.errors import FeedbackError


def N_(message: str) -> str:
    """`message` as it is; marks what people read in the pages, so that it has its place in every catalogue."""
    return message


class Unknown(FeedbackError):
    """No such thing."""


class Conflict(FeedbackError):
    """It contradicts existing data."""


class Gone(FeedbackError):
    """It was there, but is no longer this annotator's."""


class Invalid(FeedbackError):
    """It cannot be read, or says what makes no sense."""


class Refused(FeedbackError):
    """The account may not do this, or not with these credentials."""


class NoAccount(FeedbackError):
    """Neither a valid token nor a valid session."""


class TooMany(FeedbackError):
    """Too many failed logins, or requests at one time."""


class Unanswered(FeedbackError):
    """A model of the arena, or the provider of sign-ins, did not answer."""


class TooLarge(FeedbackError):
    """More bytes than are taken."""
