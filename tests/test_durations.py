from __future__ import annotations

import contextlib
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webhook.durations import parse_duration


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("4h", timedelta(hours=4)),
        ("30m", timedelta(minutes=30)),
        ("90s", timedelta(seconds=90)),
        ("1h30m", timedelta(hours=1, minutes=30)),
        ("1h2m3s", timedelta(hours=1, minutes=2, seconds=3)),
        ("1.5h", timedelta(minutes=90)),
        ("0.000001s", timedelta(microseconds=1)),
        ("30m1h", timedelta(minutes=90)),
        ("0s", timedelta()),
        ("2562047h", timedelta(hours=2_562_047)),
    ],
)
def test_a_duration_is_read_as_go_reads_it(text: str, expected: timedelta) -> None:
    assert parse_duration(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1d", "'1d' is not a duration: there is no unit for days; use 24h"),
        ("1.5d", "'1.5d' is not a duration: there is no unit for days; use 36.0h"),
        ("7days", "'7days' is not a duration: there is no unit for days; use 168h"),
        ("1h30", "'1h30' is not a duration: 30 has no unit; write 30s, 30m or 30h"),
        ("0", "'0' is not a duration: 0 has no unit; write 0s, 0m or 0h"),
        ("5min", "'5min' is not a duration: 'min' is no unit; use h, m or s"),
        ("300ms", "'300ms' is not a duration: 'ms' is no unit; use h, m or s"),
        ("", "'' is not a duration; write it as 4h, 30m or 1h30m"),
        ("h", "'h' is not a duration; write it as 4h, 30m or 1h30m"),
        ("-1h", "'-1h' is not a duration; write it as 4h, 30m or 1h30m"),
        ("1 h", "'1 h' is not a duration; write it as 4h, 30m or 1h30m"),
        ("4H", "'4H' is not a duration; write it as 4h, 30m or 1h30m"),
        ("4h\n", "'4h\\n' is not a duration; write it as 4h, 30m or 1h30m"),
        ("٤h", "'٤h' is not a duration; write it as 4h, 30m or 1h30m"),
        ("PT4H", "'PT4H' is not a duration; write it as 4h, 30m or 1h30m"),
        ("9" * 5000 + "h", f"'{'9' * 57}…' is not a duration; write it as 4h, 30m or 1h30m"),
        ("2562048h", "'2562048h' is too long a duration: the limit is 292 years"),
    ],
)
def test_what_is_no_duration_is_explained(text: str, message: str) -> None:
    with pytest.raises(ValueError) as raised:  # noqa: PT011 - the message is asserted whole below
        parse_duration(text)
    assert str(raised.value) == message


@given(st.text())
def test_any_other_text_is_a_value_error(text: str) -> None:
    with contextlib.suppress(ValueError):
        assert parse_duration(text) >= timedelta()


@given(st.text("0123456789.hmsd", max_size=70))
def test_a_text_of_digits_and_units_is_a_duration_or_a_value_error(text: str) -> None:
    with contextlib.suppress(ValueError):
        assert timedelta() <= parse_duration(text) < timedelta(days=365 * 293)
