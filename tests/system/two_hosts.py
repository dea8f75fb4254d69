"""Two hosts on one machine: network namespaces with a cable between them, which only root may have."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

# Of a block that nobody routes, and in namespaces that nobody else sees.
ADDRESSES = ("192.0.2.1", "192.0.2.2")
INTERFACE = "cable"


class TwoHosts:
    """Host 0 and host 1, each with its own network; they share the file system.

    Raises:
        PermissionError: this process may not make namespaces, or there is no ``ip`` to make them with.
    """

    def __init__(self) -> None:
        key = secrets.token_hex(4)
        self._names = [f"corral-{key}-{host}" for host in (0, 1)]
        try:
            _ip("netns", "add", self._names[0])
        except (OSError, subprocess.CalledProcessError) as error:
            said = error.stderr.strip() if isinstance(error, subprocess.CalledProcessError) else error
            raise PermissionError(f"no network namespaces here: {said}") from error
        _ip("netns", "add", self._names[1])
        ends = [(INTERFACE, "netns", name) for name in self._names]
        _ip("link", "add", *ends[0], "type", "veth", "peer", "name", *ends[1])
        for name, address in zip(self._names, ADDRESSES, strict=True):
            _ip("-n", name, "address", "add", f"{address}/24", "dev", INTERFACE)
            for link in ("lo", INTERFACE):
                _ip("-n", name, "link", "set", link, "up")

    def start(self, host: int, words: Sequence[str], said: Path) -> subprocess.Popen[bytes]:
        """torchrun on a host; what it says goes into a file."""
        with said.open("ab") as stream:
            inside = ["ip", "netns", "exec", self._names[host], *words]
            # docs/how-to/scale.md says why.
            chosen = {"GLOO_SOCKET_IFNAME": INTERFACE, "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
            return subprocess.Popen(inside, stdout=stream, stderr=stream, env={**os.environ, **chosen})

    def kill(self, host: int, spared: int = 0) -> None:
        """Everything that runs there but for one process, at once: of none spared, as if its power had failed."""
        for process in map(int, _ip("netns", "pids", self._names[host]).split()):
            if process != spared:
                os.kill(process, signal.SIGKILL)

    def cut(self) -> None:
        """The cable: nobody is told, what is sent is lost."""
        _ip("-n", self._names[1], "link", "set", INTERFACE, "down")

    def close(self) -> None:
        """Ends all that runs on them, and them."""
        for host, name in enumerate(self._names):
            self.kill(host)
            _ip("netns", "delete", name)


def _ip(*words: str) -> str:
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True).stdout
