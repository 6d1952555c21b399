from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path

import pytest

from webhook import settings
from webhook.errors import SettingsError
from webhook.settings import Address, Files

REQUIRED: dict[str, str | None] = {"policies": "p", "tls_cert": "c", "tls_key": "k"}
OWN: dict[str, str | None] = {"policies": "p", "service": "driftwall-system/driftwall"}
# As much of it as its variable must not be: what Kubernetes sets for Services (pkg/kubelet/envvars).
OF_A_SERVICE = r"_(SERVICE_HOST|SERVICE_PORT|PORT)(_.*)?\Z"


def problems(flags: dict[str, str | None], environ: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(SettingsError) as raised:
        settings.read(flags, environ or {})
    return str(raised.value).splitlines()


def test_only_policies_and_certificate_are_required() -> None:
    read = settings.read(REQUIRED, {})
    assert read == settings.Settings(
        policies=Path("p"),
        tls_files=Files(cert=Path("c"), key=Path("k")),
        client_ca=None,
        listen=Address(host="0.0.0.0", port=8443),  # noqa: S104 - the documented default
        management_listen=Address(host="0.0.0.0", port=8080),  # noqa: S104
        kubeconfig=None,
        service=None,
        tls_secret="driftwall-tls",
        certificate_lifetime=timedelta(days=90),
        ca_lifetime=timedelta(days=3650),
        reload_interval=1.0,
        workers=1,
        shutdown_delay=5.0,
        decision_log=None,
        decision_log_max_size=100,
        decision_log_max_files=5,
        otlp_endpoint=None,
    )


def test_every_flag_has_an_environment_variable() -> None:
    flags = {
        "policies": "cluster",
        "tls_cert": "c",
        "tls_key": "k",
        "client_ca": "a",
        "service": "a/b",
        "tls_secret": "s",
        "certificate_lifetime": "7200s",
        "ca_lifetime": "36000s",
        "reload_interval": "0.5s",
        "listen": "127.0.0.1:1",
        "management_listen": "127.0.0.1:2",
        "kubeconfig": "f",
        "workers": "3",
        "shutdown_delay": "1.5s",
        "decision_log": "d",
        "decision_log_max_size": "1",
        "decision_log_max_files": "2",
        "otlp_endpoint": "http://localhost:4318",
    }
    assert list(flags) == [option.name for option in settings.OPTIONS]
    read = settings.read({}, {option.variable: flags[option.name] for option in settings.OPTIONS})
    assert settings.flags(read) == flags


def test_settings_survive_the_way_to_a_worker() -> None:
    for given in (REQUIRED, OWN, {**REQUIRED, "policies": "./cluster"}, {**REQUIRED, "shutdown_delay": "0s"}):
        read = settings.read(given, {})
        assert settings.read(settings.flags(read), {}) == read


@pytest.mark.parametrize("option", settings.OPTIONS, ids=lambda option: option.flag)
def test_no_variable_is_one_that_kubernetes_sets_for_a_service(option: settings.Option) -> None:
    assert re.search(OF_A_SERVICE, option.variable) is None


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
        "--policies PATH|cluster (or DRIFTWALL_POLICIES) is required",
        (
            "a certificate is required: --tls-cert FILE and --tls-key FILE (or DRIFTWALL_TLS_CERT and "
            "DRIFTWALL_TLS_KEY) for one of yours, --service NAMESPACE/NAME (or DRIFTWALL_SERVICE) to have one made in "
            "the cluster"
        ),
    ]


def test_a_certificate_without_its_key_is_refused_and_the_other_way_round() -> None:
    assert problems({**OWN, "tls_cert": "c"}) == [
        "--tls-cert is given, so --tls-key (or DRIFTWALL_TLS_KEY) is required"
    ]
    assert problems(OWN, {"DRIFTWALL_TLS_KEY": "k"}) == [
        "--tls-key is given, so --tls-cert (or DRIFTWALL_TLS_CERT) is required"
    ]


def test_with_a_service_no_certificate_is_needed() -> None:
    read = settings.read(OWN, {})
    assert read.tls_files is None
    assert read.service == settings.Service(namespace="driftwall-system", name="driftwall")


@pytest.mark.parametrize(
    "text", ["", "driftwall", "a/", "/b", "a/b/c", "A/b", "a/b_c", "a/-b", f"a/{'b' * 64}", "a/b\n"]
)
def test_a_service_is_namespace_and_name(text: str) -> None:
    assert problems({**OWN, "service": text}) == [
        f"--service: {text!r} is not NAMESPACE/NAME of a Service, such as driftwall-system/driftwall"
    ]


@pytest.mark.parametrize("text", ["", "A", "a/b", "../a", "a..b", "a" * 254])
def test_a_secret_has_a_name_that_kubernetes_takes(text: str) -> None:
    assert problems({**OWN, "tls_secret": text}) == [f"--tls-secret: {text!r} is not the name of a Secret"]


@pytest.mark.parametrize("text", ["", "0", "-1", "65", "1000", "1.5", "٣", "two"])
def test_workers_are_a_number(text: str) -> None:
    assert problems({**REQUIRED, "workers": text}) == [f"--workers: {text!r} is not a number from 1 to 64"]


@pytest.mark.parametrize(("flag", "most"), [("size", 1048576), ("files", 1000)])
def test_the_bounds_of_the_log_file_are_numbers(flag: str, most: int) -> None:
    for text in ("0", str(most + 1), "5Mi", "-1"):
        assert problems({**REQUIRED, f"decision_log_max_{flag}": text}) == [
            f"--decision-log-max-{flag}: {text!r} is not a number from 1 to {most}"
        ]


@pytest.mark.parametrize("text", ["", "localhost:4318", "http://", "ftp://collector", "http://a b"])
def test_a_collector_is_named_by_its_url(text: str) -> None:
    assert problems({**REQUIRED, "otlp_endpoint": text}) == [
        f"--otlp-endpoint: {text!r} is no URL, such as http://HOST:PORT"
    ]


@pytest.mark.parametrize(
    ("flag", "text", "problem"),
    [
        ("certificate_lifetime", "0s", "--certificate-lifetime: a certificate is valid for a second at least"),
        ("ca_lifetime", "6479h", "--ca-lifetime is less than 3 times --certificate-lifetime"),
        ("reload_interval", "0s", "--reload-interval is from above zero to a minute"),
        ("reload_interval", "61s", "--reload-interval is from above zero to a minute"),
        ("shutdown_delay", "11m", "--shutdown-delay is ten minutes at most"),
        ("shutdown_delay", "5", "--shutdown-delay: '5' is not a duration: 5 has no unit; write 5s, 5m or 5h"),
    ],
)
def test_durations_have_bounds(flag: str, text: str, problem: str) -> None:
    assert problems({**OWN, flag: text}) == [problem]


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
