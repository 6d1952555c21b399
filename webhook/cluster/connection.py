"""The way to the API server: where its address and our identity come from, and one bounded GET."""

from __future__ import annotations

import contextlib
import os
import time
from base64 import urlsafe_b64decode
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec
import urllib3
from kubernetes.client import ApiClient, Configuration
from kubernetes.config import ConfigException, load_incluster_config, load_kube_config

from webhook import settings
from webhook.errors import LookupFailed, SettingsError
from webhook.identity import service_account

# Bytes of one object. etcd takes 1.5 MiB unless told otherwise; people who raise that stay far below this.
MAX_OBJECT: Final = 8 * 1024 * 1024
#: The media type that is asked for.
JSON: Final = "application/json"
_CHUNK: Final = 64 * 1024  # the deadline is looked at between two chunks
_CONNECT_SECONDS: Final = 5.0  # until a stream's connection is there: on a network that is well, milliseconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the API server said, whatever the status."""

    status: int
    body: bytes


def json_object(body: bytes) -> dict[str, Any] | None:
    """The JSON object in the body of an answer; None if it is none."""
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


class Stream(Protocol):
    """An answer that comes line by line for as long as it is read, inside a ``with``."""

    status: int

    def __enter__(self) -> Stream: ...
    def __exit__(self, *_: object) -> None: ...

    def lines(self) -> Iterator[bytes]:
        """Each line as it comes, until the answer ends, in whatever way. Raises LookupFailed for an endless one."""

    def stop(self) -> None:
        """End :meth:`lines`, which another thread is in."""


class Connection(Protocol):
    """One call, for whoever reads or writes objects."""

    def get(self, path: str, deadline: float) -> Answer:
        """The answer to GET ``path``; ``deadline`` is on the clock of :func:`time.monotonic`. Raises LookupFailed."""

    def send(self, method: str, path: str, body: bytes, content_type: str, deadline: float) -> Answer:
        """The answer to a call that writes; otherwise as :meth:`get`."""


class Offline:
    """No way to the API server: whatever needs one fails, and says why and what to do."""

    def __init__(self, reason: str) -> None:
        self.reason = reason

    def account(self) -> None:
        """None: nobody is logged in."""

    def get(self, path: str, deadline: float, *, accept: str = JSON) -> Answer:  # noqa: ARG002 - that of a Connection
        """Raise LookupFailed."""
        raise LookupFailed(
            f"driftwall has no way to the API server ({self.reason}); start it with {settings.KUBECONFIG.flag} FILE"
        )

    def send(self, method: str, path: str, body: bytes, content_type: str, deadline: float) -> Answer:  # noqa: ARG002
        """Raise LookupFailed."""
        return self.get(path, deadline)


class _Stream:
    """See Stream."""

    def __init__(self, response: urllib3.BaseHTTPResponse) -> None:
        self._response = response
        self.status = response.status

    def __enter__(self) -> _Stream:
        return self

    def __exit__(self, *_: object) -> None:
        # Never back to the pool: more may be on its way.
        self._response.close()

    def lines(self) -> Iterator[bytes]:
        rest = bytearray()
        try:
            for chunk in self._response.stream(_CHUNK):
                rest += chunk
                if b"\n" in chunk:
                    *lines, last = bytes(rest).split(b"\n")
                    rest = bytearray(last)
                    yield from (line for line in lines if line.strip())
                if len(rest) > MAX_OBJECT:
                    raise TooLarge
        except (urllib3.exceptions.HTTPError, OSError):
            # A connection that was cut, or is dead: for whoever watches it is the end of this watch and no more.
            return

    def stop(self) -> None:
        # Nothing is left to stop where it has ended meanwhile.
        with contextlib.suppress(ValueError, RuntimeError, OSError):
            self._response.shutdown()


class TooLarge(LookupFailed):
    """The answer has more than MAX_OBJECT bytes."""

    def __init__(self) -> None:
        super().__init__(f"the API server's answer has more than {MAX_OBJECT // 2**20} MiB")


class ApiServer:
    """The API server, as ``load`` configures the client for it.

    ``load`` is called anew once the API server has refused our credentials: they may have been replaced on disk. The
    token of a pod is read again every minute by the client itself.
    """

    def __init__(self, load: Callable[[], Configuration]) -> None:
        self._load = load
        self._client: ApiClient | None = _client(load())

    def account(self) -> str | None:
        """The service account that we log in as, ``namespace/name``; None if our token is not that of one.

        The token is not checked: it only tells what the API server will call us.
        """
        if (client := self._client) is None:
            return None
        token = client.configuration.auth_settings().get("BearerToken", {}).get("value", "").rpartition(" ")[2]
        try:
            # The claims of a JSON Web Token, https://www.rfc-editor.org/rfc/rfc7519#section-3
            claims = msgspec.json.decode(urlsafe_b64decode(token.split(".")[1] + "=="))
            found = service_account(claims["sub"])
        except (IndexError, ValueError, KeyError, TypeError, AttributeError):
            return None
        return "/".join(found) if found else None

    def get(self, path: str, deadline: float, *, accept: str = JSON) -> Answer:
        """The answer to GET ``path``, at most until ``deadline`` on the clock of :func:`time.monotonic`.

        Raises:
            LookupFailed: no answer, or not in time.
            TooLarge: one of more than MAX_OBJECT bytes.
        """
        return self._call("GET", path, None, None, deadline, accept)

    def send(self, method: str, path: str, body: bytes, content_type: str, deadline: float) -> Answer:
        """The answer to ``method`` on ``path`` with ``body``; otherwise as :meth:`get`."""
        return self._call(method, path, body, content_type, deadline)

    def stream(self, path: str, quiet: float) -> Stream:
        """The answer to GET ``path``, line by line; it ends once nothing has come for ``quiet`` seconds.

        Raises:
            LookupFailed: no answer.
        """
        with _explained():
            timeout = urllib3.Timeout(connect=_CONNECT_SECONDS, read=quiet)
            response = _response(self._logged_in(), "GET", path, None, None, timeout)
        if response.status == 401:
            self._client = None
        return _Stream(response)

    def _call(
        self, method: str, path: str, body: bytes | None, content_type: str | None, deadline: float, accept: str = JSON
    ) -> Answer:
        with _explained():
            try:
                answer = _request(self._logged_in(), method, path, body, content_type, deadline, accept)
            except urllib3.exceptions.ProtocolError:
                if method != "GET":
                    raise
                # The API server, or what is before it, may close an idle connection just when it is used again.
                answer = _request(self._logged_in(), method, path, body, content_type, deadline, accept)
        if answer.status == 401:
            self._client = None
        return answer

    def _logged_in(self) -> ApiClient:
        if (client := self._client) is None:
            client = self._client = _client(self._load())
        return client


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    """Whatever keeps a call from being answered, as a LookupFailed that says so."""
    try:
        yield
    except urllib3.exceptions.NewConnectionError:  # it counts as a timeout in urllib3, and is none
        raise LookupFailed("the API server cannot be reached; try again") from None
    except (urllib3.exceptions.TimeoutError, TimeoutError):
        raise LookupFailed("the API server did not answer in time; try again") from None
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise LookupFailed(f"the API server cannot be reached ({type(error).__name__}); try again") from None
    except (ConfigException, SettingsError) as error:
        raise LookupFailed(f"driftwall cannot log in to the API server: {error}") from None


def connect(kubeconfig: Path | None) -> ApiServer | Offline:
    """Find the way: ``kubeconfig``, else the pod's own service account, else the user's kubeconfig, else none.

    Raises:
        SettingsError: ``kubeconfig`` was given and cannot be used.
    """
    if kubeconfig is not None:
        return ApiServer(lambda: _from_file(kubeconfig))
    reasons = []
    if os.environ.get("KUBERNETES_SERVICE_HOST"):
        try:
            return ApiServer(_in_cluster)
        except (ConfigException, OSError) as error:
            reasons.append(f"the pod has no usable service account: {error}")
    else:
        reasons.append("it does not run in a cluster")
    # The same default as kubectl's; the client reads the variable as a list of files.
    own = os.environ.get("KUBECONFIG")
    if own or Path("~/.kube/config").expanduser().is_file():
        try:
            return ApiServer(lambda: _from_file(None))
        except SettingsError as error:
            reasons.append(str(error))
    else:
        reasons.append("there is no kubeconfig")
    return Offline(" and ".join(reasons))


def _in_cluster() -> Configuration:
    configuration = Configuration()
    load_incluster_config(client_configuration=configuration)
    return configuration


def _from_file(path: Path | None) -> Configuration:
    """The current context of ``path``, or of the user's own kubeconfig."""
    configuration = Configuration()
    named = f"{settings.KUBECONFIG.flag}: {path}" if path else "your own kubeconfig"
    try:
        if path:
            path.read_bytes()  # the client takes a missing file for an empty one
        # persist_config: driftwall never writes to a person's kubeconfig.
        load_kube_config(
            config_file=str(path) if path else None, client_configuration=configuration, persist_config=False
        )
    except OSError as error:
        raise SettingsError(f"{named} cannot be read: {error.strerror}") from error
    except ConfigException as error:
        raise SettingsError(f"{named} cannot be used: {error}") from None
    except Exception as error:  # noqa: BLE001 - it may be any, and may quote the file, in which credentials are
        raise SettingsError(f"{named} cannot be used: it is no valid kubeconfig ({type(error).__name__})") from None
    return configuration


def _client(configuration: Configuration) -> ApiClient:
    client = ApiClient(configuration)
    client.user_agent = f"driftwall/{settings.version()}"
    return client


def _request(
    client: ApiClient,
    method: str,
    path: str,
    body: bytes | None,
    content_type: str | None,
    deadline: float,
    accept: str,
) -> Answer:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    response = _response(client, method, path, body, content_type, urllib3.Timeout(total=left), accept)
    try:
        content = _body(response, deadline)
    except BaseException:
        # The rest of the answer is still to come on this connection, so nothing else may use it.
        response.close()
        raise
    response.release_conn()
    return Answer(status=response.status, body=content)


def _response(
    client: ApiClient,
    method: str,
    path: str,
    body: bytes | None,
    content_type: str | None,
    timeout: urllib3.Timeout,
    accept: str = JSON,
) -> urllib3.BaseHTTPResponse:
    # Straight to the client's connection pool, which has its TLS and proxy settings: the generated methods exist for
    # known kinds alone, and retry on their own.
    configuration = client.configuration
    headers = {"accept": accept, "user-agent": client.user_agent}
    for setting in configuration.auth_settings().values():
        headers[setting["key"]] = setting["value"]
    if content_type is not None:
        headers["content-type"] = content_type
    return client.rest_client.pool_manager.request(
        method,
        configuration.host + path,
        body=body,
        headers=headers,
        timeout=timeout,
        retries=False,
        redirect=False,
        preload_content=False,
    )


def _body(response: urllib3.BaseHTTPResponse, deadline: float) -> bytes:
    body = bytearray()
    for chunk in response.stream(_CHUNK):
        body += chunk
        if len(body) > MAX_OBJECT:
            raise TooLarge
        if time.monotonic() > deadline:
            raise TimeoutError
    return bytes(body)
