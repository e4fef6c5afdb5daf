"""A connection to a Ray cluster: whether it can be reached, what it offers, and processes on its nodes."""

import contextlib
import logging
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ray
import ray.exceptions
import ray.util.client
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pruneboard.benchmark.errors import PruneboardError

_PROBE_SECONDS = 5.0
_STATUS_SECONDS = 30.0
_CLIENT = "ray://"

# Ray's library ends the process without further ado when it finds no head node for 60 s, and waits until then in every
# call that asks it something; so it is asked only while a connection is taken, and given up well before.
_GIVE_UP_SECONDS = 20.0


class Cluster:
    """A cluster that this process is connected to.

    Args:
        address: of what answers for the whole cluster: its head node's store of state, or a Ray Client server.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self._reached = time.monotonic()
        self._hosts: dict[str, str] = {}

    @property
    def offers_gpus(self) -> bool:
        """Whether any node has a GPU."""
        return any(node["Resources"].get("GPU", 0) >= 1 for node in ray.nodes() if node["Alive"])

    def is_reachable(self) -> bool:
        """Whether the cluster can be asked something now.

        Raises:
            PruneboardError: it could not for some time.
        """
        if _answers(self._address):
            self._reached = time.monotonic()
            return True
        if time.monotonic() - self._reached > _GIVE_UP_SECONDS:
            raise PruneboardError(
                f"the Ray cluster must stay reachable, but nothing has answered at {self._address} for "
                f"{_GIVE_UP_SECONDS:.0f} s; start it again, and the same command continues with the jobs that are left."
            )
        return False

    def slots(self, needs: Mapping[str, float]) -> dict[str, int]:
        """Return how many workers fit on each node, by the names of nodes, whatever else runs there.

        Args:
            needs: amounts of Ray's resources that each worker takes, above 0.

        Raises:
            PruneboardError: the node that this process runs on is no longer one.
        """
        nodes = ray.nodes()
        self._hosts |= {node["NodeID"]: node["NodeManagerHostname"] for node in nodes}
        alive = {node["NodeID"]: node["Resources"] for node in nodes if node["Alive"]}
        if not ray.util.client.ray.is_connected() and ray.get_runtime_context().get_node_id() not in alive:
            raise PruneboardError(
                "the node that the command runs on must stay part of the Ray cluster, but it has left; start it again, "
                "and the same command continues with the jobs that are left."
            )
        fits = {
            node: int(min(has.get(name, 0) // amount for name, amount in needs.items())) for node, has in alive.items()
        }
        return {node: n for node, n in fits.items() if n > 0}

    def host(self, node: str) -> str:
        """Return the machine of a node, as far as it is known, for messages."""
        return self._hosts.get(node, node[:8])

    def start(self, cls: type, arguments: tuple[Any, ...], needs: Mapping[str, float], node: str) -> Any:
        """Start an actor on a node, and return its handle; it may come up later, or never."""
        options = {
            "num_cpus": needs.get("CPU", 0),
            "num_gpus": needs.get("GPU", 0),
            "max_restarts": 0,
            "max_task_retries": 0,
            "scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=False),
        }
        return ray.remote(cls).options(**options).remote(*arguments)


@contextlib.contextmanager
def connected(address: str, package: Path) -> Iterator[Cluster]:
    """Connect to a cluster whose workers import a package from here.

    Args:
        address: as in `RayOptions`.
        package: folder of the package.

    Raises:
        PruneboardError: there is no such cluster, or none that this process can work with.
    """
    target = address.removeprefix(_CLIENT)
    if address != "auto" and not _answers(target):
        raise _no_cluster(address, "nothing listens there")
    if not address.startswith(_CLIENT):
        _ask_status(address)
    try:
        ray.init(
            address=address,
            runtime_env={"py_modules": [str(package)]},
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise PruneboardError(
            f"`--address` must be that of a Ray cluster that can be used from here, got `{address}`: "
            f"{' '.join(str(error).split())[:500]}"
        ) from error
    try:
        yield Cluster(target if address.startswith(_CLIENT) else ray.get_runtime_context().gcs_address)
    finally:
        ray.shutdown()


def _ask_status(address: str) -> None:
    """Raise unless a head node answers, in a process that can be ended: Ray's library asks again for many minutes."""
    command = [sys.executable, "-m", "ray.scripts.scripts", "status"]
    command += [] if address == "auto" else ["--address", address]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=_STATUS_SECONDS
        )
    except subprocess.TimeoutExpired as error:
        raise _no_cluster(address, f"none answered within {_STATUS_SECONDS:.0f} s") from error
    if done.returncode != 0:
        said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        raise _no_cluster(address, said[-1][:500] if said else f"`ray status` ended with {done.returncode}")


def _no_cluster(address: str, reason: str) -> PruneboardError:
    return PruneboardError(
        f"`--address` must be that of a running Ray cluster, got `{address}`: {reason.rstrip('.')}; start one with "
        "`ray start --head` and give the address that it prints."
    )


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_PROBE_SECONDS).close()
    except ValueError as error:
        raise PruneboardError(
            f"`--address` must be auto, HOST:PORT or ray://HOST:PORT, got `{address}`; correct it."
        ) from error
    except OSError:
        return False
    return True
