"""Hosts of our own on this machine, each a network namespace that the kernel takes away with the process that holds it.

They have no names, so there are none to collide, and nothing that a run that was killed could leave behind.
"""

import contextlib
import os
import shutil
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from . import debian, processes

# 198.18.0.0/15 is for tests between devices (RFC 2544): nobody's real network, and an address that the API server takes
# for an endpoint's, which it does not take a loopback or link-local one for.
_NETWORKS = 512


@dataclass(frozen=True, slots=True)
class Host:
    """A host of one address, held by a process that does nothing else."""

    address: str
    pid: int

    @property
    def enter(self) -> tuple[str, ...]:
        """What goes before a command that is to run there."""
        return ("nsenter", f"--net=/proc/{self.pid}/ns/net")


class Network:
    """So many hosts, from `with` on, each with a way to this machine, under `gateway`, and to nowhere else.

    Use it from the main thread: the hosts die with the thread that started them.
    """

    def __init__(self, hosts: int) -> None:
        self._count = hosts
        self._holders: list[subprocess.Popen[bytes]] = []
        self._claim = socket.socket(socket.AF_UNIX)
        self.hosts: list[Host] = []

    def __enter__(self) -> Self:
        """Raises debian.PreparationError where this user may not make a host."""
        if os.geteuid() != 0:
            raise debian.PreparationError("network namespaces: only root may make them; run these tests as root")
        if shutil.which("ip") is None:
            debian.install(["iproute2"])
        number = self._claimed()
        prefix = f"198.{18 + number // 256}.{number % 256}"
        self.gateway = f"{prefix}.1"
        try:
            for index in range(self._count):
                self._add(f"dwall{number}-{index}", f"{prefix}.{index + 2}")
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for holder in self._holders:
            holder.kill()
            holder.wait()
        self._claim.close()

    def _claimed(self) -> int:
        """The number of a network that nobody else on this machine has; the kernel lets go of it with this process."""
        for number in range(_NETWORKS):
            with contextlib.suppress(OSError):
                self._claim.bind(f"\0driftwall-e2e-network-{number}")
                return number
        raise RuntimeError(f"all {_NETWORKS} networks of these tests are in use on this machine")

    def _add(self, link: str, address: str) -> None:
        holder = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", "unshare", "--net", "sleep", "infinity"])
        self._holders.append(holder)
        host = Host(address, holder.pid)
        own, its = (Path(f"/proc/{pid}/ns/net") for pid in ("self", holder.pid))
        processes.wait_for(lambda: own.readlink() != its.readlink(), "a network namespace")
        # One that was killed a moment ago may still have the link of this name.
        wanted = ["ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", str(holder.pid)]
        processes.wait_for(lambda: subprocess.run(wanted, check=False).returncode == 0, f"the link {link}")
        _ip((), f"address add {self.gateway} peer {address} dev {link}", f"link set {link} up")
        there = (f"address add {address} peer {self.gateway} dev eth0", "link set eth0 up", "link set lo up")
        _ip(host.enter, *there)
        self.hosts.append(host)


def _ip(where: tuple[str, ...], *commands: str) -> None:
    subprocess.run([*where, "ip", "-batch", "-"], input="\n".join(commands).encode(), check=True)
