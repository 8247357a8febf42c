"""Personal data in text, found by shape and check digits: a help, no proof that nothing is left."""

import ipaddress
import re
from collections import Counter
from collections.abc import Callable, Sequence

_EMAIL = re.compile(r"(?<![\w.+-])[\w.+%-]{1,64}@(?:[^\W_](?:[\w-]{0,62})\.){1,8}[^\W\d_]{2,24}(?![\w-])")
_IBAN = re.compile(r"(?<!\w)[A-Z]{2}\d{2}(?:[ -]?[A-Z0-9]){11,30}(?!\w)")
_IPV4 = re.compile(r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?![\w]|\.\d)")
_IPV6 = re.compile(r"(?<![\w:.])[0-9A-Fa-f:]{2,39}(?:(?:\.\d{1,3}){3})?(?![\w:])")
_CARD = re.compile(r"(?<![\w.+-])\d(?:[ -]?\d){12,18}(?![\w-]|\.\d)")
_PHONE = re.compile(
    r"(?<![\w.+])(?<!\d )(?:"
    r"\+\d[\d ()./-]{5,22}\d"  # international
    r"|\(0?\d{2,5}\)[ -]?\d[\d ./-]{3,12}\d"  # area code in brackets
    r"|0\d{1,4}[ /-]\d[\d /-]{3,12}\d"  # national, with a separator behind the area code
    r"|\d{3}[-. ]\d{3}[-. ]\d{4}"  # North America
    r")(?!\w|\.\d)"
)
_SHORTEST_IBAN = 15
_DATE = re.compile(r"\d{1,4}[-./ ]\d{1,2}[-./ ]\d{2,4}")


def mask_pii(texts: Sequence[str]) -> tuple[list[str], dict[str, int]]:
    """The texts with `[EMAIL]`, `[IBAN]`, `[IP]`, `[CARD]`, `[PHONE]` in place of such data, and how many of each."""
    counts: Counter[str] = Counter()
    return [_masked(text, counts) for text in texts], dict(counts)


def _masked(text: str, counts: Counter[str]) -> str:
    for label, pattern, length in _KINDS:

        def put(match: re.Match[str], label: str = label, length: Callable[[str], int] = length) -> str:
            found = length(match.group())
            if not found:
                return match.group()
            counts[label] += 1
            return f"[{label}]{match.group()[found:]}"

        text = pattern.sub(put, text)
    return text


def _iban(text: str) -> int:
    """Length of the longest start that is one: capital words may follow it."""
    ends = [m.start() for m in re.finditer(r"[ -]|$", text) if m.start() >= _SHORTEST_IBAN]
    return next((end for end in reversed(ends) if _is_iban(text[:end])), 0)


def _is_iban(text: str) -> bool:
    """ISO 13616: the remainder of a division by 97 is 1."""
    plain = re.sub(r"[ -]", "", text)
    digits = "".join(str(int(c, 36)) for c in plain[4:] + plain[:4])
    return int(digits) % 97 == 1


def _is_card(text: str) -> bool:
    """Four groups of four digits, or digits that satisfy ISO 7812's check (Luhn)."""
    if re.fullmatch(r"\d{4}([ -])\d{4}\1\d{4}\1\d{4}", text):
        return True
    digits = [int(c) for c in text if c.isdigit()][::-1]
    doubled = (sum(divmod(2 * d, 10)) for d in digits[1::2])
    return (sum(digits[::2]) + sum(doubled)) % 10 == 0


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _is_ipv6(text: str) -> bool:
    # Not `a::b` and the like of programs.
    return text.count(":") >= 2 and any(c.isdigit() for c in text) and _is_address(text)


def _is_phone(text: str) -> bool:
    return 7 <= sum(c.isdigit() for c in text) <= 15 and not _DATE.fullmatch(text)


def _whole(holds: Callable[[str], bool]) -> Callable[[str], int]:
    return lambda text: len(text) if holds(text) else 0


_KINDS: tuple[tuple[str, re.Pattern[str], Callable[[str], int]], ...] = (
    ("EMAIL", _EMAIL, len),
    ("IBAN", _IBAN, _iban),
    ("IP", _IPV4, _whole(_is_address)),
    ("IP", _IPV6, _whole(_is_ipv6)),
    ("CARD", _CARD, _whole(_is_card)),
    ("PHONE", _PHONE, _whole(_is_phone)),
)
"""Label, what such data look like, and how many characters of a match they are."""
