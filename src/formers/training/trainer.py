"""A training from its folder's first file to its last. The loop itself is in loop.py and asks for what stands here."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from formers.errors import RunError
from formers.training import checkpoints, estimates, sentinels
from formers.training.batches import CarriedStates, View, lane_rows, state_length, to_tensors
from formers.training.distributed import Team, join
from formers.training.evaluate import evaluate, evaluating
from formers.training.job import Job, RunResult, Sampler
from formers.training.learners import only_these_learn
from formers.training.loop import lane_loss, run_steps
from formers.training.pictures import Pictures
from formers.training.precision import choose_device, deterministic, give_back_freed_memory
from formers.training.progress import ProgressLine
from formers.training.records import CHECKPOINTS, MODEL, RunFolder
from formers.training.settings import LATER, TrainSettings
from formers.training.setup import (
    assemble,
    choose_numerics,
    find_checkpoint,
    freed_memory,
    restore,
    snapshot,
    trained_model,
)
from formers.training.signals import StopRequest, stop_requests
from formers.training.usage import peak_bytes, watch_peak


def train(
    model: nn.Module,
    settings: TrainSettings,
    train_view: View,
    validation_view: View | None = None,
    *,
    out: Path | str,
    recipe: Mapping[str, Any] | None = None,
    resume: bool = False,
    save_model: Callable[[nn.Module, Path], None] | None = None,
    sample: Sampler | None = None,
    baselines: Mapping[str, float] | None = None,
    on_event: Callable[[dict[str, Any]], None] | None = None,
    progress: bool | None = None,
    resume_command: str | None = None,
    fresh: bool = True,
) -> RunResult:
    """Train `model` in the run folder `out`, or go on with the training that was stopped there.

    model            trained in place; to resume, give it as it was at the start
    train_view       `batch(i)` gives update i+1 its rows: batch_size of seq_len tokens
    validation_view  is evaluated every `eval_every` steps and at the end
    recipe           name, data and whatever else recipe.json is to hold besides architecture, model and train
    resume           go on from the newest whole checkpoint in `out`; where there is none, from the start
    save_model       called with (model, out/model) at the end
    sample           called with the model every `sample_every` steps and at the end
    baselines        put into every evaluation row beside the measures
    on_event         called with every row that metrics.jsonl gets
    progress         a live line on stderr; None: where it is a terminal
    resume_command   what to type to go on, for whoever stops it
    fresh            the weights are as initialised, so the first loss ought to be near ln V

    SIGINT and SIGTERM finish the step, write a checkpoint and return. Under torchrun every process calls this.
    Raises ConfigError, DataError or RunError for what cannot be trained, resumed or written.
    """
    job = Job(
        model=model,
        settings=settings,
        train_view=train_view,
        validation_view=validation_view,
        out=Path(out),
        recipe=recipe or {},
        resume=resume,
        save_model=save_model,
        sample=sample,
        baselines=baselines,
        on_event=on_event,
        progress=progress,
        resume_command=resume_command or f"formers train --resume --out {out}",
        fresh=fresh,
    )
    with contextlib.ExitStack() as stack:
        team = stack.enter_context(join(settings.parallel, choose_device(settings.device)))
        job.check(team.world)
        stack.enter_context(only_these_learn(model, settings.only))
        folder = stack.enter_context(RunFolder(job.out, write=team.first, resume=resume))
        stop = stack.enter_context(stop_requests())
        trainer = Trainer(job, team, folder, stop)
        stack.enter_context(deterministic(trainer.numerics.threads))
        stack.enter_context(freed_memory(model, settings, trainer.numerics.device))
        return trainer.run()


class Trainer:
    """All that a training holds while it runs."""

    def __init__(self, job: Job, team: Team, folder: RunFolder, stop: StopRequest) -> None:
        self.job, self.settings, self.team, self.folder, self.stop = job, job.settings, team, folder, stop
        self.train_view, self.schedule = job.train_view, job.settings.learning_rate
        self.step, self.tokens, self.loss = 0, 0, None
        self.clock, self.stopped_by, self.evaluation_checked = Clock(), None, False
        self.notes: list[str] = []  # warnings from before the records are open
        self.identity = job.identity(team.world)
        checkpoint = find_checkpoint(job, team, self.notes.append) if job.resume else None
        self.resumed_from = self.last_saved = None if checkpoint is None else checkpoint.step
        self.numerics = choose_numerics(job, checkpoint, self.notes.append)
        self.device = self.numerics.device
        self.parts = assemble(job, team, self.numerics)
        if checkpoint is not None:
            restore(self.parts, checkpoint, self.device)
            self.step, self.tokens = checkpoint.step, checkpoint.facts["tokens"]
            self.clock.before = checkpoint.facts["seconds"]
        self.pictures = Pictures(self)
        named = self.parts.model.named_parameters()
        self.watch = sentinels.GradientWatch(named, team, last=self.settings.total_steps)
        self.estimate = estimates.TimeEstimate(self.settings.total_steps if self.settings.steps_limited else None)

    def run(self) -> RunResult:
        """Train to the end, or until a signal."""
        self.folder.start(self.job.recipe_json(), self.numerics.plain(), resumed_from=self.resumed_from)
        total = self.settings.total_steps if self.settings.steps_limited else None
        self.line = ProgressLine(total, self.step, on=self.job.progress if self.team.first else False)
        try:
            self._announce()
            self.pictures.begin()
            watch_peak(self.device)
            self.clock.start()
            run_steps(self)
            self._finish() if self.stopped_by is None else self._interrupt()
        except RunError as error:
            self.event("error", error.found)
            raise
        finally:
            self.line.close()
        return self._result()

    # --- what the loop asks for ---------------------------------------------------------------------------------------

    @property
    def is_finished(self) -> bool:
        """Whether the last step, or the last minute, is over."""
        return self.progress_share >= 1.0

    @property
    def progress_share(self) -> float:
        """How much of the training is done, 0 to 1: by the clock where minutes are set, else by steps."""
        settings = self.settings
        by_steps = self.step / settings.total_steps if settings.steps_limited else 0.0
        return max(by_steps, self.clock.seconds / (60 * settings.minutes) if settings.minutes else 0.0)

    def goes_on(self) -> bool:
        """Whether to make another step: no signal came, to any of the processes, and the end is not reached."""
        self.clock.read()
        signal = self.stop.signal
        if self.team.world > 1:
            mine = [float(signal is not None), self.clock.seconds if self.team.first else 0.0]
            shared = torch.tensor(mine, dtype=torch.float64, device=self.device)
            asked, self.clock.seconds = self.team.total(shared).tolist()
            signal = signal or ("a signal to another process" if asked else None)
        self.stopped_by = None if self.is_finished else signal
        return not self.is_finished and self.stopped_by is None

    def learning_rate(self, step: int) -> float:
        """The learning rate of an update."""
        return self.schedule.lr_of(step, self.progress_share) if self.settings.minutes else self.schedule.lr_at(step)

    def stop_where_not_finite(self, step: int, batch: Any, loss: float, norm: float) -> None:
        """Raise RunError where a step gives no number, naming the first module that does not: the step is run again."""
        if math.isfinite(loss) and math.isfinite(norm):
            return
        where = self._first_not_finite(step, batch) or f"the {'gradient' if math.isfinite(loss) else 'loss'}"
        last = "there is none yet" if self.last_saved is None else f"that of step {self.last_saved}"
        raise RunError(
            f"step {step}: loss {loss}, gradient norm {norm}; the first number that is not finite is in {where}. The newest "
            f"checkpoint: {last}",
            "finite numbers",
            "lower lr, lengthen warmup, set clip, or set precision to float32; then train anew with another --out",
        )

    def advance(self, step: int, tokens: int, took: float, **measured: float) -> None:
        """The update is made: count it, record it, and say what is odd about it."""
        self.clock.read()
        self.step, self.tokens, self.loss = step, self.tokens + tokens, measured["loss"]
        so_far = {"tokens": self.tokens, "seconds": round(self.clock.seconds, 3)}
        self.record("train", **so_far, **measured, tokens_per_second=round(tokens / took, 1))
        if step == 1 and self.job.fresh and self.job.vocab_size:
            more = self.parts.objective.second_loss
            self.warn(sentinels.first_loss(measured["loss"], self.job.vocab_size, more))
        self.warn(self.watch.verdict(step))
        self.say(self.estimate.look(step, took))
        if step == (self.resumed_from or 0) + 1:
            give_back_freed_memory(self.device)

    def due(self, every: int) -> bool:
        """Whether what happens `every` so many steps happens after this one. All processes agree: no clock is asked."""
        return bool(every) and self.step % every == 0

    # --- records ------------------------------------------------------------------------------------------------------

    def record(self, kind: str, **values: Any) -> None:
        """One row of metrics.jsonl, for the file, the live line and whoever listens."""
        if not self.team.first:
            return
        row = {"kind": kind, "step": self.step, **values}
        self.folder.append(row)
        self.line.show(row)
        if self.job.on_event is not None:
            self.job.on_event(row)

    def event(self, level: str, message: str) -> None:
        """Something worth a line: info, warning or error."""
        self.record("event", level=level, message=message)

    def warn(self, message: str | None) -> None:
        """A warning, if there is one."""
        if message is not None:
            self.event("warning", message)

    def say(self, message: str | None) -> None:
        """A remark, if there is one."""
        if message is not None:
            self.event("info", message)

    def evaluate(self) -> None:
        """Evaluate on the validation view (on the training batches where these are to be learnt by heart)."""
        settings, view = self.settings, self.job.validation_view
        split, batches = "validation", settings.total_eval_batches
        if settings.overfit_batches:
            split, view, batches = "train", self.train_view, settings.overfit_batches
        if view is None:
            return
        self._check_evaluation(view)
        found = evaluate(
            self.parts.wrapped,
            view,
            batches=batches,
            documents_apart=settings.documents_apart,
            states=self._evaluation_states(view),
            device=self.device,
            team=self.team,
        )
        so_far = {"tokens": self.tokens, "seconds": round(self.clock.read(), 3), "split": split}
        if settings.objective not in LATER["objective"]:
            so_far["objective"] = settings.objective
        baselines = {"baselines": dict(self.job.baselines)} if self.job.baselines else {}
        self.record("eval", **so_far, **found.row(), **baselines)

    def sample(self) -> None:
        """Let the model write, and record what it wrote. A sharded model cannot be sampled on one process."""
        if self.job.sample is None or not self.team.first or self.parts.unsharded is not None:
            return
        with evaluating(self.parts.model):
            written = self.job.sample(self.parts.model)
        for prompt, text in written:
            self.record("sample", prompt=prompt, text=text)
        self.folder.write_samples()

    def save_checkpoint(self) -> None:
        """Write a checkpoint of this step; the metrics reach the disk before it."""
        self.folder.sync()
        facts = {
            "tokens": self.tokens,
            "seconds": self.clock.read(),
            "identity": self.identity,
            "numerics": self.numerics.plain(),
        }
        checkpoints.save(
            self.folder.path / CHECKPOINTS,
            snapshot(self.parts, self.step, facts),
            rank=self.team.rank,
            writer=self.team.writer,
            barrier=self.team.barrier,
        )
        self.last_saved = self.step
        self.folder.note(peak_bytes=peak_bytes(self.device))

    # --- beginning and end ----------------------------------------------------------------------------------------------

    def _announce(self) -> None:
        """What is about to happen, and what is odd before it does."""
        job, settings = self.job, self.settings
        if self.resumed_from is not None:
            self.say(f"Resumed from step {self.resumed_from}.")
        elif job.resume:
            self.say("There is no checkpoint to resume from: the training begins at its start.")
        else:
            self.say(estimates.announcement(job.recipe_json()["parameters"], settings, job.train_view))
        for note in self.notes:
            self.warn(note)
        self.warn(sentinels.short_memory(self.parts.model, settings))
        self.warn(estimates.short_of_disk(job.recipe_json()["parameters"], job.out))
        if not settings.overfit_batches and job.validation_view is not None:
            self.warn(sentinels.overlap(job.train_view, job.validation_view))

    def _finish(self) -> None:
        """The end: a last evaluation, sample and checkpoint, and the model. What this step has had already it keeps."""
        if not self._recorded("eval"):
            self.evaluate()
        if not self._recorded("sample"):
            self.sample()
        self.pictures.end()
        if self.last_saved != self.step:
            self.save_checkpoint()
        model = trained_model(self.parts)
        if self.job.save_model is not None and self.team.first:
            self.job.save_model(model, self.job.out / MODEL)
        self.team.barrier()

    def _interrupt(self) -> None:
        if self.last_saved != self.step:
            self.save_checkpoint()
        self.event(
            "warning", f"Stopped by {self.stopped_by} after step {self.step}. Go on with: {self.job.resume_command}"
        )

    def _result(self) -> RunResult:
        evaluations = self.folder.rows("eval")
        return RunResult(
            out=self.job.out,
            model=self.parts.unsharded or self.parts.model,
            steps=self.step,
            tokens=self.tokens,
            seconds=self.clock.seconds,
            loss=self.loss,
            evaluation=evaluations[-1] if evaluations else None,
            resumed_from=self.resumed_from,
            interrupted=self.stopped_by,
            resume_command=self.job.resume_command,
        )

    def _recorded(self, kind: str) -> bool:
        """Whether this step has a row of the kind already. All processes look into the same file."""
        self.folder.sync()
        self.team.barrier()
        return any(row["step"] == self.step for row in self.folder.rows(kind))

    def _evaluation_states(self, view: Any) -> CarriedStates:
        if not self.settings.carry_state:
            return CarriedStates()
        rows = len(view.batch(0).input_ids) // self.team.world
        return CarriedStates(self.parts.model, rows, state_length(self.parts.model, view, self.settings))

    def _check_evaluation(self, view: Any) -> None:
        """Before the first evaluation: is it the same twice?"""
        if self.evaluation_checked:
            return
        self.evaluation_checked = True
        rows = lane_rows(view.batch(0), self.team.rank, self.team.world)
        micro = to_tensors(rows, self.device, apart=self.settings.documents_apart, carried=self.settings.carry_state)
        state = self._evaluation_states(view).before(0, micro.fresh)
        with evaluating(self.parts.wrapped):
            sentinels.check_evaluation(
                self.parts.wrapped, lambda: self.parts.wrapped(*micro.arguments(), state, scores=True, **micro.given)[0]
            )

    def _first_not_finite(self, step: int, batch: Any) -> str | None:
        """The step run again without wrapper (no process waits for another) or compiler, with an eye on every module."""
        self.parts.optimizer.zero_grad(set_to_none=True)
        sharded = self.team.world > 1 and self.settings.parallel == "fsdp"
        for lane in self.parts.lanes:
            found = sentinels.find_non_finite(
                self.parts.objective,
                lambda lane=lane: lane_loss(self, batch, step, lane, self.parts.objective),
                backward=not sharded,
            )
            if found is not None and not sharded:
                return found
        return None


class Clock:
    """Seconds of training: those before a resume, and those since the first step of this process."""

    def __init__(self) -> None:
        self.before, self.began, self.seconds = 0.0, None, 0.0

    def start(self) -> None:
        self.began = time.perf_counter()
        self.read()

    def read(self) -> float:
        """Look at the clock. In between, `seconds` stands still, so that one step has one time."""
        since = 0.0 if self.began is None else time.perf_counter() - self.began
        self.seconds = self.before + since
        return self.seconds
