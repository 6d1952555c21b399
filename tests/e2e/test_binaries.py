from pathlib import Path

import pytest

from . import binaries, debian

DEB822 = """\
Types: deb
URIs: http://debian.invalid/debian
Suites: bookworm bookworm-updates
Components: main

types: deb deb-src
URIs: http://debian.invalid/debian-security
Suites: bookworm-security
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
"""
ONE_LINE = """\
# deb http://debian.invalid/debian trixie main
deb http://debian.invalid/debian bookworm main
deb [arch=amd64] http://debian.invalid/debian-security bookworm-security main
deb-src http://debian.invalid/debian bookworm main
"""


def executable(path: Path) -> Path:
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def test_every_deb822_entry_becomes_one_for_sources() -> None:
    lines = debian.with_sources(DEB822, deb822=True).splitlines()
    assert [line for line in lines if line.lower().startswith("types")] == ["Types: deb-src"] * 2
    assert [line for line in lines if not line.lower().startswith("types")] == [
        line for line in DEB822.splitlines() if not line.lower().startswith("types")
    ]


def test_every_one_line_entry_becomes_one_for_sources() -> None:
    assert debian.with_sources(ONE_LINE, deb822=False).splitlines() == [
        "# deb http://debian.invalid/debian trixie main",
        "deb-src http://debian.invalid/debian bookworm main",
        "deb-src [arch=amd64] http://debian.invalid/debian-security bookworm-security main",
        "deb-src http://debian.invalid/debian bookworm main",
    ]


def test_assets_are_taken_as_they_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    paths = {name: executable(tmp_path / name) for name in ("etcd", *debian.BUILT)}
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path))
    assert binaries.find() == binaries.Binaries(
        etcd=paths["etcd"],
        kube_apiserver=paths["kube-apiserver"],
        kube_controller_manager=paths["kube-controller-manager"],
        kubectl=paths["kubectl"],
    )


def test_assets_without_etcd_and_kubectl_leave_them_to_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assets, path = tmp_path / "assets", tmp_path / "path"
    assets.mkdir()
    path.mkdir()
    executable(assets / "kube-apiserver")
    executable(assets / "kube-controller-manager")
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(assets))
    monkeypatch.setenv("PATH", str(path))
    etcd, kubectl = executable(path / "etcd"), executable(path / "kubectl")
    found = binaries.find()
    assert (found.etcd, found.kubectl) == (etcd, kubectl)


def test_assets_without_a_server_are_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    executable(tmp_path / "kube-apiserver")
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path))
    with pytest.raises(debian.PreparationError) as raised:
        binaries.find()
    assert str(raised.value) == (
        f"kube-controller-manager: not in KUBEBUILDER_ASSETS ({tmp_path}); put them there, "
        "or unset it to have them built from Debian's source"
    )


def test_a_machine_without_apt_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(debian.PreparationError) as raised:
        debian.install(["rsync", "golang-go"])
    assert str(raised.value) == (
        "golang-go, rsync: missing, and there is no apt-get here: install golang-go rsync yourself, "
        "or set KUBEBUILDER_ASSETS to a folder with etcd, kube-apiserver, kube-controller-manager and kubectl"
    )
