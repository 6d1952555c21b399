"""Wildcards in policies: ``*`` is any run of characters, also none, ``?`` exactly one; all else stands for itself.

The same two as in Kyverno's policies. Case counts, and the whole text has to match.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from webhook.regexes import MAX_LENGTH, Pattern, compile_own, escape


def is_glob(text: str) -> bool:
    """Whether ``text`` holds a wildcard, and so may match more than itself."""
    return "*" in text or "?" in text


@dataclass(frozen=True, slots=True)
class Glob:
    """One pattern, compiled. Raises ValueError for one longer than 1,000 characters.

    ``prefix`` is what every text that matches begins with.

    Time is linear in the text, whatever the pattern: see :mod:`webhook.regexes`.
    """

    text: str
    prefix: str = field(init=False, repr=False, compare=False)
    _pattern: Pattern | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if len(self.text) > MAX_LENGTH:
            raise ValueError(f"longer than {MAX_LENGTH:,} characters")
        object.__setattr__(self, "_pattern", _compile(self.text) if is_glob(self.text) else None)
        prefix = self.text.partition("*")[0].partition("?")[0]
        # What stands for half a surrogate pair is not compared here: see regexes.
        object.__setattr__(self, "prefix", prefix.partition("\ufffd")[0])

    def matches(self, text: str) -> bool:
        """Whether the pattern matches the whole of ``text``."""
        if self._pattern is None:
            return self.text == text
        # Most texts differ from the pattern at once, which costs a tenth of asking it.
        return text.startswith(self.prefix) and self._pattern.matches(text)

    def __str__(self) -> str:
        return self.text


class Globs:
    """Many patterns as one question: does any of them match? Names without a wildcard cost one look-up in all.

    ``patterns`` is what was given, sorted and without repetitions. Raises ValueError as :class:`Glob` does.
    """

    __slots__ = ("_exact", "_globs", "_prefixes", "patterns")

    def __init__(self, patterns: Iterable[str] = ()) -> None:
        self.patterns = tuple(sorted(set(patterns)))
        self._exact = frozenset(pattern for pattern in self.patterns if not is_glob(pattern))
        self._globs = tuple(Glob(pattern) for pattern in self.patterns if is_glob(pattern))
        self._prefixes = tuple(glob.prefix for glob in self._globs)

    def matches(self, text: str) -> bool:
        """Whether any pattern matches the whole of ``text``; no pattern matches nothing."""
        # Most texts differ from all patterns at once, which one look tells.
        return text in self._exact or (
            text.startswith(self._prefixes) and any(glob.matches(text) for glob in self._globs)
        )

    def __bool__(self) -> bool:
        return bool(self.patterns)

    def __eq__(self, other: object) -> bool:
        return self.patterns == other.patterns if isinstance(other, Globs) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.patterns)

    def __repr__(self) -> str:
        return f"Globs({list(self.patterns)!r})"


def _compile(text: str) -> Pattern:
    wildcards = {"*": ".*", "?": "."}
    translated = "".join(wildcards.get(character) or escape(character) for character in text)
    return compile_own(f"^{translated}$", dot_matches_newline=True)
