"""The least that a webhook in Python can do: read a review, answer it. What driftwall's speed is compared with."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

import uvloop

from tests.serving import Certificates, settings_for
from webhook import certificate, pki, settings, tls
from webhook.servers import Server, bound, listen

_ANSWER = b'{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","response":{"uid":"","allowed":true}}'
_HEADERS = [(b"content-type", b"application/json"), (b"content-length", str(len(_ANSWER)).encode())]

Message = MutableMapping[str, Any]


async def application(
    _: MutableMapping[str, Any], receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
) -> None:
    """A plain ASGI application that allows everything."""
    more = True
    while more:
        more = (await receive()).get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
    await send({"type": "http.response.body", "body": _ANSWER})


def main(folder: Path) -> None:
    """Serve it as ``driftwall serve`` does, with the certificate in ``folder``, until killed."""
    empty = pki.KeyPair(certificate=b"", key=b"")
    made = Certificates(ca=empty, ca_file=folder / "ca.crt", cert_file=folder / "tls.crt", key_file=folder / "tls.key")
    config = settings_for(made)
    listener = listen(settings.LISTEN, config.listen)
    server = Server(application, [listener], tls.context(certificate.load(config)))

    async def run() -> None:
        running = asyncio.create_task(server.run_to_end())
        await server.accepting.wait()
        print(bound(listener).port, flush=True)
        await running

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
