"""What surrounds a YAML parser: bytes to text, plain scalars to values, and a parser's complaints in a person's words.

No parser is imported here; :mod:`webhook.documents` brings one.
"""

from __future__ import annotations

import math
import re
from typing import NamedTuple

from webhook.text import escaped

# What YAML 1.2 calls printable, less the line breaks that only YAML 1.1 knows (next line, line separator, paragraph
# separator) and a carriage return on its own: editors show one line there where a parser sees two.
_REFUSED = re.compile("[^\t\n\r\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]|\r(?!\n)")
_TAG_DIRECTIVE = re.compile(r"^%TAG\b", re.MULTILINE)  # refused here: the parser takes the square of their number
_INTEGER = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_WORDS = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_MAX_DIGITS = 64  # characters of a number; a 64-bit one has 20, a double that reads back the same some 24
_TAB = "a tab where YAML wants spaces"


class Fault(NamedTuple):
    """Why a text is no YAML: the line, from 1, and a sentence."""

    line: int
    message: str


def decode(data: bytes) -> str | Fault:
    """The text of a UTF-8 file without its byte order mark, or why it is none."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return Fault(1, "the file is in UTF-16; save it as UTF-8")
    try:
        text = data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        return Fault(data.count(b"\n", 0, error.start) + 1, f"the byte 0x{data[error.start]:02x} is not UTF-8")
    if refused := _REFUSED.search(text):
        line = text.count("\n", 0, refused.start()) + 1
        if refused[0] == "\r":
            return Fault(line, "a carriage return without a line feed; save the file with LF line ends")
        character = f"U+{ord(refused[0]):04X}"
        return Fault(line, f"the character {character} may not stand in YAML; use an escape in double quotes")
    if directive := _TAG_DIRECTIVE.search(text):
        line = text.count("\n", 0, directive.start()) + 1
        return Fault(line, "the directive %TAG is refused, as tags are")
    return text


def resolve(text: str) -> str | int | float | bool | None:
    """The value of a plain scalar by the core schema of YAML 1.2: ``010`` is ten, ``yes`` and ``22:22`` are strings.

    Raises ValueError for a number that JSON or Kubernetes cannot hold.
    """
    if text in _WORDS:
        return _WORDS[text]
    integer = _INTEGER.fullmatch(text)
    if not integer and not _FLOAT.fullmatch(text):
        return text
    if len(text) > _MAX_DIGITS:
        raise ValueError("a number with too many digits; quote it if it is a string")
    if integer:
        number = int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
        if not -(2**63) <= number < 2**63:
            raise ValueError(f"the number {text} does not fit in 64 bits; quote it if it is a string")
        return number
    # float() knows inf and nan without YAML's dot
    value = float(text.replace(".", "") if text[-1] in "fFnN" else text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text} cannot be written in JSON; quote it if it is a string")
    return value


def explain(problem: str, context: str, line: int, begun: int, character: str) -> Fault:
    """A parser's error as a sentence. PyYAML has a parser in C and one in Python, whose words differ.

    ``problem`` and ``context`` are those words; ``line`` is where the parser stopped, at ``character``, and ``begun``
    the line on which the construct began that it was in.
    """
    if "tab character" in problem:
        return Fault(line, _TAB)
    if "cannot start any token" in problem:
        return Fault(line, _TAB if character == "\t" else f"a value cannot begin with '{escaped(character)}'; quote it")
    if "mapping values are not allowed" in problem:
        return Fault(line, "a ':' where no key can stand; check the indentation, or quote the value")
    if "quoted scalar" in context and "end of stream" in problem:
        return Fault(begun, "a quote that is never closed")
    if "could not find expected ':'" in problem:
        return Fault(begun, "a key without a ':' after it")
    if "flow sequence" in context or "flow mapping" in context:
        opened = "[" if "sequence" in context else "{"
        return Fault(begun, f"the '{opened}' that is opened here is not closed, or a comma is missing in it")
    if "block mapping" in context:
        return Fault(line, "this does not fit the mapping that it stands in; check the indentation and the quotes")
    if "block collection" in context:
        return Fault(line, "this does not fit the list that it stands in; check the indentation and the quotes")
    if "node" in context:
        return Fault(line, "a value is missing here, or a bracket is not closed or closed twice")
    return Fault(line, f"not valid YAML: {escaped(problem)}" + (f" ({context})" if context else ""))
