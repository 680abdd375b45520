"""A SLURM of one node on this machine: munged, slurmctld and slurmd with a configuration of their own."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "sinfo")

CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=1,batch_sched_delay=0
MpiDefault=none
ReturnToService=2
SlurmdParameters=config_overrides
MinJobAge=600
KillWait=1
NodeName={host} NodeAddr=127.0.0.1 CPUs=8 RealMemory=1000000 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def why_not() -> str | None:
    """Why SLURM cannot run here, or None where it can."""
    if os.geteuid() != 0:
        return "SLURM's daemons need root"
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    return f"{', '.join(missing)} not here (Debian: slurmctld slurmd slurm-client munge)" if missing else None


@dataclass(frozen=True)
class Slurm:
    """A running SLURM with everything it writes in `folder`."""

    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        """What its commands need, and its jobs get: that of now, without what another SLURM may have set."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM_", "SBATCH_"))}
        path = os.pathsep.join([str(self.folder / "bin"), kept["PATH"]])
        return kept | {"SLURM_CONF": str(self.folder / "slurm.conf"), "PATH": path}

    def run(self, *command: str) -> str:
        """The standard output of one of SLURM's commands. Raises CalledProcessError."""
        return subprocess.run(command, env=self.environment, check=True, capture_output=True, text=True).stdout

    def submit(self, *arguments: str) -> str:
        """The number of the new job that sbatch makes."""
        return self.run("sbatch", "--parsable", *arguments).strip()

    def states(self, job: str) -> dict[str, str]:
        """State of each task of a job, by the task's name."""
        lines = self.run("squeue", "--all", "--states=all", "--array", "-h", "-o", "%i %T", "-j", job).splitlines()
        return dict(line.split() for line in lines)

    def wait(self, job: str, seconds: float = 300) -> dict[str, str]:
        """Wait until all tasks of a job have ended; their states."""
        going = {"PENDING", "RUNNING", "COMPLETING", "CONFIGURING"}
        wait_until(lambda: going.isdisjoint(self.states(job).values()), seconds)
        return self.states(job)


def wait_until(true: Callable[[], bool], seconds: float, every: float = 0.1) -> None:
    """Raise TimeoutError if it is not true in time."""
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            raise TimeoutError(f"not so within {seconds} s")
        time.sleep(every)


def _cgroup_plugin() -> str:
    """The one that asks nothing of this machine: before 23.02 there was no "disabled"."""
    version = subprocess.run(["slurmd", "-V"], check=True, capture_output=True, text=True).stdout.split()[-1]
    return "disabled" if tuple(map(int, version.split(".")[:2])) >= (23, 2) else "cgroup/v1"


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@contextmanager
def running_slurm(folder: Path) -> Iterator[Slurm]:
    """SLURM with everything it writes in `folder`, whose path must be short (a socket lies in it)."""
    host = socket.gethostname().partition(".")[0]
    for name in ("state", "spool"):
        (folder / name).mkdir()
    folder.chmod(0o755)
    (folder / "slurm.conf").write_text(
        CONFIGURATION.format(host=host, ports=_free_ports(2), folder=folder), encoding="utf-8"
    )
    # Snakemake's plugin removes SLURM's variables from its jobs, where this srun still has to find its own.
    srun = folder / "bin" / "srun"
    srun.parent.mkdir()
    srun.write_text(
        f'#!/bin/sh\nSLURM_CONF={folder}/slurm.conf exec {shutil.which("srun")} "$@"\n', encoding="utf-8"
    )
    srun.chmod(0o755)
    (folder / "cgroup.conf").write_text(f"CgroupPlugin={_cgroup_plugin()}\n", encoding="utf-8")
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    munge = [f"--{name}={folder}/munge.{name.split('-')[0]}" for name in ("socket", "pid-file", "seed-file")]
    munge += [f"--key-file={key}", f"--log-file={folder}/munge.log", "--force", "--foreground"]
    daemons = (("munged", *munge), ("slurmctld", "-D", "-i"), ("slurmd", "-D"))
    slurm = Slurm(folder)
    started: list[subprocess.Popen] = []
    try:
        with (folder / "daemons.log").open("w") as log:
            for command in daemons:
                started.append(subprocess.Popen(command, env=slurm.environment, stdout=log, stderr=log))
                if command[0] == "munged":
                    wait_until((folder / "munge.socket").exists, 10)
        wait_until(lambda: _is_idle(slurm), 60)
        yield slurm
    finally:
        for process in reversed(started):
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _is_idle(slurm: Slurm) -> bool:
    try:
        return slurm.run("sinfo", "-h", "-o", "%t").strip() == "idle"
    except subprocess.CalledProcessError:
        return False
