"""Puts together the root file system of the image: ``assemble.py VENV ROOT``, run in the build stage.

What driftwall needs to run, and nothing else: the interpreter with its standard library, the virtual environment, the
shared libraries that these are linked with, and the licences of all. It asks the interpreter and the linker where
things are, so that it does the same on Debian's Python and on one in /usr/local, and on every architecture.
"""

from __future__ import annotations

import compileall
import py_compile
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path

USER = 65532
# Of the standard library: what needs a screen, builds packages, or is there to be tested or read.
LIBRARY_WITHOUT = (
    *("config-3*", "distutils", "ensurepip", "idlelib", "lib2to3", "pydoc_data", "test", "tkinter", "turtle*"),
    *("site-packages", "dist-packages", "_tkinter*", "_test*", "_ctypes_test*", "xxlimited*"),
)
# A second client, for asyncio, that nothing here imports, as large as the first.
PACKAGES_WITHOUT = "kubernetes/aio"
# Looked for at run time, not when linked: what ends threads in glibc.
LOADED_LATER = ("libgcc_s.so.1",)


def main(venv: Path, root: Path) -> None:
    """Make ``root``."""
    interpreter = Path(sys.executable).resolve()
    library = Path(sysconfig.get_path("stdlib"))
    root.mkdir()
    for name in ("bin", "lib", "lib32", "lib64", "libx32"):
        if (link := Path("/", name)).is_symlink():  # Debian's merged /usr
            (root / name).symlink_to(link.readlink())
    _copy_file(interpreter, root)
    _copy_tree(library, root, LIBRARY_WITHOUT)
    _copy_tree(venv / "lib", root, ())
    for found in (root / venv.relative_to("/")).glob(f"lib/python3*/site-packages/{PACKAGES_WITHOUT}"):
        shutil.rmtree(found)
    _copy_file(venv / "pyvenv.cfg", root)
    _copy_file(venv / "bin" / "driftwall", root)  # the other packages' commands are of no use here
    for name in ("python", "python3"):
        (root / venv.relative_to("/") / "bin" / name).symlink_to(interpreter)
    linked = sorted(_libraries(interpreter, library, venv))
    for path in linked:
        _copy_file(path, root)
    _copy_licences([*linked, interpreter, library / "os.py"], root)
    _write_etc(root)
    _compile(root, library, venv)
    for path in [root, *root.rglob("*")]:
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)


def _copy_file(path: Path, root: Path) -> None:
    """Copy a file, as what a link leads to, to the same place; its folder's own links are those of ``root``."""
    target = root / path.parent.resolve().relative_to("/") / path.name
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, target)
    shutil.copymode(path, target)


def _copy_tree(folder: Path, root: Path, without: Iterable[str]) -> None:
    ignore = shutil.ignore_patterns("__pycache__", *without)
    shutil.copytree(folder, root / folder.relative_to("/"), ignore=ignore, ignore_dangling_symlinks=True)


def _libraries(interpreter: Path, library: Path, venv: Path) -> set[Path]:
    """Every shared library that the dynamic linker would load, and the linker itself."""
    modules = [interpreter, *(library / "lib-dynload").glob("*.so"), *venv.rglob("*.so"), *venv.rglob("*.so.*")]
    modules = [module for module in modules if not module.name.startswith(("_tkinter", "_test"))]
    said = subprocess.run(["ldd", *map(str, modules)], capture_output=True, text=True, check=True)
    if missing := re.findall(r"(?m)^\s+(\S+) => not found$", said.stdout):
        raise SystemExit(f"the image would lack {', '.join(sorted(set(missing)))}")
    found = {Path(path) for path in re.findall(r"(?m)^\s+(?:\S+ => )?(/\S+) \(0x", said.stdout)}
    system = {path for path in found if not path.is_relative_to(venv)}
    beside = {path.parent for path in system}
    return system | {folder / name for folder in beside for name in LOADED_LATER if (folder / name).is_file()}


def _copy_licences(files: Iterable[Path], root: Path) -> None:
    """The licences of Debian's packages that the files are of, and their records, by which scanners know them."""
    packages = set()
    for path in files:
        # Before its /usr was merged, Debian installed to /lib; its records still say so.
        names = [str(path), str(path.resolve()), str(path.resolve()).removeprefix("/usr")]
        for name in names:
            owner = subprocess.run(["dpkg-query", "-S", name], capture_output=True, text=True, check=False)
            packages |= set(re.findall(r"(?m)^([^:,\s]+)(?::\w+)?: /", owner.stdout))
    records = root / "var/lib/dpkg/status.d"
    records.mkdir(parents=True)
    for package in sorted(packages):
        record = subprocess.run(["dpkg-query", "-s", package], capture_output=True, check=True).stdout
        (records / package).write_bytes(record)
        licence = Path("/usr/share/doc", package, "copyright")
        if licence.is_file():
            target = root / "usr/share/doc" / package / "copyright"
            target.parent.mkdir(parents=True)
            shutil.copyfile(licence, target)


def _write_etc(root: Path) -> None:
    etc = root / "etc"
    etc.mkdir()
    (etc / "passwd").write_text(f"root:x:0:0::/:/sbin/nologin\ndriftwall:x:{USER}:{USER}::/:/sbin/nologin\n")
    (etc / "group").write_text(f"root:x:0:\ndriftwall:x:{USER}:\n")
    (etc / "nsswitch.conf").write_text("hosts: files dns\n")
    for name in ("ld.so.conf", "ld.so.conf.d", "os-release", "ssl/openssl.cnf"):
        source, target = Path("/etc", name), etc / name
        target.parent.mkdir(exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target)
        elif source.is_file():
            shutil.copyfile(source, target)
    configured = root / "usr/lib/ssl/openssl.cnf"
    configured.parent.mkdir(parents=True, exist_ok=True)
    configured.symlink_to("/etc/ssl/openssl.cnf")
    # Without its cache the linker does not look into /usr/local/lib.
    subprocess.run(["ldconfig", "-r", str(root)], check=True)
    shutil.rmtree(root / "var/cache", ignore_errors=True)  # ldconfig's own notes


def _compile(root: Path, library: Path, venv: Path) -> None:
    """Compile all modules: nobody can at run time. By hash and unchecked, since a layer's times tell nothing."""
    for folder in (library, venv / "lib"):
        if not compileall.compile_dir(
            root / folder.relative_to("/"),
            maxlevels=20,
            quiet=1,
            stripdir=str(root),
            prependdir="/",
            invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
            workers=0,
        ):
            raise SystemExit(f"a module in {folder} cannot be compiled")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
