"""The binaries of a control plane: found, installed or built, never skipped.

`python -m tests.e2e.binaries` prepares all of them and prints their paths, so that `make` can do the long part first.
"""

import fcntl
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from . import debian
from .processes import say


@dataclass(frozen=True, slots=True, kw_only=True)
class Binaries:
    """Paths of the executables that the tests run."""

    etcd: Path
    kube_apiserver: Path
    kube_controller_manager: Path
    kubectl: Path


def find() -> Binaries:
    """Give the four binaries, and install or build what is missing.

    `KUBEBUILDER_ASSETS`, where set, is the folder to take them from; etcd and kubectl may come from elsewhere then.
    Raises debian.PreparationError, which says what is missing, why, and what to do.
    """
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    if not assets:
        etcd = _found_or_installed("etcd", "etcd-server")  # first, so that it does not fail after a long build
        built = _built_from_debian()
        return _together(etcd, built, built / "kubectl")
    folder = Path(assets).absolute()
    missing = [name for name in ("kube-apiserver", "kube-controller-manager") if not _executable(folder / name)]
    if missing:
        raise debian.PreparationError(
            f"{', '.join(missing)}: not in KUBEBUILDER_ASSETS ({folder}); put them there, "
            "or unset it to have them built from Debian's source"
        )
    etcd, kubectl = (
        folder / name if _executable(folder / name) else _found_or_installed(name, package)
        for name, package in (("etcd", "etcd-server"), ("kubectl", "kubernetes-client"))
    )
    return _together(etcd, folder, kubectl)


def cache_folder() -> Path:
    """The folder of what was built, `driftwall` in the user's cache."""
    # The XDG specification: a relative path is to be ignored.
    configured = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (configured if configured.is_absolute() else Path.home() / ".cache") / "driftwall"


def _together(etcd: Path, servers: Path, kubectl: Path) -> Binaries:
    return Binaries(
        etcd=etcd,
        kube_apiserver=servers / "kube-apiserver",
        kube_controller_manager=servers / "kube-controller-manager",
        kubectl=kubectl,
    )


def _found_or_installed(name: str, package: str) -> Path:
    if shutil.which(name) is None:
        debian.install([package])
    found = shutil.which(name)
    if found is None:
        raise debian.PreparationError(f"{name}: not on PATH, not even after installing {package}; put it on PATH")
    return Path(found).absolute()


def _built_from_debian() -> Path:
    """The folder with what is built from Debian's source, kept from an earlier run or built now."""
    cache = cache_folder()
    cache.mkdir(parents=True, exist_ok=True)
    with alone(cache / "kubernetes.lock"):
        kept = _kept(cache)
        if kept is not None:
            return kept
        for left in cache.glob("build-*"):  # nobody else builds while the lock is ours: it is of a run that was killed
            shutil.rmtree(left, ignore_errors=True)
        # Beside its destination, so that the rename at the end stays on one file system.
        with tempfile.TemporaryDirectory(prefix="build-", dir=cache, ignore_cleanup_errors=True) as scratch:
            version, built = debian.build(Path(scratch))
            ready = Path(scratch) / "ready"
            ready.mkdir()
            for name in debian.BUILT:
                (built / name).rename(ready / name)
            kept = cache / f"kubernetes-{version}"
            shutil.rmtree(kept, ignore_errors=True)  # one that somebody took a binary out of
            ready.rename(kept)
        say(f"kept in {kept}")
        return kept


def _kept(cache: Path) -> Path | None:
    for folder in sorted(cache.glob(f"kubernetes-{debian.UPSTREAM}-*"), reverse=True):
        if all(_executable(folder / name) for name in debian.BUILT):
            return folder
    return None


@contextmanager
def alone(lock: Path) -> Iterator[None]:
    """Hold a file lock: two runs must not build at once, and the second one finds the first one's work."""
    with lock.open("w") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for another run that prepares the binaries ({lock})")
            fcntl.flock(held, fcntl.LOCK_EX)
        yield


def _executable(path: Path) -> bool:
    return path.is_file() and os.access(path, os.X_OK)


def main() -> int:
    """Prepare everything and print one `name path` a line; give the exit code."""
    try:
        binaries = find()
    except debian.PreparationError as error:
        say(str(error))
        return 1
    for name in Binaries.__slots__:
        print(name, getattr(binaries, name))
    return 0


if __name__ == "__main__":
    sys.exit(main())
