"""The image is what it claims to be, and the server in it answers."""

from __future__ import annotations

import json
import re
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.e2e import processes
from tests.serving import Client, certificates

from .building import REVISION, ROOT, VERSION, Image, built

USER = 65532
VENV = Path("opt/driftwall")
REVIEW = ROOT / "tests/recordings/02-set-image/023-alice-update-deployment.json"


@pytest.fixture(scope="module")
def image(pytestconfig: pytest.Config) -> Iterator[Image]:
    capture = pytestconfig.pluginmanager.getplugin("capturemanager")
    assert capture is not None
    making = built()
    with capture.global_and_fixture_disabled():  # a build of minutes must not look like a hang
        image = making.__enter__()
    try:
        yield image
    finally:
        making.__exit__(None, None, None)


def packages(image: Image) -> Path:
    (found,) = (image.root / VENV / "lib").glob("python3*/site-packages")
    return found


def test_it_starts_driftwall_as_a_user_without_a_name(image: Image) -> None:
    config = image.config
    assert config["User"] == f"{USER}:{USER}"
    assert (config["Entrypoint"], config["Cmd"]) == (["driftwall"], ["serve"])
    assert set(config["ExposedPorts"]) == {"8443", "8080"} or set(config["ExposedPorts"]) == {"8443/tcp", "8080/tcp"}
    assert "PATH=/opt/driftwall/bin" in config["Env"]


def test_it_says_what_it_is(image: Image) -> None:
    labels = {name.removeprefix("org.opencontainers.image."): value for name, value in image.config["Labels"].items()}
    assert labels["title"] == "driftwall"
    assert labels["licenses"] == "Apache-2.0"
    assert (labels["version"], labels["revision"]) == (VERSION, REVISION)
    assert labels["base.name"].startswith("localhost/driftwall-base")


def test_it_holds_no_compiler_no_shell_and_no_package_manager(image: Image) -> None:
    programs = {
        str(path.relative_to(image.root))
        for path in image.root.rglob("*")
        if path.is_file() and not path.is_symlink() and path.stat().st_mode & 0o111
    }
    ours = {name for name in programs if not re.search(r"\.so[.\d]*$|\.py$", name)}
    assert ours == {"usr/bin/python3.11", "opt/driftwall/bin/driftwall"}
    assert {path.name for path in (image.root / VENV / "bin").iterdir()} == {"driftwall", "python", "python3"}
    modules = {path.name for path in packages(image).iterdir()}
    assert not {"pip", "setuptools", "wheel", "hatchling", "pytest", "mypy"} & modules
    assert not list(image.root.rglob("ensurepip"))


def test_it_holds_nothing_of_how_it_was_built(image: Image) -> None:
    names = {path.name for path in image.root.rglob("*")}
    assert [name for name in names if "history" in name and not name.endswith((".py", ".pyc"))] == []
    assert not {"build", "root", "home", "run", "tmp", "wheels"} & {path.name for path in image.root.iterdir()}
    assert not list(image.root.glob("var/cache/*"))
    assert not names & {"pip.conf", "ca.pem", "recordings", ".git", "direct_url.json", "assemble.py"}
    assert "secret" not in image.history


def test_it_holds_what_is_locked_and_nothing_else(image: Image) -> None:
    locked = dict(re.findall(r"(?m)^([A-Za-z0-9._-]+)==(\S+)", (ROOT / "requirements.txt").read_text()))
    locked = {canonical(name): version for name, version in locked.items()}
    there = {}
    for folder in packages(image).glob("*.dist-info"):
        name, _, version = folder.name.removesuffix(".dist-info").rpartition("-")
        there[canonical(name)] = version
    assert there.pop("driftwall")
    assert set(there.items()) <= set(locked.items())
    # What is locked for other systems alone is not there.
    markers = re.findall(r"(?m)^([A-Za-z0-9._-]+)==\S+ ; ", (ROOT / "requirements.txt").read_text())
    assert set(locked) - set(there) <= {canonical(name) for name in markers}


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_its_user_owns_nothing_and_may_write_nowhere(image: Image) -> None:
    for path in [image.root, *image.root.rglob("*")]:
        status = path.lstat()
        assert (status.st_uid, status.st_gid) == (0, 0), path
        assert stat.S_ISLNK(status.st_mode) or not status.st_mode & 0o7022, path
    look = (
        "import os; print([path for folder, _, files in os.walk('/') for path in "
        "(folder, *(os.path.join(folder, file) for file in files)) if os.access(path, os.W_OK)])"
    )
    done = subprocess.run(
        [*as_user(image.root), "/opt/driftwall/bin/python", "-c", look], capture_output=True, text=True, check=False
    )
    assert done.stdout == "[]\n", done.stderr


def test_every_module_is_compiled(image: Image) -> None:
    folders = [packages(image), image.root / "usr/lib/python3.11"]
    sources = [path for folder in folders for path in folder.rglob("*.py")]
    assert len(sources) > 1000
    assert [path for path in sources if not list((path.parent / "__pycache__").glob(f"{path.stem}.*.pyc"))] == []


def test_the_licences_of_what_it_is_made_of_travel_along(image: Image) -> None:
    records = {path.name for path in (image.root / "var/lib/dpkg/status.d").iterdir()}
    assert {"libc6", "libssl3", "libstdc++6"} <= records
    assert {path.name for path in (image.root / "usr/share/doc").iterdir()} == records
    (licences,) = packages(image).glob("driftwall-*.dist-info/licenses")
    assert (licences / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()


def test_it_is_small(image: Image) -> None:
    # Twice what it is would mean that something has come along.
    assert 50e6 < image.size < 250e6


def test_the_server_in_it_refuses_a_manual_edit_over_https(image: Image, tmp_path: Path) -> None:
    made = certificates(tmp_path)
    mounted = tmp_path / "mounted"
    shutil.copytree(
        ROOT / "policies", mounted / "policies", ignore=shutil.ignore_patterns("cases", "*-test.yaml", "*.md")
    )
    for file in (made.cert_file, made.key_file):
        shutil.copy(file, mounted / file.name)
    for path in (tmp_path, mounted, *mounted.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o444)
    flags = {
        "policies": "/mnt/policies",
        "tls-cert": "/mnt/tls.crt",
        "tls-key": "/mnt/tls.key",
        "listen": "127.0.0.1:0",
        "management-listen": "127.0.0.1:0",
    }
    command = [
        *image.config["Entrypoint"],
        *image.config["Cmd"],
        *(f"--{name}={value}" for name, value in flags.items()),
    ]
    log = tmp_path / "log"
    # A container's runtime does the same: the image read-only, /proc and a folder mounted, the image's user and PATH.
    script = (
        'mkdir -p "$1/mnt" "$1/proc" && mount --bind "$1" "$1" && mount --bind "$2" "$1/mnt" && '
        'mount --rbind /proc "$1/proc" && mount -o remount,bind,ro "$1" && '
        'root="$1" && shift 2 && export PATH=/opt/driftwall/bin LANG=C.UTF-8 && '
        f'exec /usr/sbin/chroot --userspec={USER}:{USER} --groups= "$root" "$@"'
    )
    apart = ("setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--propagation", "private")
    with log.open("wb") as output:
        server = subprocess.Popen(
            [*apart, "sh", "-c", script, "sh", str(image.root), str(mounted), *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
        )
    try:
        url = processes.wait_for(lambda: ready(server, log), "the server in the image to become ready")
        port = urlsplit(url).port
        assert port is not None
        answer = Client(port=port, tls=made.client()).post(REVIEW.read_bytes()).json
    finally:
        server.terminate()
        code = server.wait(timeout=30)
        for name in ("mnt", "proc"):
            (image.root / name).rmdir()
    assert answer["response"]["allowed"] is False
    assert "alice may not change" in answer["response"]["status"]["message"]
    assert code == 0, log.read_text()


def ready(server: subprocess.Popen[bytes], log: Path) -> str:
    if (code := server.poll()) is not None:
        raise processes.ProcessDiedError(f"the server ended with {code}:\n{log.read_text()}")
    lines = [json.loads(line) for line in log.read_text().splitlines(keepends=True) if line.endswith("}\n")]
    return next((str(line["listen"]) for line in lines if line.get("message") == "ready"), "")


def as_user(root: Path) -> list[str]:
    return ["/usr/sbin/chroot", f"--userspec={USER}:{USER}", "--groups=", str(root)]
