"""`mmrlhf chat`: a conversation at the terminal, several turns long, with media."""

from collections.abc import Callable, Iterator
from pathlib import Path

from mmrlhf_ray.data.media import MediaRow
from mmrlhf_ray.errors import DataError
from mmrlhf_ray.pipelines.talk.talk import KINDS, Talk, read_clip

HELP = "/image, /audio or /video PATH shows a file with the next message; /clear starts over; /quit ends"
Say = Callable[[str], None]


def chat(talk: Talk, lines: Iterator[str], say: Say, note: Say) -> None:
    """Answer line by line until they end or one is /quit. `say` gets pieces of answers, `note` all else."""
    shown: list[MediaRow] = []
    for line in map(str.strip, lines):
        command, _, rest = line.partition(" ")
        if command in ("/quit", "/exit"):
            return
        if command == "/clear":
            talk.clear()
            shown = []
            note("the conversation starts over")
        elif command.startswith("/"):
            shown += _clip(command.removeprefix("/"), rest.strip(), note)
        elif line:
            try:
                for piece in talk.ask(line, shown):
                    say(piece)
                say("\n")
            except DataError as error:
                note(str(error))
            shown = []


def _clip(kind: str, path: str, note: Say) -> list[MediaRow]:
    """What a command shows; nothing where it cannot."""
    known = next((own for own in KINDS if own == kind), None)
    if known is None or not path:
        note(HELP)
        return []
    try:
        clip = read_clip(known, Path(path).expanduser())
    except DataError as error:
        note(str(error))
        return []
    note(f"{known}: {path} is shown with the next message")
    return [clip]
