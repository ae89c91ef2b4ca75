"""Work on many scans, shared by workers of Dask: what ``--on`` of the commands stands for.

The workers may be on other machines that see the same folders. Each is a process that works on one scan at a time, with
one thread, as those of `medvae.jobs`; what there is to do, and what becomes of it, is told there.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import platform
import re
import subprocess
import sys
import time
import uuid
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import dask
from distributed import (
    CancelledError,
    Client,
    Future,
    KilledWorker,
    LocalCluster,
    Worker,
    WorkerPlugin,
    get_worker,
    wait,
)
from distributed.deploy.spec import SpecCluster

from medvae import __version__
from medvae.cores import THREADS
from medvae.errors import MedvaeError, MedvaeWarning
from medvae.files import scratch_folder, told
from medvae.imaging.content import allow_large, large_allowed
from medvae.interrupts import ctrl_c_as_it_was
from medvae.jobs import Workers, WorkersLost, attempt_of_worker, keep_warnings, repeat_warnings
from medvae.workers import starting_workers, without_main

LOCAL, SLURM = "local", "slurm"

_ANSWER_S = 10.0
"""How long a scheduler may take to answer at first."""
_LOOK_S = 1.0
"""How often it is asked for workers that have come or gone."""
_MEND_S = 30.0
"""How often workers that were lost are started again, and the queue is asked what became of them."""
_ONE_THREAD = dict.fromkeys(THREADS, "1")
_SILENT = {"DASK_LOGGING__DISTRIBUTED": "critical"}  # what matters is told in a sentence
_SETTINGS = {
    "distributed.scheduler.allowed-failures": 1,  # as with --jobs: what ended two processes is not tried again
    "distributed.nanny.pre-spawn-environ": _ONE_THREAD | _SILENT,
}
_MEMORY = "4G"
"""Of a job: a process with PyTorch, a detector and a 1 mm scan takes 2."""
_DIED = (
    "{} workers died one after the other while they worked on this case, the last at {}; perhaps the memory was not "
    "enough. Give them more (--on slurm: --on-option mem=8G), or look into their output."
)


@contextlib.contextmanager
def workers_on(
    where: str,
    number: int = 0,
    *,
    options: Mapping[str, str] | None = None,
    needs: Sequence[Path] = (),
    shares: Path | None = None,
) -> Iterator[Workers]:
    """Workers that take the place of a number of ``jobs``; those that were started end with the block.

    Parameters
    ----------
    where
        "local", "slurm", or the address of a scheduler, whose workers are left as they are.
    number
        How many workers are started.
    options
        Options of ``sbatch`` by their long names, and ``interface``: the network that workers and this machine share.
    needs
        Files and folders that workers must find under the same names, as far as they are there.
    shares
        A folder, made if need be, that workers must see as this machine does, because they write there.

    Raises
    ------
    MedvaeError
        If ``where`` is none of these, the scheduler does not answer, or the queue takes no job.
    """
    workers = _Cluster(where, number, options or {}, [path for path in needs if path.exists()], shares)
    with without_main() if where == LOCAL else contextlib.nullcontext():  # a worker that was killed is started again
        try:
            workers.open()
            yield workers
        finally:
            workers.close()


@dataclass
class _Cluster(Workers):
    where: str
    number: int
    options: Mapping[str, str]
    needs: Sequence[Path]
    shares: Path | None
    client: Client | None = None
    started: SpecCluster | None = None
    mended: float = 0.0
    reported: bool = False
    """Whether there ever was a worker: jobs that are gone have then been lost, and others are submitted."""

    def open(self) -> Client:
        """Start the workers, or find those that there are, unless they are there."""
        if self.client is None:
            for name in ("distributed", "distributed.client", "tornado"):
                logging.getLogger(name).setLevel(logging.CRITICAL)
            with dask.config.set(_SETTINGS):
                with starting_workers():  # Ctrl-C is for this process, which then ends them
                    self.started = _start(self.where, self.number, self.options)
                try:
                    self.client = Client(self.started or self.where, timeout=_ANSWER_S)
                except (OSError, ValueError) as error:  # refused, silent, or no address
                    raise MedvaeError(
                        f"{self.where}: no scheduler of Dask answers there ({_first_line(error)}). Give --on the "
                        f"address that dask scheduler prints when it starts."
                    ) from error
            self.mended = time.monotonic()
        return self.client

    def close(self) -> None:
        """End what was started."""
        for one in (self.client, self.started):
            if one is not None:
                with contextlib.suppress(Exception):  # of a scheduler that is gone, or a job that never was
                    one.close(timeout=_ANSWER_S)
        self.client = self.started = None

    def results(self, work: Iterator[Any], task: Callable[[Any], Any]) -> Generator[tuple[Any, Any]]:
        """As `medvae.jobs.shared_out`."""
        client, name = self.open(), f"medvae-{uuid.uuid4().hex}"
        running: dict[Future[Any], Any] = {}
        with self._visible() as paths:
            sent = _Sent(name, pickle.dumps(task), paths, os.getcwd(), large_allowed())
            try:
                with self._told():
                    _register(client, sent)
                more = True
                while more or running:
                    with self._told():
                        at_a_time = max(1, self._there(client))
                    # One each: those that only waited for a worker that dies would be suspected with what killed it.
                    while more and len(running) < at_a_time:
                        more = (item := next(work, _NOTHING)) is not _NOTHING
                        if more:
                            with self._told():
                                future = client.submit(_run, name, pickle.dumps(item), key=f"{name}-{uuid.uuid4().hex}")
                            running[future] = item
                    for future in self._finished(list(running)):
                        yield running.pop(future), self._result(future)
            except BaseException:
                if self.started is not None:  # nobody waits for what they are at
                    self.close()
                else:
                    with contextlib.suppress(Exception):
                        client.cancel(list(running))
                raise
            finally:
                if self.client is not None:
                    with contextlib.suppress(Exception):  # the work is done, or there is a better reason for its end
                        client.unregister_worker_plugin(name)

    @contextlib.contextmanager
    def _visible(self) -> Iterator[list[Path]]:
        """What workers must see: also something that was not there before, so that it is the same folder."""
        needs = [Path.cwd(), *self.needs]
        with contextlib.ExitStack() as stack:
            if self.shares is not None:
                with told(self.shares):
                    self.shares.mkdir(parents=True, exist_ok=True)
                needs.append(stack.enter_context(scratch_folder(self.shares / "workers")))
            yield [path.absolute() for path in needs]

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except (CancelledError, OSError, TimeoutError) as error:
            raise WorkersLost(
                f"{self.where}: the scheduler of Dask cannot be reached any more ({_first_line(error)}). What was "
                f"finished is kept: when there is one again, go on with the same command."
            ) from error

    def _there(self, client: Client) -> int:
        """How many workers there are; where some were lost, others are started now and then."""
        count = len(client.nthreads())
        self.reported |= count > 0
        if count < max(1, self.number) and time.monotonic() - self.mended > _MEND_S:
            self.mended = time.monotonic()
            if not count:
                warnings.warn(f"{self.where}: there is no worker at present; waiting.", MedvaeWarning, stacklevel=2)
            if self.started is not None:
                if self.where == SLURM and not self.reported:
                    _require_jobs(self.started)
                self.started.scale(self.number)
        return count

    def _finished(self, running: list[Future[Any]]) -> list[Future[Any]]:
        if not running:
            return []
        with self._told():
            try:
                return list(wait(running, timeout=_LOOK_S, return_when="FIRST_COMPLETED").done)
            except TimeoutError:
                return []

    def _result(self, future: Future[Any]) -> Any:
        with self._told():
            error = future.exception()
            packed = b"" if error else future.result()
        if isinstance(error, KilledWorker):
            return MedvaeError(_DIED.format(error.allowed_failures + 1, error.last_worker.address))
        if error:
            raise error
        return repeat_warnings(pickle.loads(packed))


_NOTHING = object()


def _start(where: str, number: int, options: Mapping[str, str]) -> SpecCluster | None:
    if where == LOCAL:
        # No limit of Dask's: a worker near it would stop to take work, and that of --jobs has none either.
        return LocalCluster(number, threads_per_worker=1, memory_limit=0, dashboard_address=None)
    if where == SLURM:
        started = slurm_cluster(options)
        try:
            _require_queue(started.job_script())
            started.scale(number)
        except BaseException:
            started.close()
            raise
        return started
    if "://" not in where:
        raise MedvaeError(f"--on {where}: is neither local nor slurm nor the address of a scheduler (tcp://host:8786).")
    return None


def slurm_cluster(options: Mapping[str, str]) -> Any:
    """A cluster of dask-jobqueue whose workers will be jobs of SLURM, a process of one thread each."""
    with ctrl_c_as_it_was():
        from dask_jobqueue.slurm import SLURMCluster

    directives = {"mem": _MEMORY} | {name: value for name, value in options.items() if name != "interface"}
    configured = dask.config.get("jobqueue.slurm.job-script-prologue", None) or []
    return SLURMCluster(
        cores=1,
        processes=1,
        memory="1GB",  # of Dask's own reckoning, which is left out
        job_directives_skip=["#SBATCH --mem=", "#SBATCH -t "],
        job_extra_directives=[f"--{name}={value}" if value else f"--{name}" for name, value in directives.items()],
        job_script_prologue=[*configured, *(f"export {name}=1" for name in THREADS)],
        worker_extra_args=["--memory-limit", "0"],  # SLURM's own holds
        interface=options.get("interface"),
        scheduler_options={"dashboard": False, "dashboard_address": ":0"},
    )


def _require_queue(script: str) -> None:
    """Refuse what ``sbatch`` would refuse: of jobs that are submitted later, Dask only logs that."""
    try:
        asked = subprocess.run(["sbatch", "--test-only"], input=script, capture_output=True, text=True)
        problem = asked.stderr if asked.returncode else ""
    except OSError as error:
        problem = str(error)
    if problem:
        raise MedvaeError(
            f"--on slurm: sbatch takes no job: {' '.join(problem.split())}. Give its options as --on-option "
            f"partition=NAME, account=NAME, time=HH:MM:SS, and call medvae where jobs are submitted."
        )


def _require_jobs(started: SpecCluster) -> None:
    """Refuse to wait for jobs that are no longer in the queue, and never reported here."""
    jobs = [str(worker.job_id) for worker in started.workers.values() if worker.job_id]
    asked = subprocess.run(["squeue", "--me", "--noheader", "--format=%A"], capture_output=True, text=True)
    if not asked.returncode and not set(jobs) & set(asked.stdout.split()):
        raise MedvaeError(
            f"--on slurm: the jobs {', '.join(jobs[:5])} ended before a worker reported here. Their output says why "
            f"(slurm-{(*jobs, 'JOB')[0]}.out); if it could not connect, give the network of the nodes: --on-option "
            f"interface=ib0."
        )


def _register(client: Client, sent: _Sent) -> None:
    """Hand the task to all workers, also to those that come later."""
    try:
        client.register_plugin(sent, name=sent.name)
    except Exception as error:
        if "No module named" not in str(error):
            raise
        seen = cast(Any, client.get_versions(packages=["medvae"]))["workers"]
        without = [worker for worker, found in seen.items() if not found["packages"].get("medvae")]
        raise MedvaeError(
            f"worker {', '.join(without or seen)}: cannot import medvae {__version__} ({_first_line(error)}). Start "
            f"workers from the environment that medvae is started from."
        ) from error


@dataclass
class _Sent(WorkerPlugin):
    """A task on its way to the workers, and what they must have for it."""

    name: str
    packed: bytes
    paths: Sequence[Path]
    cwd: str
    large: bool
    made_by: tuple[str, str] = (__version__, platform.python_version())
    task: Callable[[Any], Any] | None = field(default=None, repr=False)

    def setup(self, worker: Worker) -> None:
        """On a worker: keep it."""
        _sent[self.name] = self
        self.require(worker)

    def teardown(self, worker: Worker) -> None:
        """On a worker: forget it."""
        _sent.pop(self.name, None)

    def require(self, worker: Worker) -> None:
        """Refuse to work otherwise than the process that sent it would."""
        who = f"worker {worker.address} on {platform.node()}"
        here = (__version__, platform.python_version())
        if here[0] != self.made_by[0] or _minor(here[1]) != _minor(self.made_by[1]):
            raise MedvaeError(
                f"{who}: has medvae {here[0]} and Python {here[1]}, not medvae {self.made_by[0]} and Python "
                f"{self.made_by[1]} as where the command was given. Start workers from the same environment."
            )
        if worker.state.nthreads != 1:
            raise MedvaeError(
                f"{who}: works on {worker.state.nthreads} things at a time. Start it as: dask worker ADDRESS "
                f"--nthreads 1 --nworkers {worker.state.nthreads}"
            )
        for path in self.paths:
            if not path.exists():
                raise MedvaeError(
                    f"{who}: does not see {path}, which is there where the command was given. Put scans and results "
                    f"where all machines see them under one name, and give the command there."
                )

    def opened(self) -> Callable[[Any], Any]:
        """On a worker: the task, unpacked once."""
        if self.task is None:
            self.require(get_worker())
            os.environ.update(_ONE_THREAD)  # for libraries that are not imported yet
            keep_warnings()
            allow_large(self.large)
            self.task = pickle.loads(self.packed)
            if torch := sys.modules.get("torch"):
                torch.set_num_threads(1)
        assert self.task is not None
        return self.task


_sent: dict[str, _Sent] = {}
"""Of a worker: what it does, by name."""


def _run(name: str, item: bytes) -> bytes:
    """On a worker: the result of an item, and what was warned of."""
    sent = _sent[name]
    with contextlib.chdir(sent.cwd):
        return pickle.dumps(attempt_of_worker(sent.opened(), pickle.loads(item)))


def _minor(version: str) -> str:
    return re.sub(r"^(\d+\.\d+).*", r"\1", version)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
