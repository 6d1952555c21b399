"""Regular expressions that people write in policies: RE2, whose time grows with the text and never faster."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import re2  # type: ignore[import-untyped]

MAX_LENGTH = 1_000  # many times what a ticket number needs; compiles far below the 8 MiB that RE2 grants it


class _Compiled(Protocol):
    def search(self, text: str) -> object | None: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Pattern:
    """A compiled regular expression; ``text`` is what was written."""

    text: str
    _compiled: _Compiled = field(repr=False, compare=False)

    def matches(self, text: str) -> bool:
        """Whether the pattern is found anywhere in ``text``; anchors are the pattern's own ``^`` and ``$``.

        ``$`` is the very end: unlike Python's, it does not match before a closing newline.
        """
        try:
            return self._compiled.search(text) is not None
        except UnicodeEncodeError:  # JSON may hold half a surrogate pair; like Go, read it as U+FFFD
            whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
            return self._compiled.search(whole) is not None


def compile_pattern(text: str) -> Pattern:
    """Compile a regular expression in RE2's syntax (https://github.com/google/re2/wiki/Syntax).

    Raises ValueError, with RE2's own words, for one that RE2 refuses or that is longer than ``MAX_LENGTH``.
    """
    if len(text) > MAX_LENGTH:
        raise ValueError(f"longer than {MAX_LENGTH:,} characters")
    return compile_own(text)


def compile_own(text: str, *, dot_matches_newline: bool = False) -> Pattern:
    """As :func:`compile_pattern`, for a pattern that the program itself made, of any length."""
    options: Any = re2.Options()
    options.log_errors = False  # RE2 would write them to stderr itself
    options.dot_nl = dot_matches_newline
    try:
        return Pattern(text=text, _compiled=re2.compile(text, options))
    except UnicodeEncodeError:
        raise ValueError("half a surrogate pair is no character") from None
    except re2.error as error:
        raise ValueError(_words(error)) from None


def escape(text: str) -> str:
    """``text`` as a pattern that matches just that."""
    return str(re2.escape(text))


def _words(error: Exception) -> str:
    reason = error.args[0] if error.args else ""
    return reason.decode("utf-8", "replace") if isinstance(reason, bytes) else str(reason)
