"""One connection of a caller, and what it may cost: how long a request may take to arrive, how much may wait.

uvicorn bounds none of that. It lets a new connection be silent for ever, headers and bodies come as slowly as they
like, and headers without end; nor does it mind a caller who never reads its answers.

And a request that an application can answer as soon as it is there (:class:`Prompt`) goes a shorter way than uvicorn's,
which makes a task for each, hands the request over in messages, and writes head and body of the answer one by one.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable
from time import monotonic
from typing import Any, Final, Protocol, cast, runtime_checkable

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

# The API server keeps idle connections for 90 s; a server that closes them sooner makes writes fail that are just being
# sent. Prometheus and kubelet do not mind. A new connection is idle, too: Go opens some that it then has no use for.
KEEP_ALIVE_SECONDS: Final = 120.0
# Headers are a few packets; TCP sends a lost one again within seconds.
HEADERS_SECONDS: Final = 10.0
# No API server waits longer than this for a webhook, so nobody is there any more to be answered.
BODY_SECONDS: Final = 30.0
# Nor to read the answer.
ANSWER_SECONDS: Final = 30.0
# Bytes of headers, or around the chunks of a body: the API server sends some hundred.
MAX_HEADERS: Final = 64 * 1024
# Bytes of answers that wait for their reader before the next one does: any answer but a large patch fits at once.
MAX_UNREAD: Final = 64 * 1024


# Requests that are sent before the answer to the one before. No API server does that, and for each answer that goes out
# uvicorn reads as many of them as there are.
MAX_AHEAD: Final = 8


class Call(Protocol):
    """A request that may be answered without a task of its own. Nothing of it raises."""

    def complete(self, body: bytes, answered: Callable[[bytes | None], None]) -> None:
        """Its body is there.

        ``answered`` is called once, in a later turn of the event loop, unless :meth:`end` comes before: with the whole
        response, which leaves the connection open, or with None if the request has to go the long way.
        """

    def end(self) -> None:
        """It goes the long way, or whoever made it is gone."""


@runtime_checkable
class Prompt(Protocol):
    """An ASGI application that takes some requests as a :class:`Call`."""

    def begin(self, target: bytes, headers: list[tuple[bytes, bytes]]) -> Call | None:
        """A POST, of which the body is to come; None if it goes the long way. Names of ``headers`` are lower case."""


class Connection(HttpToolsProtocol):
    """Knows by when something has to happen on it; :func:`close_late` sees to it.

    No timer is set, since one for each request would cost more than all the rest of this. ``most`` is how many there
    may be beside one another: one more, and the one that has been idle the longest ends.
    """

    def __init__(self, *, most: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._most = most
        # When it is late, by a clock that tells the oldest apart: the event loop counts in milliseconds.
        self._due = self._stalled = math.inf
        # Whether it waits for a request, and nothing of one has come.
        self._idle = False
        self._overhead = 0
        self._prompt = self.app if isinstance(self.app, Prompt) else None
        # A request on its short way, what has come of its body (in one piece, since it may come byte by byte), and
        # whether that is all.
        self._call: Call | None = None
        self._body = bytearray()
        self._is_complete = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to be idle."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(MAX_UNREAD)
        self._rest()
        if len(self.connections) > self._most:
            self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of everything: uvicorn's timer would keep a connection that was reset in memory for two minutes."""
        super().connection_lost(exc)
        self._unset_keepalive_if_required()
        if self._call is not None:
            self._call.end()
            self._forget_call()

    # A request comes in

    def data_received(self, data: bytes) -> None:
        """Take what came, unless it is headers without end."""
        self._overhead += len(data)
        super().data_received(data)
        if self._overhead > MAX_HEADERS:
            self.transport.abort()

    def on_message_begin(self) -> None:
        """Begin to wait for the headers.

        Raises ValueError where too many requests wait already: the parser makes a mistake of the caller's of it.
        """
        if len(self.pipeline) > MAX_AHEAD:
            raise ValueError("too many requests before their answers")
        if self._call is not None:
            self._go_long_way()  # where uvicorn keeps the order of answers
        self.url = b""
        self.headers = []
        self.expect_100_continue = False
        self._idle = False
        self._due = monotonic() + HEADERS_SECONDS

    def on_headers_complete(self) -> None:
        """Begin to wait for the body."""
        self._overhead = 0
        self._due = monotonic() + BODY_SECONDS
        if self._may_be_short():
            self._call = cast("Prompt", self._prompt).begin(self.url, self.headers)
        if self._call is None:
            self._begin_long_way()

    def on_body(self, body: bytes) -> None:
        """Take a piece of the body."""
        self._overhead = 0
        if self._call is None:
            super().on_body(body)
        else:
            self._body += body

    def on_message_complete(self) -> None:
        """Leave the rest to the application, unless it has answered already."""
        self._overhead = 0
        if self._call is None:
            self._complete_long_way()
            return
        self._is_complete = True
        # The first is that the answer has to close the connection.
        if self.server_state.default_headers or self.flow.write_paused or self.transport.is_closing():
            self._go_long_way()
            return
        self._due = math.inf
        self._call.complete(bytes(self._body), self._answered)

    # The short way

    def _may_be_short(self) -> bool:
        """Whether nothing but the body is to come, and nobody waits for an answer before."""
        return (
            self._prompt is not None
            and not self._is_on_long_way()
            and not self.expect_100_continue
            and self.parser.get_method() == b"POST"
            and self.parser.should_keep_alive()
            and self.parser.get_http_version() == "1.1"
            and not self.parser.should_upgrade()
        )

    def _is_on_long_way(self) -> bool:
        cycle = cast("RequestResponseCycle | None", self.cycle)
        return cycle is not None and not cycle.response_complete

    def _answered(self, response: bytes | None) -> None:
        if response is None:
            self._go_long_way()
            return
        self._forget_call()
        self.transport.write(response)
        self._rest()

    def _forget_call(self) -> None:
        self._call = None
        self._body = bytearray()
        self._is_complete = False

    # The long way

    def _go_long_way(self) -> None:
        """Have the request go the long way after all, with as much of it as there is."""
        body, is_complete = self._body, self._is_complete
        cast("Call", self._call).end()
        self._forget_call()
        self._begin_long_way()
        super().on_body(bytes(body))
        if is_complete:
            self._complete_long_way()

    def _begin_long_way(self) -> None:
        url, headers, expects = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()  # begins all three anew
        self.url = url
        self.headers += headers
        self.expect_100_continue = expects
        super().on_headers_complete()

    def _complete_long_way(self) -> None:
        super().on_message_complete()
        if self.cycle.response_complete:
            self._rest()
        else:
            self._due = math.inf

    # An answer goes out

    def on_response_complete(self) -> None:
        """Be idle again, unless the rest of the body is still to come: nobody may send that for ever, either."""
        super().on_response_complete()
        if self.cycle.response_complete and not self.cycle.more_body:
            self._rest()

    def pause_writing(self) -> None:
        """Begin to wait for the reader."""
        super().pause_writing()
        self._stalled = monotonic() + ANSWER_SECONDS

    def resume_writing(self) -> None:
        """Go on."""
        super().resume_writing()
        self._stalled = math.inf

    # Its end

    def shutdown(self) -> None:
        """Be the last request's, if there is one, and then nobody's."""
        if self._call is not None:
            self._go_long_way()
        super().shutdown()

    def close_if_late(self, now: float) -> None:
        """Close it if it was idle for long enough; abort it if what it waits for is overdue."""
        if self._due == math.inf and self.transport.is_closing():
            self._due = now + ANSWER_SECONDS  # for what was not read yet
        if now < self._due and now < self._stalled:
            return
        if self._idle and now < self._stalled and not self.transport.is_closing():
            self.transport.close()
            self._due = math.inf
        else:
            self.transport.abort()

    def _rest(self) -> None:
        self._idle = True
        self._due = monotonic() + KEEP_ALIVE_SECONDS

    def _make_room(self) -> None:
        others = cast("set[Connection]", self.connections)
        oldest = min((other for other in others if other._idle), key=lambda other: other._due)  # this one, if no other
        oldest._idle = False  # it is gone a moment later
        oldest.transport.abort()


def close_late(connections: Iterable[object], now: float) -> None:
    """Close those whose time has come; to be called about every second."""
    for connection in cast("list[Connection]", list(connections)):
        connection.close_if_late(now)


def abort(connections: Iterable[object]) -> None:
    """End them, without waiting for those who are at the other end."""
    for connection in cast("list[Connection]", list(connections)):
        connection.transport.abort()
