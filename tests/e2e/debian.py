"""What a fresh Debian lacks: packages through apt-get, and Kubernetes built from Debian's own source package.

Debian ships the source of the whole of Kubernetes but only kubectl's binary, so the servers are built here, once.
The system's apt configuration stays as it is: the source package comes through a private copy with `deb-src`.
"""

import fcntl
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from .processes import say

# Debian 12's, whose source carries all its dependencies: golang-go, rsync and jq are all that building it takes.
UPSTREAM = "1.20.5+really1.20.2"
# kubectl too: of the servers' own version, since newer ones cannot do with 1.20 all that they should (`debug`,
# `create cronjob`), and beside any other that is installed.
BUILT = ("kube-apiserver", "kube-controller-manager", "kubectl")

_INSTEAD = "set KUBEBUILDER_ASSETS to a folder with etcd, kube-apiserver, kube-controller-manager and kubectl"

_LINE_EVERY = 15.0  # seconds between two lines of progress: often enough to tell a long build from a hung one
_APT_LOCK = "DPkg::Lock::Timeout=600"  # seconds to wait for another apt-get on this machine
# For the lists, apt waits for nobody; the tests run in several processes.
_INSTALLING = Path(tempfile.gettempdir()) / "driftwall-tests-apt.lock"
_GO_TOOLS = Path("/usr/lib/go/bin")  # where Debian's golang-go links its default version
_GO_SOURCES = Path("/usr/share/gocode/src")  # where Debian's Go libraries are
# The source's own copy (1.0.1) crashes under Go 1.18 and later as soon as a map is encoded, that is with the first
# CustomResourceDefinition; Debian's package is the release that put it right.
_REPLACED = {"github.com/modern-go/reflect2": "golang-github-modern-go-reflect2-dev"}


class PreparationError(RuntimeError):
    """A binary could not be had; the message says which, why, and what to do about it."""


def install(packages: Iterable[str]) -> None:
    """Install Debian packages with apt-get, as root or through sudo.

    Raises PreparationError where apt-get is missing, may not be run, or fails.
    """
    names = sorted(packages)
    by_hand = f"install {' '.join(names)} yourself, or {_INSTEAD}"
    say(f"installing {', '.join(names)}")
    for arguments in (["update"], ["install", "-y", "--no-install-recommends", *names]):
        _apt_get(names, arguments, by_hand)


def unpack(package: str, folder: Path) -> None:
    """Put what is in a Debian package below `folder`, without installing it: no service of it is ever started.

    Raises PreparationError where apt-get is missing, may not be run, or fails.
    """
    by_hand = f"install {package} yourself"
    say(f"unpacking Debian's {package}")
    _apt_get([package], ["update"], by_hand)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="unpack-", dir=folder.parent) as scratch:
        download = ["apt-get", "-q", "-o", "APT::Sandbox::User=", "download", package]
        _run_with_progress(download, Path(scratch), None, f"downloading {package}")
        [archive] = Path(scratch).glob("*.deb")
        unpacked = Path(scratch) / "unpacked"
        subprocess.run(["dpkg-deb", "-x", archive, unpacked], check=True)
        shutil.rmtree(folder, ignore_errors=True)
        unpacked.rename(folder)


def _apt_get(names: list[str], arguments: list[str], by_hand: str) -> None:
    if shutil.which("apt-get") is None:
        raise PreparationError(f"{', '.join(names)}: missing, and there is no apt-get here: {by_hand}")
    # -n: a password prompt under pytest would be an invisible hang.
    prefix = [] if os.geteuid() == 0 else ["sudo", "-n"]
    if prefix and shutil.which("sudo") is None:
        raise PreparationError(f"{', '.join(names)}: missing, and this user is not root and has no sudo: {by_hand}")
    environment = [*prefix, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-q", "-o", _APT_LOCK]
    with _INSTALLING.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = subprocess.run([*environment, *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = _tail(done.stdout + done.stderr)
        raise PreparationError(f"apt-get {' '.join(arguments)} failed with {done.returncode}: {by_hand}\n{said}")


def build(scratch: Path) -> tuple[str, Path]:
    """Build what is in BUILT inside `scratch`, an empty folder with about 3 GB to spare.

    Gives Debian's version of the source and the folder that holds the binaries.
    Raises PreparationError where the source cannot be had or does not build.
    """
    wanted = {"apt-get": "apt", "dpkg-source": "dpkg-dev", "make": "make", "rsync": "rsync", "jq": "jq"}
    missing = {package for command, package in wanted.items() if shutil.which(command) is None}
    if not (_GO_TOOLS / "go").exists():
        missing.add("golang-go")
    missing |= {package for library, package in _REPLACED.items() if not (_GO_SOURCES / library).is_dir()}
    if missing:
        install(missing)
    description = _download_source(scratch)
    version = description.stem.removeprefix("kubernetes_")
    gopath = scratch / "go"
    source = gopath / "src" / "k8s.io" / "kubernetes"
    source.parent.mkdir(parents=True)
    # apt-get has checked the archives against the signed index; dpkg-source would want a keyring of its own.
    unpack = ["dpkg-source", "--no-check", "-x", str(description), str(source)]
    _run_with_progress(unpack, scratch, None, f"unpacking kubernetes {version}")
    for library in _REPLACED:
        shutil.rmtree(source / "vendor" / library)
        shutil.copytree(_GO_SOURCES / library, source / "vendor" / library)
    home = scratch / "home"
    home.mkdir()
    # Nothing else: an outer make, GOFLAGS or a KUBE_ variable of this shell would change what is built.
    environment = {
        "PATH": f"{_GO_TOOLS}:{os.environ.get('PATH', os.defpath)}",
        "HOME": str(home),
        "TMPDIR": str(home),
        "GOPATH": str(gopath),
        "GOPROXY": "off",
        "CGO_ENABLED": "0",
        "KUBE_GIT_VERSION": "v" + UPSTREAM.rpartition("really")[2],
    }
    targets = "WHAT=" + " ".join(f"cmd/{name}" for name in BUILT)
    doing = f"building {', '.join(BUILT)} from Debian's source {version}, about 6 minutes on two cores"
    _run_with_progress(["make", "-C", str(source), targets], source, environment, doing)
    return version, source / "_output" / "bin"


def _download_source(scratch: Path) -> Path:
    """Download the source package into `scratch` and give its .dsc; the system's own apt sources are only read."""
    apt = scratch / "apt"
    parts = apt / "sources.list.d"
    parts.mkdir(parents=True)
    (apt / "lists" / "partial").mkdir(parents=True)
    entries = _apt_entries()
    if not entries:  # an image without package lists: apt knows the origin of an entry only after an update
        install(["dpkg-dev"])
        entries = _apt_entries()
    if not entries:
        raise PreparationError(f"kube-apiserver: apt has no entry of Debian's to take the source from; {_INSTEAD}")
    for entry in entries:
        (parts / entry.name).write_text(with_sources(entry.read_text(), deb822=entry.suffix == ".sources"))
    options = {
        "Dir::Etc::sourcelist": "/dev/null",
        "Dir::Etc::sourceparts": parts,
        "Dir::State::lists": apt / "lists",
        "Dir::Cache": apt,
        "APT::Sandbox::User": "",  # the user _apt may not enter the cache folder
    }
    apt_get = ["apt-get", "-q", *(part for key, value in options.items() for part in ("-o", f"{key}={value}"))]
    _run_with_progress([*apt_get, "update"], scratch, None, "reading Debian's index of sources")
    fetch = [*apt_get, "source", "--download-only", "--only-source", f"kubernetes={_source_version(apt_get)}"]
    _run_with_progress(fetch, scratch, None, "downloading the source of kubernetes, 35 MB")
    return next(scratch.glob("kubernetes_*.dsc"))


def with_sources(entries: str, *, deb822: bool) -> str:
    """The text of an apt sources file with every binary entry turned into one for sources."""
    if deb822:
        return re.sub(r"(?mi)^Types:.*$", "Types: deb-src", entries)
    return re.sub(r"(?m)^(\s*)deb(\s)", r"\1deb-src\2", entries)


def _apt_entries() -> list[Path]:
    """The sources files that hold Debian's own entries; apt says, so that neither a host nor a file is guessed."""
    question = ["apt-get", "indextargets", "--format", "$(SOURCESENTRY)", "Created-By: Packages", "Origin: Debian"]
    answer = subprocess.run(question, capture_output=True, text=True, check=False).stdout
    return sorted({Path(line.rpartition(":")[0]) for line in answer.splitlines() if line})


def _source_version(apt_get: list[str]) -> str:
    cache = ["apt-cache", *apt_get[2:], "showsrc", "--only-source", "kubernetes"]
    shown = subprocess.run(cache, capture_output=True, text=True, check=False).stdout
    offered = re.findall(r"(?m)^Version: (.+)$", shown)
    for version in offered:
        if version.startswith(UPSTREAM):
            return str(version)
    offer = f"kubernetes {', '.join(offered)}" if offered else "no kubernetes"
    raise PreparationError(f"kube-apiserver: apt's sources offer {offer}, not {UPSTREAM} of Debian 12; {_INSTEAD}")


def _run_with_progress(command: list[str], cwd: Path, environment: Mapping[str, str] | None, doing: str) -> None:
    """Run a command that may take minutes, in this process's environment unless one is given, and tell how it goes.

    Raises PreparationError if it fails.
    """
    say(f"{doing} …")
    begun = time.monotonic()
    log = cwd / "output.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["nice", *command],
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            process_group=0,
        )
        try:
            while process.poll() is None:
                try:
                    process.wait(_LINE_EVERY)
                except subprocess.TimeoutExpired:
                    say(f"… {time.monotonic() - begun:.0f} s: {_tail(log.read_text(errors='replace'), 1).strip()}")
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
    if process.returncode != 0:
        raise PreparationError(
            f"{doing}: {command[0]} failed with {process.returncode}; put the cause right, or {_INSTEAD}\n"
            f"{_tail(log.read_text(errors='replace'))}"
        )


def _tail(text: str, lines: int = 30) -> str:
    return "\n".join(text.splitlines()[-lines:])
