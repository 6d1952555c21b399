from __future__ import annotations

from pathlib import Path

import pytest

from webhook import settings
from webhook.errors import SettingsError
from webhook.settings import Address

REQUIRED: dict[str, str | None] = {"policies": "p", "tls_cert": "c", "tls_key": "k"}


def problems(flags: dict[str, str | None], environ: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(SettingsError) as raised:
        settings.read(flags, environ or {})
    return str(raised.value).splitlines()


def test_only_policies_and_certificate_are_required() -> None:
    read = settings.read(REQUIRED, {})
    assert read == settings.Settings(
        policies=Path("p"),
        tls_cert=Path("c"),
        tls_key=Path("k"),
        client_ca=None,
        listen=Address(host="0.0.0.0", port=8443),  # noqa: S104 - the documented default
        management_listen=Address(host="0.0.0.0", port=8080),  # noqa: S104
        kubeconfig=None,
    )


def test_every_flag_has_an_environment_variable() -> None:
    given = {option.variable: f"127.0.0.1:{8000 + number}" for number, option in enumerate(settings.OPTIONS)}
    read = settings.read({}, given)
    for number, option in enumerate(settings.OPTIONS):
        assert str(getattr(read, option.name)) == f"127.0.0.1:{8000 + number}"


def test_a_flag_wins_over_its_environment_variable() -> None:
    read = settings.read(REQUIRED, {"DRIFTWALL_POLICIES": "other", "DRIFTWALL_LISTEN": "127.0.0.1:1"})
    assert read.policies == Path("p")
    assert read.listen.port == 1


def test_an_empty_environment_variable_counts_as_not_set() -> None:
    assert settings.read(REQUIRED, {"DRIFTWALL_CLIENT_CA": ""}).client_ca is None


def test_the_variables_that_kubernetes_sets_for_a_service_named_driftwall_do_no_harm() -> None:
    environ = {"DRIFTWALL_PORT": "tcp://10.0.0.1:443", "DRIFTWALL_SERVICE_HOST": "10.0.0.1"}
    assert settings.read(REQUIRED, environ) == settings.read(REQUIRED, {})


def test_every_missing_setting_is_reported_at_once_with_both_its_names() -> None:
    assert problems({}) == [
        "--policies PATH (or DRIFTWALL_POLICIES) is required",
        "--tls-cert FILE (or DRIFTWALL_TLS_CERT) is required",
        "--tls-key FILE (or DRIFTWALL_TLS_KEY) is required",
    ]


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("[::]:8443", Address(host="::", port=8443)),
        ("[::1]:0", Address(host="::1", port=0)),
        ("localhost:65535", Address(host="localhost", port=65535)),
    ],
)
def test_an_address_is_host_and_port(text: str, address: Address) -> None:
    read = settings.read({**REQUIRED, "listen": text}, {})
    assert read.listen == address
    assert str(read.listen) == text


@pytest.mark.parametrize("text", ["", "8443", ":8443", "::1:8443", "[::1]", "[localhost]:8443", "[]:8443"])
def test_an_address_without_host_or_port_is_refused(text: str) -> None:
    assert problems({**REQUIRED, "listen": text}) == [
        f"--listen: {text!r} is not HOST:PORT, such as 127.0.0.1:8443 or [::]:8443"
    ]


@pytest.mark.parametrize("port", ["", "https", "-1", "65536", "٣", "999999999999"])
def test_a_port_is_a_number_up_to_65535(port: str) -> None:
    assert problems(REQUIRED, {"DRIFTWALL_MANAGEMENT_LISTEN": f"localhost:{port}"}) == [
        f"DRIFTWALL_MANAGEMENT_LISTEN: the port of 'localhost:{port}' is not a number from 0 to 65535"
    ]


def test_an_empty_path_is_refused() -> None:
    assert problems({**REQUIRED, "client_ca": ""}) == ["--client-ca: '' is no path"]


def test_the_two_addresses_must_differ() -> None:
    same: dict[str, str | None] = {"listen": "localhost:9000", "management_listen": "localhost:9000"}
    assert problems({**REQUIRED, **same}) == [
        "--listen and --management-listen are both localhost:9000; each needs a port of its own"
    ]
    free: dict[str, str | None] = {"listen": "localhost:0", "management_listen": "localhost:0"}
    assert settings.read({**REQUIRED, **free}, {}).listen.port == 0
