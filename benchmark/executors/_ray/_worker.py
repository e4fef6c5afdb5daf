"""What runs on the nodes: an actor that holds a workbench and runs one job after the other."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from pruneboard.benchmark import plugins, provenance
from pruneboard.benchmark.errors import PruneboardError
from pruneboard.benchmark.executors._ray._code import running_digest
from pruneboard.benchmark.executors._ray._files import NeededFile, NodeFiles
from pruneboard.benchmark.executors._ray._parcels import Piece, contents
from pruneboard.benchmark.runner import Workbench, run_job
from pruneboard.benchmark.schema import Job, Precision, Row


@dataclass(frozen=True, kw_only=True)
class Greeting:
    """What a worker says of itself and its node when it comes up.

    Attributes:
        code: digest of the code that it runs.
        versions: of Python and of the libraries that decide numbers.
        installed: digests of the criteria of jobs that come from installed packages, by name.
        device: what it runs networks on, by name of the hardware.
        lacking: needed files that its node has not got.
    """

    code: str
    versions: Mapping[str, str]
    installed: Mapping[str, str]
    device: str
    lacking: tuple[NeededFile, ...]


class Worker:
    """Runs jobs in a process of a node; its methods are called one after the other, in the order below.

    Args:
        device: `cpu`, or `cuda` for the GPU that Ray gave it.
        n_threads: CPU threads.
        precision: what evaluation computes in.
        needed: files that jobs need.
    """

    def __init__(self, device: str, n_threads: int, precision: Precision, needed: tuple[NeededFile, ...]) -> None:
        torch.set_num_threads(n_threads)
        self._device, self._precision = torch.device(device), precision
        self._files = NodeFiles(needed)
        self._bench: Workbench | None = None

    def greet(self, criteria: Sequence[str]) -> Greeting:
        """Say what the driver has to know before it gives jobs.

        Args:
            criteria: names of those that jobs run.

        Raises:
            AssetError: the cache of the node cannot be written to.
            PluginError: a plugin that its node has installed cannot be imported.
        """
        return Greeting(
            code=running_digest(),
            versions=provenance.versions(),
            installed=plugins.installed_digests(criteria),
            device=provenance.device_name(self._device),
            lacking=tuple(self._files.link()),
        )

    def prepare(self, sent: Mapping[NeededFile, Sequence[Piece]]) -> list[NeededFile]:
        """Receive what the node lacked, and return what none of its other workers received before.

        Raises:
            AssetError: a file cannot be received.
        """
        received = [file for file, pieces in sent.items() if self._files.receive(file, contents(pieces))]
        self._files.use()
        self._bench = Workbench(self._device, self._precision)
        return received

    def run(self, job: Job) -> list[Row]:
        """Run a job.

        Raises:
            PruneboardError: it met something that no other job could mend.
        """
        if self._bench is None:
            raise PruneboardError("a worker must be prepared before it runs a job, but this one is not; run again.")
        return run_job(job, self._bench)
