"""Runs the commands of deploy/ROLLOUT.md against a real API server, and writes what they say into the page.

``make rollout``, or ``python -m tests.e2e.rollout``; it takes a minute. A line ``<!-- run: NAME -->`` of the page has
one of the functions below do what somebody does between two commands; ``alice$ `` is a command of hers.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import termios
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import yaml

from tests.deploying import for_version

from . import binaries
from .control_plane import ControlPlane
from .driftwall import COMMAND, ROOT, Driftwall
from .people import Person, deployment, manifest, of_flux

PAGE: Final = ROOT / "deploy" / "ROLLOUT.md"
_COLUMNS: Final = 100  # of the terminal that the commands are shown in
_PROMPT: Final = re.compile(r"(?P<user>[a-z]*)\$ (?P<command>.+)")
_CONFIG: Final = """\
apiVersion: driftwall.io/v1alpha1
kind: DriftwallConfig
metadata:
  name: default
spec:
  trustedWriters:
    - name: flux
      serviceAccounts: [flux-system/kustomize-controller, flux-system/helm-controller]
      fieldManagers: [kustomize-controller, helm-controller]
  breakGlass:
    groups: [sre]
    reasonPattern: '^INC-[0-9]+: .+'
"""
_NO_POLICY: Final = """\
---
apiVersion: driftwall.io/v1alpha1
kind: DriftPolicy
metadata: {name: none}
spec: {protect: {fields: [none]}}
"""
_AUTOMATION: Final = """\
  automation:
    - name: keda-operator
      serviceAccounts: [keda/keda-operator]
      fields: [spec.replicas]
"""


class Rollout:
    """A cluster in which Flux manages a shop, and those who work in it."""

    def __init__(self, plane: ControlPlane, folder: Path) -> None:
        self._plane = plane
        self._folder = folder
        self._stack = contextlib.ExitStack()
        self._server: Driftwall | None = None
        plane.create_namespace("shop")
        plane.add_service_account_user("keda", "keda", "keda-operator")
        plane.add_service_account_user("pipeline", "ci", "deployer")
        self._web = of_flux(deployment("web", "shop", replicas=2))
        container = self._web["spec"]["template"]["spec"]["containers"][0]
        container |= {"name": "web", "image": "registry.example.com/shop/web:1.4.2"}
        ports = {"ports": [{"name": "http", "port": 80, "protocol": "TCP"}], "selector": {"app": "web"}}
        self._service = of_flux(manifest("v1", "Service", "web", "shop", spec=ports))
        self._person("flux").applies(self._web, self._service)
        # In a cluster these would be the first findings of doctor; here they are how the tests' users may write at all.
        for name in ("users", "argocd", "keda", "pipeline"):
            plane.kubectl("delete", "clusterrolebinding", f"driftwall-e2e-{name}")
        for user in ("user=alice", "user=sre", "serviceaccount=keda:keda-operator", "serviceaccount=ci:deployer"):
            name = re.sub(r"\W", "-", user)
            plane.kubectl("-n", "shop", "create", "rolebinding", name, "--clusterrole=edit", f"--{user}")
        group = ("--clusterrole=edit", "--group=developers")
        plane.kubectl("-n", "flux-system", "create", "rolebinding", "developers", *group)
        self._policies = folder / "policies"

    def close(self) -> None:
        """End what was started."""
        self._stack.close()

    def variables(self, user: str) -> Mapping[str, str]:
        """The environment of a user's shell."""
        tools = self._folder / "bin"
        if not tools.exists():
            tools.mkdir()
            (tools / "kubectl").symlink_to(binaries.find().kubectl)
            (tools / "driftwall").write_text(f'#!/bin/sh\nexec {" ".join(COMMAND)} "$@"\n')
            (tools / "driftwall").chmod(0o755)
        return {
            "PATH": f"{tools}:/usr/bin:/bin",
            "HOME": str(self._folder),
            "KUBECONFIG": str(self._plane.kubeconfig(user or "admin")),
            "PYTHONPATH": str(ROOT),
            "NO_COLOR": "1",
            "TERM": "dumb",
        }

    # ── what is done between the commands of the page ────────────────────────────────────────────────────────────────

    def drift(self) -> None:
        """Somebody was there before driftwall."""
        image = "web=registry.example.com/shop/web:debug"
        self._person("alice").kubectl("set", "image", "deployment/web", image)

    def dry_run(self) -> None:
        """driftwall is installed, and asked."""
        self._person("flux").applies(self._web, self._service)
        self._server = self._stack.enter_context(Driftwall(self._plane, self._folder, _CONFIG + _NO_POLICY))
        self._write_policies("dryRun")
        (self._policies / "policies.yaml").unlink()
        self._configure()

    def week(self) -> None:
        """A week of writes."""
        alice, keda, pipeline, flux = map(self._person, ("alice", "keda", "pipeline", "flux"))
        for replicas in (3, 5, 4, 2):
            keda.kubectl("scale", "deployment/web", f"--replicas={replicas}")
        for tag in ("1.4.3", "1.4.4"):
            pipeline.kubectl("set", "image", "deployment/web", f"web=registry.example.com/shop/web:{tag}")
            flux.applies(self._web)
        alice.kubectl("set", "image", "deployment/web", "web=registry.example.com/shop/web:hotfix")
        alice.kubectl("patch", "service/web", "-p", '{"spec":{"ports":[{"name":"debug","port":5005}]}}')
        alice.kubectl("label", "deployment/web", "team=checkout")
        flux.applies(self._web, self._service)
        assert self._server is not None
        self._server.await_log(user="alice", resource="services")
        # Without the tokens that the tests' own users were given.
        lines = self._plane.audit_log.read_text().splitlines(keepends=True)
        with (self._folder / "audit.log").open("w") as log:
            log.writelines(line for line in lines if '"subresource":"token"' not in line)

    def automation(self) -> None:
        """The policies as they were, and with a writer more."""
        shutil.copytree(self._policies, self._folder / "before")
        (self._policies / "config.yaml").write_text(_CONFIG + _AUTOMATION)

    def warn(self) -> None:
        """driftwall takes the new policies up."""
        server = self._server
        assert server is not None
        wanted = re.compile(r'(?m)^driftwall_policy_info{[^}]*mode="warn"')
        self._plane.wait_for(lambda: wanted.search(server.metrics()), "driftwall to take the new policies up")

    def enforce(self) -> None:
        """The strictest mode."""
        self._person("flux").applies(self._web)
        self._write_policies("enforce", _AUTOMATION)
        self._configure()

    def _person(self, user: str) -> Person:
        return Person(plane=self._plane, user=user, namespace="shop")

    def _write_policies(self, mode: str, more: str = "") -> None:
        for name in ("declared-fields", "opened-ports"):
            policy = (ROOT / "policies" / name / "policy.yaml").read_text()
            file = self._policies / name / "policy.yaml"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(re.sub(r"mode: \S+", f"mode: {mode}", policy))
        (self._policies / "config.yaml").write_text(_CONFIG + more)

    def _configure(self) -> None:
        """Apply the webhook configurations that the policies need, and wait until the API server goes by them."""
        assert self._server is not None
        flags = [f"--policies={self._policies}", f"--url={self._server.url}", f"--ca-file={self._server.ca_file}"]
        command = [*COMMAND, "webhook-config", *flags]
        printed = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout
        wanted = [for_version(each, self._plane.version) for each in yaml.safe_load_all(printed)]
        self._plane.kubectl("apply", "--validate=false", "-f", "-", stdin=yaml.safe_dump_all(wanted))
        # It concerns driftwall by its annotation, and is nobody's.
        probe = manifest("v1", "ConfigMap", "probe", "shop")
        probe["metadata"]["annotations"] = {"driftwall.io/probe": "yes"}
        before = len(self._server.log(name="probe"))

        def asked() -> bool:
            self._plane.raw("POST", "/api/v1/namespaces/shop/configmaps?dryRun=All", probe)
            return len(self._server.log(name="probe")) > before if self._server is not None else False

        self._plane.wait_for(asked, "driftwall to be asked")


def rewritten(page: str, rollout: Rollout, folder: Path) -> Iterator[str]:
    """The lines of ``page``, with what the commands in it say now."""
    steps: dict[str, Callable[[], None]] = {
        name.replace("_", "-"): getattr(rollout, name)
        for name in ("drift", "dry_run", "week", "automation", "warn", "enforce")
    }
    inside = False
    for line in page.splitlines():
        if line.startswith("```"):
            inside = line == "```console"
            yield line
        elif step := re.fullmatch(r"<!-- run: (\S+) -->", line):
            steps[step[1]]()
            yield line
        elif inside and (prompt := _PROMPT.fullmatch(line)):
            yield line
            yield from said(prompt["command"], rollout.variables(prompt["user"]), folder)
        elif not inside:
            yield line


def said(command: str, variables: Mapping[str, str], folder: Path) -> Sequence[str]:
    """What a command says on a terminal, stdout and stderr as they come."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, _COLUMNS, 0, 0))
    output = bytearray()

    def read() -> None:
        # The end of a terminal is an error (EIO).
        with contextlib.suppress(OSError):
            while chunk := os.read(ours, 65536):
                output.extend(chunk)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        shell = ["bash", "-uo", "pipefail", "-c", command]
        subprocess.run(shell, stdin=theirs, stdout=theirs, stderr=theirs, cwd=folder, env=dict(variables), check=False)
    finally:
        os.close(theirs)
        reader.join()
        os.close(ours)
    # A progress bar is drawn over itself, and what it leaves is nothing.
    text = output.decode().replace("\r\n", "\n").rstrip("\n")
    lines = (line.rpartition("\r")[2] for line in text.split("\n")) if text else ()
    return [re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", line).rstrip() for line in lines]


def main(arguments: Sequence[str]) -> int:
    """Rewrite the page."""
    argparse.ArgumentParser(description=__doc__).parse_args(arguments)
    with ControlPlane(using=binaries.find()) as plane, tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rollout = Rollout(plane, folder)
        try:
            lines = list(rewritten(PAGE.read_text(), rollout, folder))
        finally:
            rollout.close()
    PAGE.write_text("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
