"""A Ray cluster of several nodes on this machine, each with a cache of its own."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from commands import wait_until

_STORE_BYTES = 100_000_000


@dataclass(frozen=True)
class Node:
    """A node of the cluster.

    Attributes:
        session: the session of all of its processes, which no other process is in.
        cache: its `$PRUNEBOARD_CACHE`.
    """

    session: int
    cache: Path

    def processes(self, name: str = "") -> list[int]:
        """Return its living processes whose command line begins with a name."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            # A process may end at any time.
            with contextlib.suppress(OSError):
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                if command.startswith(name) and command and os.getsid(int(entry.name)) == self.session:
                    found.append(int(entry.name))
        return found

    def workers(self) -> list[int]:
        """Return the processes that jobs run in."""
        return self.processes("ray::Worker")

    def kill(self) -> None:
        """End it at once, with everything that runs on it."""
        while processes := self.processes():
            for process in processes:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)


class RayCluster:
    """A head node and others that join it; `stop` ends them all."""

    def __init__(self) -> None:
        # Names of Unix sockets are short, so this is not below the test's folder.
        self.folder = Path(tempfile.mkdtemp(prefix="ray-"))
        self.address = f"127.0.0.1:{free_port()}"
        self.nodes: list[Node] = []
        port = self.address.partition(":")[2]
        dashboard = ("--include-dashboard=false", f"--dashboard-port={free_port()}")
        self.head = self._start("--head", f"--port={port}", *dashboard, n_cpus=1)

    def add_node(self, n_cpus: int = 1) -> Node:
        """Have a node join."""
        return self._start(f"--address={self.address}", n_cpus=n_cpus)

    def stop(self) -> None:
        """End all nodes and remove their files."""
        for node in self.nodes:
            node.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _start(self, *options: str, n_cpus: int) -> Node:
        number = len(self.nodes)
        cache = self.folder / f"cache-{number}"
        command = (
            *(sys.executable, "-m", "ray.scripts.scripts", "start", *options, f"--num-cpus={n_cpus}", "--num-gpus=0"),
            *("--disable-usage-stats", f"--object-store-memory={_STORE_BYTES}"),
            f"--temp-dir={self.folder / str(number)}",
        )
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "PRUNEBOARD_"))}
        kept.pop("PYTHONPATH", None)
        log = self.folder / f"start-{number}.log"
        with log.open("w") as out:
            process = subprocess.Popen(
                command,
                env={**kept, "PRUNEBOARD_CACHE": str(cache)},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
            node = Node(process.pid, cache)
            self.nodes.append(node)
            returncode = process.wait(timeout=120)
        if returncode != 0:
            said = log.read_text()
            self.stop()
            raise RuntimeError(f"a node did not start: {said}")
        wait_until(lambda: node.processes(), seconds=10)
        return node


def free_port() -> int:
    """Return a port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
