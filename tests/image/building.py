"""Builds the image without a container engine: buildah in a chroot, on a base that debootstrap makes.

What is missing is installed with apt-get. The base is kept in the user's cache folder for the next run.
"""

import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.e2e import debian
from tests.e2e.binaries import cache_folder
from tests.e2e.processes import say

ROOT = Path(__file__).parents[2]
SUITE = "bookworm"
# What the Dockerfile wants of its base, and python:3.11-slim-bookworm has: Python 3.11 with pip and venv.
PACKAGES = ("python3", "python3-pip", "python3-venv")
BASE = f"localhost/driftwall-base:{SUITE}"
VERSION, REVISION = "0.0.0-test", "0123abc"
_TOOLS = {"buildah": "buildah", "debootstrap": "debootstrap"}
_BUILT = "localhost/driftwall:test"


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """An image: ``root`` is its file system, ``config`` what it says of itself, ``size`` is in bytes."""

    root: Path
    config: dict[str, Any]
    history: str
    size: int


@contextmanager
def built() -> Iterator[Image]:
    """Build the image from this checkout; its file system is there until the end of the block.

    Raises debian.PreparationError where something is missing and cannot be installed.
    """
    if os.geteuid() != 0:
        raise debian.PreparationError("building an image takes root: run it as root, or in a container of your own")
    if missing := {package for command, package in _TOOLS.items() if shutil.which(command) is None}:
        debian.install(missing)
    cache = cache_folder()
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "image.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        store = _Store(cache / "image")
        store.make_base()
        with tempfile.TemporaryDirectory() as folder:
            say("building the image, about a minute")
            store.build(Path(folder))
        container = store.run("from", "--pull-never", _BUILT).strip()
        try:
            root = Path(store.run("mount", container).strip())
            inspected = json.loads(store.run("inspect", "--type", "image", _BUILT))
            size = sum(path.lstat().st_size for path in root.rglob("*") if path.is_file() or path.is_symlink())
            oci = inspected["OCIv1"]
            yield Image(root=root, config=oci["config"], history=json.dumps(oci["history"]), size=size)
        finally:
            store.run("rm", container)
            store.run("rmi", "--force", _BUILT)


class _Store:
    """buildah with images of its own, apart from those of whoever runs this."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        # vfs: it copies, and so works on any file system, and in a container.
        places = {"root": folder / "root", "runroot": folder / "run", "storage-driver": "vfs"}
        self._buildah = ["buildah", *(f"--{name}={value}" for name, value in places.items())]

    def run(self, *arguments: str) -> str:
        """Run buildah, and give what it printed."""
        return _run([*self._buildah, *arguments])

    def build(self, folder: Path) -> None:
        """Build the image; ``folder`` is for secrets."""
        arguments = {"PYTHON_IMAGE": BASE, "VERSION": VERSION, "REVISION": REVISION}
        self.run(
            "build",
            "--isolation=chroot",
            "--pull-never",
            *(f"--build-arg={name}={value}" for name, value in arguments.items()),
            *_secrets(folder),
            "-t",
            _BUILT,
            str(ROOT),
        )

    def make_base(self) -> None:
        """Make the base, unless it is kept from before."""
        if (
            subprocess.run(
                [*self._buildah, "inspect", "--type=image", BASE], capture_output=True, check=False
            ).returncode
            == 0
        ):
            return
        shutil.rmtree(self._folder, ignore_errors=True)
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            say(f"making a Debian {SUITE} with {', '.join(PACKAGES)}, about a minute")
            tree = Path(folder, "tree")
            options = ["--variant=minbase", f"--include={','.join(PACKAGES)}"]
            _run(["debootstrap", *options, SUITE, str(tree), *_mirror()])
            _run(["tar", "-C", str(tree), "-cf", f"{folder}/base.tar", "."])
            shutil.rmtree(tree)
            Path(folder, "Dockerfile").write_text("FROM scratch\nADD base.tar /\n")
            self.run("build", "--isolation=chroot", "-t", BASE, folder)


def _run(command: Sequence[str]) -> str:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = "\n".join((done.stdout + done.stderr).splitlines()[-30:])
        raise debian.PreparationError(f"{' '.join(command)} failed with {done.returncode}:\n{said}")
    return done.stdout


def _mirror() -> list[str]:
    """Where apt has this suite from, so that no host is guessed; debootstrap knows one where apt has another suite."""
    question = [
        "apt-get",
        "indextargets",
        "--format",
        "$(CODENAME) $(REPO_URI)",
        "Created-By: Packages",
        "Origin: Debian",
    ]
    answer = subprocess.run(question, capture_output=True, text=True, check=False).stdout
    return re.findall(rf"(?m)^{SUITE} (\S+)$", answer)[:1]


def _secrets(folder: Path) -> list[str]:
    """The index and the CA that pip is configured with on this machine, as the build takes them."""
    said = _run([sys.executable, "-m", "pip", "config", "list"])
    configured = dict(re.findall(r"(?m)^[\w:]+\.(index-url|trusted-host|proxy|cert)='(.*)'$", said))
    secrets = []
    if authority := configured.pop("cert", None):
        configured["cert"] = "/run/secrets/ca.pem"
        secrets.append(f"--secret=id=ca.pem,src={authority}")
    config = folder / "pip.conf"
    config.write_text("\n".join(["[global]", *(f"{key} = {value}" for key, value in configured.items()), ""]))
    return [f"--secret=id=pip.conf,src={config}", *secrets]
