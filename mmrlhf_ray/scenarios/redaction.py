"""What must not reach a record: card numbers, other long numbers, addresses, and names that are known to be names."""

import re
from collections.abc import Collection

CARD, NUMBER, MAIL, NAME = "<card>", "<number>", "<mail>", "<name>"
_MAIL = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+")
_DIGITS = re.compile(r"(?<![\w<])\+?\d(?:[ ().-]{0,2}\d){3,}(?!\w)")
"""Four digits or more, as telephone, order, account and card numbers are written."""
_CARD_DIGITS = range(13, 20)


def redacted(text: str, names: Collection[str] = ()) -> str:
    """The text with `<card>`, `<number>`, `<mail>` and `<name>` in their place.

    A card number has 13 to 19 digits and passes Luhn's check (ISO/IEC 7812-1); other runs of four digits or more are
    numbers. names: whole words or several of them, upper and lower case alike. A name that is not among them stays.
    """
    text = _MAIL.sub(MAIL, text)
    text = _DIGITS.sub(lambda found: CARD if is_card(found[0]) else NUMBER, text)
    for name in sorted((name for name in names if name.strip()), key=len, reverse=True):
        text = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", NAME, text, flags=re.IGNORECASE)
    return text


def is_card(text: str) -> bool:
    """Whether the digits in `text` could be a payment card's number."""
    digits = [int(sign) for sign in text if sign.isdigit()]
    doubled = [digit if place % 2 == 0 else digit * 2 - 9 * (digit > 4) for place, digit in enumerate(digits[::-1])]
    return len(digits) in _CARD_DIGITS and sum(doubled) % 10 == 0
