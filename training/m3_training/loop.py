"""The training loop: AdamW, schedule, clipping, a log, and checkpoints from which a run resumes exactly."""

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from m3_core.backbone import TokenBatch
from m3_core.errors import InputError, M3Error
from m3_core.model import M3Model
from m3_core.tokenizer import M3Tokenizer

from .config import LoopConfig

CHECKPOINT, LOG, MODEL = "checkpoint.pt", "log.jsonl", "model"


class Interrupted(M3Error):
    """The run was asked to stop; everything up to now is in the checkpoint."""


class Objective(Protocol):
    """What is learned: the loss of every step. Steps are numbered from 0 and depend on nothing but the number."""

    def identity(self) -> str:
        """A hash of data and options; a checkpoint of another one is refused."""
        ...

    def loss(self, step: int) -> tuple[Tensor, dict[str, float]]:
        """The loss of a step with its gradient, and numbers for the log."""
        ...


def trainable(model: M3Model, config: LoopConfig) -> M3Model:
    """A copy of the model made ready to train: dropout and the type of the products as configured."""
    rates = {"hidden_dropout_prob": config.dropout, "attention_probs_dropout_prob": 0.0}
    head = model.colbert_linear
    copy = M3Model(
        {**model.raw_config, **rates},
        sparse=model.sparse_linear is not None,
        multi_dim=None if head is None else head.out_features,
    )
    copy.load_state_dict(model.state_dict())
    copy.backbone.compute_dtype = getattr(torch, config.dtype)
    copy.backbone.embeddings.position_embeddings.weight.requires_grad_(config.train_positions)
    return copy.train()


def packed(texts: list[list[int]]) -> tuple[TokenBatch, list[int]]:
    """A batch in order of length, so that padding inside attention is small, and where each text went."""
    order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
    return TokenBatch.of([texts[row] for row in order]), order


class Trainer:
    """Runs an objective on a model for ``config.steps`` steps, in the folder ``output``.

    The folder gets ``log.jsonl``, ``checkpoint.pt`` (written whole or not at all) and at the end ``model``.
    """

    def __init__(
        self,
        model: M3Model,
        tokenizer: M3Tokenizer,
        objective: Objective,
        config: LoopConfig,
        output: Path,
        *,
        console: Console | None = None,
    ) -> None:
        self.model, self.tokenizer, self.objective = model, tokenizer, objective
        self.config, self.output = config, output
        self.console = console or Console(stderr=True)
        self.optimiser = torch.optim.AdamW(_groups(model, config), betas=(0.9, 0.98), fused=True)
        self.rates = [group["lr"] for group in self.optimiser.param_groups]
        self.identity = f"{_lasting(config)!r} {objective.identity()}"
        self.step = 0
        self._stop = False

    def run(self, *, resume: bool = False) -> Path:
        """Train to the last step and write the model; returns its folder.

        Raises:
            InputError: ``output`` already holds a run and ``resume`` is false, or holds another one.
            Interrupted: SIGTERM or Ctrl-C came; the state is saved.
        """
        if resume:
            self._load()
        elif (self.output / CHECKPOINT).exists():
            raise InputError(f"{self.output} already holds a run; go on with --resume or give another folder")
        self.output.mkdir(parents=True, exist_ok=True)
        if not resume:
            torch.manual_seed(self.config.seed)
        with _signals(self._request_stop), self._progress() as advance:
            self._steps(advance)
        folder = self.output / MODEL
        self.model.save(folder, self.tokenizer)
        return folder

    def _steps(self, advance: Any) -> None:
        config = self.config
        while self.step < config.steps:
            began = time.perf_counter()
            numbers = self._one()
            if self.step % config.log_every == 0 or self.step in (1, config.steps):
                self._log({**numbers, "seconds": time.perf_counter() - began})
            advance(numbers["loss"])
            if self._stop or self.step % config.checkpoint_every == 0 or self.step == config.steps:
                self.save()
            if self._stop and self.step < config.steps:
                raise Interrupted(f"stopped after step {self.step} of {config.steps}; go on with --resume")

    def _one(self) -> dict[str, float]:
        for group, rate in zip(self.optimiser.param_groups, self.rates, strict=True):
            group["lr"] = rate * schedule(self.step, self.config)
        loss, numbers = self.objective.loss(self.step)
        if not torch.isfinite(loss):
            raise M3Error(
                f"the loss of step {self.step} is {loss.item()}; lower loop.learning_rate and start again, "
                f"or go on from the last checkpoint with another seed"
            )
        torch.autograd.backward(loss)
        parameters = [p for group in self.optimiser.param_groups for p in group["params"]]
        norm = nn.utils.clip_grad_norm_(parameters, self.config.clip)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.step += 1
        return {"loss": loss.item(), "gradient_norm": norm.item(), **numbers}

    def save(self) -> None:
        """Write the checkpoint; a crash while writing leaves the one before it."""
        state = {
            "identity": self.identity,
            "step": self.step,
            "steps": self.config.steps,
            "decay_from": decay_start(self.config),
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "random": torch.get_rng_state(),
        }
        partial = self.output / f"{CHECKPOINT}.partial"
        with partial.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(self.output / CHECKPOINT)

    def _load(self) -> None:
        path = self.output / CHECKPOINT
        if not path.is_file():
            raise InputError(f"there is no {path} to resume from; start without --resume")
        state = torch.load(path, weights_only=True)
        if state["identity"] != self.identity:
            raise InputError(f"{path} is of a run with other data, options or losses, and cannot be resumed")
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        torch.set_rng_state(state["random"])
        self.step = state["step"]
        if self.step > state["decay_from"] and self.config.steps != state["steps"]:
            raise InputError(
                f"{path}: the decay to {state['steps']} steps has begun; loop.steps cannot become {self.config.steps}"
            )

    def _request_stop(self, _signal: int, _frame: FrameType | None) -> None:
        self._stop = True

    def _log(self, numbers: dict[str, float]) -> None:
        line = {"step": self.step, **{name: round(value, 5) for name, value in numbers.items()}}
        with (self.output / LOG).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    @contextmanager
    def _progress(self) -> Iterator[Any]:
        columns = (
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]:.3f}"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self.console, disable=not self.console.is_terminal) as progress:
            task = progress.add_task(
                "training", total=self.config.steps, completed=self.step, loss=float("nan")
            )
            yield lambda loss: progress.update(task, advance=1, loss=loss)


def decay_start(config: LoopConfig) -> int:
    """The first step of the decay."""
    return config.warmup_steps if config.decay_steps is None else config.steps - config.decay_steps


def schedule(step: int, config: LoopConfig) -> float:
    """The factor on the learning rates at a step, from 0: linear up, constant, linear down to 0.

    >>> config = LoopConfig(steps=7, warmup_steps=2, decay_steps=4, learning_rate=1.0)
    >>> [schedule(step, config) for step in range(7)]
    [0.5, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25]
    """
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    start = decay_start(config)
    return min(1.0, (config.steps - step) / (config.steps - start))


def _lasting(config: LoopConfig) -> LoopConfig:
    """The options that must not change between a checkpoint and going on from it, the others set to one value."""
    return replace(config, steps=10**9, decay_steps=None, checkpoint_every=1, log_every=1)


def _groups(model: M3Model, config: LoopConfig) -> list[dict[str, Any]]:
    """Parameters by learning rate and weight decay: heads have their own rate, vectors and embeddings no decay."""
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decayed = parameter.ndim == 2 and "embeddings" not in name
            groups.setdefault((name.startswith("backbone."), decayed), []).append(parameter)
    head_rate = config.head_learning_rate or config.learning_rate
    return [
        {
            "params": parameters,
            "lr": config.learning_rate if backbone else head_rate,
            "weight_decay": config.weight_decay if decayed else 0.0,
        }
        for (backbone, decayed), parameters in groups.items()
    ]


@contextmanager
def _signals(handler: Any) -> Iterator[None]:
    """SIGTERM and Ctrl-C end the run after the step; outside the main thread they stay as they are."""
    try:
        before = {kind: signal.signal(kind, handler) for kind in (signal.SIGTERM, signal.SIGINT)}
    except ValueError:  # not the main thread
        before = {}
    try:
        yield
    finally:
        for kind, previous in before.items():
            signal.signal(kind, previous)
