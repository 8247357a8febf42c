"""How the pages call the kinds of questions."""

from collections.abc import Mapping
from dataclasses import dataclass

from mmrlhf_ray.feedback.errors import N_


@dataclass(frozen=True)
class Wording:
    """Of one kind."""

    name: str
    """In lists."""
    heading: str
    hint: str
    keys: tuple[tuple[str, str], ...]
    """(key, what it does) besides those that every kind has."""


WORDINGS: Mapping[str, Wording] = {
    "pair": Wording(
        N_("Compare two"),
        N_("Which response is better?"),
        N_("Choose a tie only if you cannot say which one you would rather get."),
        (
            (N_("← or 1"), N_("response 1 is better")),
            (N_("→ or 2"), N_("response 2 is better")),
            ("↓", N_("a tie")),
            ("x", N_("both are bad")),
        ),
    ),
    "rank": Wording(
        N_("Rank several"),
        N_("Put the responses in order"),
        N_("Rank 1 is the best; equal ranks are ties. Drag the handles, or choose ranks."),
        (
            ("1 … 9", N_("rank of the response in focus, else of the next one without")),
            ("↑ ↓", N_("move the one in focus")),
        ),
    ),
    "rate": Wording(
        N_("Rate"),
        N_("Rate each response"),
        N_("From 1, very bad, to 5, very good. Leave out what you cannot judge."),
        (("1 … 5", N_("rate, then go to the next row")), ("Backspace", N_("no rating")), ("Tab", N_("next row"))),
    ),
    "correct": Wording(
        N_("Correct"),
        N_("Correct the response"),
        N_("Change as little as makes it right. If nothing is wrong, save it as it is."),
        (("e", N_("edit the text")),),
    ),
    "demonstrate": Wording(
        N_("Write"),
        N_("Write the best answer"),
        N_("Write what you would like to be answered."),
        (("e", N_("edit the text")),),
    ),
    "spans": Wording(
        N_("Mark errors"),
        N_("Mark what is wrong"),
        N_("Select words and mark them. If nothing is wrong, save without a mark."),
        (("e", N_("go to the text")), (N_("Shift + arrows"), N_("select")), ("w", N_("mark the selection as wrong"))),
    ),
    "critique": Wording(
        N_("Criticise"),
        N_("What is good, what is bad?"),
        N_("Say in your own words what is right, what is wrong, and what is missing."),
        (("e", N_("edit the text")),),
    ),
    "live": Wording(
        N_("Press as it plays"),
        N_("Is it good or bad, moment by moment?"),
        N_("Play it. Press + while it does well and − while it does not; the rest counts as neither."),
        (
            ("+ −", N_("good now, bad now")),
            ("Backspace", N_("take the last press back")),
        ),
    ),
}

SKIP_WORDS: Mapping[str, str] = {
    "unclear": N_("The question is unclear"),
    "cannot_judge": N_("I cannot judge this"),
    "broken_media": N_("An image, sound or clip does not work"),
    "offensive": N_("The content is offensive"),
    "other": N_("Something else"),
}
"""Labels of the reasons of `queue.skip`."""

UNDEFINED: Mapping[str, str] = {
    "nobody answered the same": N_("fewer than two answers to each"),
    "all answers are equal": N_("all answers are equal"),
}
"""Why an agreement is not defined, as `labels.agreement` has it."""

STATE_NAMES: Mapping[str, str] = {
    "open": N_("wants more votes"),
    "done": N_("has all votes"),
    "gold": N_("has a known answer"),
    "decided": N_("decided by a reviewer"),
}
"""States of items, as `item_list.STATES`."""

ROLE_NAMES: Mapping[str, str] = {
    "annotator": N_("annotator"),
    "reviewer": N_("reviewer"),
    "admin": N_("admin"),
    "client": N_("client"),
}

ACTIONS: Mapping[str, str] = {
    "account added": N_("account added"),
    "account removed": N_("account removed"),
    "annotator erased": N_("annotator erased"),
    "annotator exported": N_("annotator exported"),
    "export": N_("export"),
    "item changed": N_("item changed"),
    "item deleted": N_("item deleted"),
    "item reviewed": N_("item reviewed"),
    "items added": N_("items added"),
    "project added": N_("project added"),
    "project changed": N_("project changed"),
    "project role changed": N_("project role changed"),
    "group changed": N_("group changed"),
    "login": N_("login"),
    "login failed": N_("login failed"),
    "logout": N_("logout"),
    "role changed": N_("role changed"),
    "token replaced": N_("token replaced"),
    "vote changed": N_("vote changed"),
    "vote undone": N_("vote undone"),
}
"""Actions of the audit log."""
