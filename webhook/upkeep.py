"""The self-managed certificate in the cluster: every replica serves what the Secret holds, one of them renews it.

The parts that decide are in :mod:`webhook.rotation`; here is what is read and written, in which order. A step reads the
Secret anew and trusts nothing that an earlier one has seen, so it may be broken off anywhere.
"""

from __future__ import annotations

import binascii
import logging
import time
from base64 import b64decode, b64encode
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from webhook import pki, rotation
from webhook.certificate import Certificate
from webhook.cluster import bundles
from webhook.cluster.replicas import Replicas
from webhook.cluster.resources import Document, Resources
from webhook.errors import CertificateError, Conflict, DriftwallError
from webhook.rotation import Asked, Held, Seen, Terms
from webhook.settings import Service
from webhook.tls import Material

#: On the Secret, by a person: renew this before its time. Gone once it is done.
ROTATE: Final = "driftwall.io/rotate"
# Looks, one each RELOAD_INTERVAL, that a bundle must have been in place for before a certificate of the new CA is
# served: every API server follows the webhook configurations by a watch, which brings a change within a second or so.
SETTLED_AFTER: Final = 10

_ASKED: Final[dict[str, Asked]] = {"serving": "serving", "ca": "ca"}

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where things are: the Secret of ``service``, and the webhook configurations by their name."""

    service: Service
    secret: str
    configurations: str

    @property
    def path(self) -> str:
        """The path of the Secret."""
        return f"/api/v1/namespaces/{self.service.namespace}/secrets/{self.secret}"

    @property
    def hosts(self) -> tuple[str, ...]:
        """What the Service is called by: the API server takes the first, people the others too."""
        host = f"{self.service.name}.{self.service.namespace}.svc"
        return (host, f"{host}.cluster.local", f"{self.service.name}.{self.service.namespace}")


class SecretSource:
    """Keeps ``certificate`` as the Secret has it, and the Secret as it should be while ``leads``. For one thread.

    ``serving`` tells which certificates this replica's processes serve now, by fingerprint; ``client_ca`` the CA of the
    clients, if they must have one.
    """

    def __init__(  # noqa: PLR0913 - its collaborators, by keyword
        self,
        resources: Resources,
        *,
        place: Place,
        terms: Terms,
        certificate: Certificate,
        replicas: Replicas,
        leads: Callable[[], bool],
        serving: Callable[[], Sequence[str]],
        client_ca: Callable[[], bytes | None] = lambda: None,
        settled_after: float = SETTLED_AFTER,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """``settled_after`` is in seconds."""
        self._resources = resources
        self._place = place
        self._terms = terms
        self._certificate = certificate
        self._replicas = replicas
        self._leads = leads
        self._serving = serving
        self._client_ca = client_ca
        self._settled_after = settled_after
        self._clock = clock
        self._now = now
        self._problems: list[DriftwallError] = []
        self._held = Held()
        self._last_good: Held | None = None
        self._bundle = b""
        self._bundle_since = 0.0
        self._where = f"Secret {place.service.namespace}/{place.secret}"

    def step(self) -> None:
        """Look at the Secret, and do the next thing that there is to do.

        Raises:
            ClusterError: something could not be read or written.
            CertificateError: what there is cannot be renewed.
        """
        self._problems.clear()
        # Before the Secret is read, also by a replica that serves nothing yet: whoever drops the old CA later than this
        # waits for us, and whoever did it earlier had written the new certificate before, which we read now.
        self._attempt(self._publish)
        self._attempt(self._follow)
        self._certificate.look()
        # Not only with the next look: the end of a CA's rotation waits for it.
        self._attempt(self._publish)
        if self._problems:
            raise self._problems[0]

    def withdraw(self) -> None:
        """Tell the others not to wait for this replica."""
        self._replicas.withdraw()

    def _attempt(self, work: Callable[[], None]) -> None:
        """Do ``work``; whether it succeeds or not, the rest is to be done."""
        try:
            work()
        except DriftwallError as error:
            self._problems.append(error)

    def _publish(self) -> None:
        self._replicas.publish(self._serving())

    def _follow(self) -> None:
        secret = self._resources.get(self._place.path) or {}
        self._held = _held(secret)
        if self._leads():
            self._attempt(lambda: self._advance(secret, self._held))
        self._take(self._held)
        if self._leads():
            self._spread(self._held.bundle(self._now()))
        else:
            self._bundle = b""

    def _advance(self, secret: Document, held: Held) -> None:
        """Write what the Secret is to hold next, if anything, bound to what was read."""
        now = self._now()
        wish = (secret.get("metadata", {}).get("annotations") or {}).get(ROTATE, "")
        asked = _ASKED.get(wish, "")
        seen = Seen(settled=self._settled(held, now), everywhere=self._everywhere(held), last_good=self._last_good)
        step = rotation.next_step(held, self._terms, seen, now=now, asked=asked)
        if step is not None and self._leads():
            done = step.held.ca != held.ca if asked == "ca" else step.held.serving != held.serving
            self._write(secret, step.held, ROTATE if asked and done else None)
            _log.info("%s: %s", self._where, step.reason)
            self._held = step.held
        if wish and not asked:
            raise CertificateError(f"{self._where}: annotation {ROTATE} is serving or ca, and nothing else")

    def _write(self, secret: Document, held: Held, done: str | None) -> None:
        path = self._place.path
        if not secret:
            empty = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": self._place.secret}, "type": "Opaque"}
            secret = self._resources.ensure(path, empty)
            if secret.get("data"):
                raise Conflict(f"{self._where}: somebody else changed it; trying again")
        data = {key: value and b64encode(value).decode() for key, value in held.data().items()}
        change: Document = {"data": data}
        if done is not None:
            change["metadata"] = {"annotations": {done: None}}
        self._resources.merge(path, change, version=secret["metadata"]["resourceVersion"])

    def _take(self, held: Held) -> None:
        """Serve what the Secret holds, if it is good."""
        if held.serving is None:
            self._certificate.lack(f"{self._where}: there is no certificate yet")
            return
        try:
            serving = rotation.check(held, self._terms, now=self._now())
            material = Material(certificate=serving.certificate, key=serving.key, client_ca=self._client_ca())
        except CertificateError as error:
            self._certificate.refuse(f"{self._where}: {error}")
            return
        if self._certificate.offer(material, self._where):
            self._last_good = held

    def _spread(self, bundle: bytes) -> None:
        """Have the API server trust ``bundle``, and know since when it does."""
        if not bundle:
            return
        already = bundles.put(self._resources, self._place.configurations, bundle)
        if not already or bundle != self._bundle:
            if not already:
                _log.info("the CAs in the webhook configurations were changed")
            self._bundle, self._bundle_since = bundle, self._clock()

    def _settled(self, held: Held, now: datetime) -> bool:
        return held.bundle(now) == self._bundle and self._clock() - self._bundle_since >= self._settled_after

    def _everywhere(self, held: Held) -> bool:
        if not held.previous or held.serving is None:
            return False  # nobody waits for it, so there is nothing to read
        wanted = [pki.fingerprint(held.serving.certificate)]
        return all(serving == wanted for serving in self._replicas.serving())


def _held(secret: Document) -> Held:
    data = secret.get("data") or {}
    try:
        return Held.parse({key: b64decode(data[key]) for key in rotation.KEYS if key in data})
    except (binascii.Error, TypeError):
        return Held()
