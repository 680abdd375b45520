"""The experiment of self-training: where it pays over further steps on the labelled example alone, by folds.

    python benchmarks/experiment.py prepare --data DATA --inputs inputs.npz
    python benchmarks/experiment.py run --inputs inputs.npz --out FOLDER [--minutes M | --steps N] [--workers W] …
    python benchmarks/experiment.py report --results FOLDER/results.jsonl --out FOLDER

`prepare` reduces the scans of DATA (with scans.tsv, see `scans`) to one file. `run` trains and scores the arms of
`experiment_arms`, several at once, the most telling first; FOLDER/results.jsonl grows as they end. Without --steps
it first times a step and chooses as many as the minutes allow. `report` makes a table and a figure of the results.

A fold takes the T1w of one adult as the labelled example. The other people are dealt out in two halves: one gives
its images, unlabelled, to self-training, and is scored too (transductive); the other is only scored (inductive).
Training, stripping and scores are at about 4 mm. Regimes differ in the synthesis: "paper" has the modest one of
SingleStrip, "ours" the project's, "narrow" shows one head as it is. "fetal" is another anatomy, at its own voxel
size: SL-1 is the model `fetus`, other stacks are unlabelled, and another stack of its fetus is scored.

Every arm but SL-1 goes on from SL-1 for the same number of steps with the same seed, at a fifth of the rate. It
trains the segmenter alone: the locator stays that of SL-1. SL-1+ learns from the example, and is the control; SL-N
from the true masks of all unlabelled scans too, and is the oracle: where it is not 0.01 better than SL-1+ out of
distribution (the second gate), the other arms of the regime come last.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import multiprocessing.connection
import os
import time
import traceback
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from experiment_arms import ARMS, FoldArms, Schedule, time_step
from experiment_report import write_report
from experiment_scans import adult_fold, fetal_fold, read_inputs, write_inputs

GATE = 0.01  # by which the oracle must beat the control
MARGIN_S = 6.0  # for the last scores to be written
OVERHEAD_S = 10.0  # of a task beside its steps, about
TRIES = 2  # of a task that fails, the second without graphs
REGISTERING_S = 25.0  # of an arm that makes a bank of shapes
LEAST_STEPS, MOST_STEPS = 500, 700  # of a later arm, where they are chosen by the time
FIRST = 2.5  # times as many steps has SL-1
HUNG_S = 90.0  # after which a worker that is timing steps is given up

# What is trained, in this order. "rank" scores the masks of SL-1 for the arms that choose by a score.
TIERS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("paper", ("SL-1", "SL-1+", "SL-N")),
    ("paper", ("shapes", "careful", "estimate-k", "oracle-k", "random-k", "AE-k", "TTA-k")),
    ("narrow", ("SL-1", "SL-1+", "SL-N", "shapes", "careful")),
    ("ours", ("SL-1", "SL-1+", "SL-N")),
    ("paper", ("half-0", "half-1", "halves")),
    ("narrow", ("oracle-k", "estimate-k", "half-0", "half-1", "halves")),
    ("ours", ("shapes", "careful", "oracle-k", "estimate-k")),
    ("fetal", ("SL-1", "SL-1+", "SL-N", "careful", "shapes", "estimate-k")),
    ("paper", ("shapes-N", "scratch-k")),
    ("narrow", ("shapes-N", "random-k", "AE-k", "TTA-k", "scratch-k")),
    ("ours", ("half-0", "half-1", "halves", "random-k", "AE-k", "TTA-k", "shapes-N", "scratch-k")),
)
CORE = 3  # tiers that the number of steps is chosen for
GATE_ARMS = ("SL-1", "SL-1+", "SL-N")  # arms that the gate needs
FOLDS = {"paper": 5, "narrow": 5, "ours": 5, "fetal": 2}


@dataclass(frozen=True)
class Task:
    """One thing for a worker. kind: "train" an arm, "label" with the model of an arm, or "rank"."""

    regime: str
    fold: int
    kind: str
    name: str

    def needs(self) -> list[Task]:
        """Tasks that must end before this one begins."""

        def other(kind: str, name: str) -> Task:
            return Task(self.regime, self.fold, kind, name)

        if self.kind == "label":
            return [other("train", self.name)]
        if self.kind == "rank":
            return [other("label", "SL-1")]
        arm = ARMS[self.name]
        teachers = {"": [], "truth": [], "halves": ["half-0", "half-1"]}.get(arm.teacher, [arm.teacher])
        first = [] if self.name == "SL-1" else [other("train", "SL-1")]
        ranked = [other("rank", "SL-1")] if arm.rank else []
        return [*first, *(other("label", teacher) for teacher in teachers), *ranked]


def planned_tasks(
    regimes: Iterable[str], arms: Iterable[str], folds: Iterable[int]
) -> dict[Task, tuple[int, ...]]:
    """All tasks with their priority, the lowest first."""
    priorities: dict[Task, tuple[int, ...]] = {}

    def add(task: Task, priority: tuple[int, ...]) -> None:
        priorities[task] = min(priority, priorities.get(task, priority))
        for need in task.needs():
            add(need, priority)

    wanted = set(arms)
    for tier, (regime, names) in enumerate(TIERS):
        for place, name in enumerate(names):
            for fold in range(FOLDS[regime]):
                if regime in regimes and name in wanted and fold in folds:
                    add(Task(regime, fold, "train", name), (tier, place, fold))
    return priorities


def mean_dice(rows: Sequence[dict[str, Any]]) -> float:
    """Mean Dice of the inductive scans out of distribution, of all inductive ones if there are no others."""
    inductive = [row for row in rows if row["group"] == "inductive"]
    other = [row for row in inductive if row["kind"] == "OOD"]
    return float(np.mean([row["dice"] for row in other or inductive]))


# Workers


def work(pipe: multiprocessing.connection.Connection, inputs: Path, out: Path, device: str, ends: float) -> None:
    """Carry out what comes through a pipe until it closes: a task with its schedule, or the timing of steps."""
    torch.set_num_threads(1)
    scans = read_inputs(inputs)
    known: dict[tuple[str, int], FoldArms] = {}
    while True:
        try:
            message = pipe.recv()
        except EOFError:
            return
        task, schedule, graphs = Task(*message["task"]), Schedule(**message["schedule"]), message["graphs"]
        try:
            key = (task.regime, task.fold)
            if key not in known:
                fold = (fetal_fold if task.regime == "fetal" else adult_fold)(task.fold, scans)
                folder = out / f"{task.regime}-{task.fold}"
                known[key] = FoldArms(task.regime, fold, folder, schedule, torch.device(device), ends, graphs)
            arms = known[key]
            arms.schedule, arms.graphs = schedule, graphs
            if task.kind == "time":
                answer: Any = time_step(arms, message["steps"])
            elif task.kind == "rank":
                answer = arms.rank()
            else:
                answer = getattr(arms, task.kind)(task.name)
            pipe.send({"rows": answer})
        except Exception as error:
            fatal = device == "cuda" and isinstance(error, RuntimeError)  # a GPU may not recover
            pipe.send({"error": traceback.format_exc(), "fatal": fatal})


class Worker:
    """A process that carries out one task at a time."""

    def __init__(self, *given: Any) -> None:
        self.given = given
        self.task: Task | None = None
        self.since = 0.0
        self.start()

    def start(self) -> None:
        """Start the process, anew after a fault."""
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=work, args=(theirs, *self.given), daemon=True)
        self.process.start()
        theirs.close()

    def begin(self, task: Task, schedule: Schedule, graphs: bool, steps: int = 0) -> None:
        """Hand over a task."""
        self.task, self.since = task, time.time()
        given = (task.regime, task.fold, task.kind, task.name)
        self.pipe.send({"task": given, "schedule": asdict(schedule), "graphs": graphs, "steps": steps})

    def answer(self) -> dict[str, Any]:
        """What came of the task. A worker whose process or GPU failed starts anew."""
        try:
            answer = self.pipe.recv()
        except (EOFError, OSError):
            answer = {"error": "the worker died", "fatal": True}
        self.task = None
        if answer.get("fatal"):
            self.restart()
        return answer

    def restart(self) -> None:
        """End the process and start another."""
        self.process.kill()
        self.pipe.close()
        self.task = None
        self.start()


class Experiment:
    """Hands tasks to workers until all are done or the time is over."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.began = args, time.time()
        self.ends = self.began + 60 * args.minutes - MARGIN_S if args.minutes else float("inf")
        args.out.mkdir(parents=True, exist_ok=True)
        self.results = args.results or args.out / "results.jsonl"
        self.results.parent.mkdir(parents=True, exist_ok=True)
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.tasks = planned_tasks(args.regimes, args.arms, args.folds)
        self.done: set[Task] = set()
        self.failures: Counter[Task] = Counter()
        self.dice: dict[tuple[str, int, str], float] = {}
        self.tell(
            "settings", device=self.device, torch=torch.__version__, cores=os.cpu_count(), tasks=len(self.tasks)
        )
        self.workers = [Worker(args.inputs, args.out, self.device, self.ends) for _ in range(args.workers)]

    def tell(self, record: str, **values: Any) -> None:
        """Write a line of the results."""
        with self.results.open("a") as file:
            file.write(json.dumps({"record": record, "at_s": round(time.time() - self.began, 1)} | values) + "\n")

    def run(self) -> None:
        """Time the steps, then carry out the tasks."""
        self.step_ms = self.time_steps(Schedule(20, 20))
        self.schedule, self.graphs = self.choose_schedule()
        self.tell("schedule", **asdict(self.schedule), graphs=self.graphs, step_ms=self.step_ms)
        while True:
            for worker in self.workers:
                task = self.next_task() if worker.task is None else None
                if task is not None:
                    worker.begin(task, self.schedule, self.graphs and not self.failures[task])
            busy = [worker for worker in self.workers if worker.task is not None]
            if not busy or time.time() > self.ends + MARGIN_S / 2:
                break
            for worker in self.ready(busy, 1.0):
                self.take(worker)
        self.tell("end", done=len(self.done), failed=len(self.failures), left=len(self.tasks) - len(self.done))
        for worker in self.workers:
            worker.process.kill()

    @staticmethod
    def ready(workers: list[Worker], timeout_s: float) -> list[Worker]:
        """Workers that have an answer."""
        pipes = multiprocessing.connection.wait([worker.pipe for worker in workers], timeout_s)
        return [worker for worker in workers if worker.pipe in pipes]

    def take(self, worker: Worker) -> None:
        """Put an answer on record."""
        task, seconds = worker.task, time.time() - worker.since
        assert task is not None
        answer = worker.answer()
        about = {"regime": task.regime, "fold": task.fold, "name": task.name, "task": task.kind}
        if "error" in answer:
            self.failures[task] += 1
            self.tell("failure", **about, error=answer["error"])
            print(f"{task}: {answer['error']}", flush=True)
            return
        self.done.add(task)
        for row in answer["rows"]:
            self.tell({"train": "score", "label": "pseudo-label"}.get(task.kind, task.kind), **row)
        if task.kind == "train":
            self.dice[task.regime, task.fold, task.name] = mean_dice(answer["rows"])
        shown = self.dice.get((task.regime, task.fold, task.name), float("nan"))
        print(f"{time.time() - self.began:5.0f} s {task} {seconds:.0f} s {shown:.4f}", flush=True)

    def next_task(self) -> Task | None:
        """The first task that can begin and has the time to end."""
        running = {worker.task for worker in self.workers}
        ready = [
            task
            for task in self.tasks
            if task not in self.done | running
            and self.failures[task] < TRIES
            and all(need in self.done for need in task.needs())
            and time.time() + self.seconds(task) < self.ends
        ]
        return min(ready, key=lambda task: (self.gate_closed(task), *self.tasks[task]), default=None)

    def seconds(self, task: Task) -> float:
        """How long a task takes, about."""
        if task.kind != "train":
            return OVERHEAD_S
        arm = ARMS[task.name]
        steps = self.schedule.first if arm.scratch else self.schedule.later
        training_s = steps * self.step_ms["first" if arm.scratch else "later"] / 1000
        return OVERHEAD_S + training_s + arm.shapes * REGISTERING_S

    def gate_closed(self, task: Task) -> bool:
        """Whether a task waits since the oracle of its regime is known not to beat the control by enough."""
        if task.kind == "train" and task.name in GATE_ARMS:
            return False
        folds = [fold for fold in self.args.folds if fold < FOLDS[task.regime]]
        pairs = [[self.dice.get((task.regime, fold, name)) for name in ("SL-N", "SL-1+")] for fold in folds]
        if any(None in pair for pair in pairs):
            return False
        return float(np.mean([oracle - control for oracle, control in pairs])) < GATE

    # Steps

    def time_steps(self, schedule: Schedule) -> dict[str, float]:
        """Milliseconds of a step while all workers train, the median over them; graphed only if all agree."""
        for worker in self.workers:
            worker.begin(Task(self.args.regimes[0], 0, "time", ""), schedule, False, self.args.timed)
        measured: list[dict[str, float]] = []
        until = time.time() + HUNG_S
        while (busy := [worker for worker in self.workers if worker.task]) and time.time() < until:
            for worker in self.ready(busy, 1.0):
                answer = worker.answer()
                measured.append(answer.get("rows", {}))
                self.tell("time", **answer)
        for worker in self.workers:
            if worker.task is not None:
                self.tell("time", error="no answer")
                measured.append({})
                worker.restart()
        names = {name for each in measured for name in each}
        of_all = {name: [each[name] for each in measured if name in each] for name in names}
        steps = {name: float(np.median(values)) for name, values in of_all.items()}
        whole = {name for name, values in of_all.items() if len(values) == len(measured)}
        if {"first_graphed", "later_graphed"} <= whole and steps["later_graphed"] < steps["later"]:
            return {"first": steps["first_graphed"], "later": steps["later_graphed"], "graphed": 1.0}
        return {name: steps.get(name, 60.0) for name in ("first", "later")}

    def choose_schedule(self) -> tuple[Schedule, bool]:
        """Steps as asked for, or as many as the first tiers have the time for; and whether to use graphs."""
        graphs = "graphed" in self.step_ms
        if self.args.steps:
            return Schedule(self.args.first or int(FIRST * self.args.steps), self.args.steps), graphs
        core = [task for task, priority in self.tasks.items() if priority[0] < CORE]
        trained = [ARMS[task.name] for task in core if task.kind == "train"]
        scratch = sum(arm.scratch for arm in trained)
        later = len(trained) - scratch
        seconds = 0.9 * (self.ends - time.time()) * len(self.workers)
        seconds -= OVERHEAD_S * len(core) + REGISTERING_S * sum(arm.shapes for arm in trained)
        a_step = (FIRST * scratch * self.step_ms["first"] + later * self.step_ms["later"]) / 1000
        steps = int(np.clip(seconds / max(a_step, 1e-9), LEAST_STEPS, MOST_STEPS)) // 50 * 50
        return Schedule(int(FIRST * steps), steps), graphs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    prepare = commands.add_parser("prepare", help="reduce the scans to one file")
    prepare.add_argument("--data", type=Path, required=True)
    prepare.add_argument("--inputs", type=Path, required=True)
    run = commands.add_parser("run", help="train and score")
    run.add_argument("--inputs", type=Path, required=True)
    run.add_argument("--out", type=Path, required=True, help="folder for models and masks")
    run.add_argument("--results", type=Path, help="file of results (default: OUT/results.jsonl)")
    run.add_argument("--regimes", nargs="+", default=list(FOLDS), choices=list(FOLDS))
    run.add_argument("--arms", nargs="+", default=sorted({name for _, names in TIERS for name in names}))
    run.add_argument("--folds", nargs="+", type=int, default=list(range(5)))
    run.add_argument("--workers", type=int, default=1)
    run.add_argument("--minutes", type=float, help="stop after so long (default: when all is done)")
    run.add_argument("--steps", type=int, help="of a later arm (default: by the time)")
    run.add_argument("--first", type=int, help="steps of SL-1 (default: 2.5 times --steps)")
    run.add_argument("--timed", type=int, default=30, help="steps that are timed at the start")
    report = commands.add_parser("report", help="tables and a figure")
    report.add_argument("--results", type=Path, nargs="+", required=True)
    report.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    if args.command == "prepare":
        write_inputs(args.data, args.inputs)
    elif args.command == "run":
        if not args.minutes and not args.steps:
            parser.error("run needs --minutes or --steps")
        Experiment(args).run()
    else:
        write_report(args.results, args.out)


if __name__ == "__main__":
    main()
