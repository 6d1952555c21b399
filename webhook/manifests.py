"""Rendered manifests: what ``kustomize build`` and ``helm template`` print, object by object."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

from webhook import meta
from webhook.documents import load_manifests
from webhook.errors import SettingsError
from webhook.text import escaped, shown

_SUFFIXES: Final = (".yaml", ".yml", ".json")
#: Objects that are there for a moment of a sync or an upgrade, and that nobody misses afterwards.
_HOOKS: Final = ("helm.sh/hook", "argocd.argoproj.io/hook")


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """One object as it is to be; ``file`` and ``line`` are where it was read."""

    value: dict[str, Any]
    file: str
    line: int

    @property
    def group(self) -> str:
        """Its API group."""
        return meta.group_version(self.value["apiVersion"])[0]

    @property
    def kind(self) -> str:
        """Its kind."""
        return str(self.value["kind"])

    @property
    def name(self) -> str:
        """Its name."""
        return str(meta.metadata_of(self.value)["name"])

    @property
    def namespace(self) -> str:
        """Its namespace; empty if it names none."""
        return str(meta.metadata_of(self.value).get("namespace") or "")


def read(name: str, stdin: IO[bytes] | None = None) -> Iterator[Manifest]:
    """The manifests in a file, in every ``*.yaml``, ``*.yml`` and ``*.json`` below a folder, or (``-``) in ``stdin``.

    Lists are taken apart, hooks left out. One document is in memory at a time.

    Raises:
        SettingsError: something is there that is no manifest.
        OSError: it cannot be read.
    """
    if name == "-":
        yield from _documents(stdin or sys.stdin.buffer, "-")
        return
    path = Path(name)
    files = sorted(file for file in path.rglob("*") if file.name.endswith(_SUFFIXES)) if path.is_dir() else [path]
    if not files:
        raise SettingsError(f"{escaped(name)}: no *.yaml, *.yml or *.json is here; give rendered manifests")
    for file in files:
        with file.open("rb") as stream:
            yield from _documents(stream, str(file))


def _documents(stream: IO[bytes], file: str) -> Iterator[Manifest]:
    for line, value in load_manifests(stream, file):
        for obj in _objects(value):
            place = f"{escaped(file)}:{line}"
            fields = meta.mapping(obj)
            metadata = meta.metadata_of(fields)
            version, kind = fields.get("apiVersion"), fields.get("kind")
            if not (isinstance(version, str) and isinstance(kind, str) and version and kind):
                raise SettingsError(f"{place}: {shown(value)} is no manifest: it has no apiVersion and kind")
            if version.startswith("kustomize.config.k8s.io/"):
                raise SettingsError(
                    f"{place}: manifests have to be rendered first: kustomize build DIR | driftwall scan --manifests -"
                )
            if not isinstance(metadata.get("name"), str) or not metadata["name"]:
                raise SettingsError(f"{place}: the {escaped(kind)} has no metadata.name")
            if not any(hook in meta.annotations_of(obj) for hook in _HOOKS):
                yield Manifest(value=obj, file=file, line=line)


def _objects(value: Any) -> Iterator[Any]:
    items = value.get("items") if isinstance(value, dict) else None
    if isinstance(items, list) and str(value.get("kind", "")).endswith("List"):
        yield from items
    else:
        yield value
