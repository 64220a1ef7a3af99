"""Workflows in a project with a command that plays a model, and as processes on the command line."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from loom.graph.front import Loom
from loom.graph.store.workflow_runs import WorkflowRun
from loom.graph.store.workflow_steps import StepRun
from loom.workflows import loader, runs
from loom.workflows.loader import Workflow
from loom.workflows.record import StepProgress
from tests.skills.conftest import Model, bare, bare_shop, cli, directory, home, model, shop

__all__ = ["Model", "bare", "bare_shop", "cli", "directory", "home", "model", "shop"]

SKILL = """---
name: shout
description: Says it louder.
inputs:
  words: {type: string}
outputs: {type: object, required: [said], additionalProperties: false, properties: {said: {type: string}}}
---
Say it louder: {{ words }}
"""


def source(steps: str, inputs: str = "", name: str = "trial") -> str:
    """A workflow's file; `steps` and `inputs` are YAML, a line each."""
    lines = [f"name: {name}", "description: A trial."]
    for key, text in (("inputs", inputs), ("steps", steps)):
        if text.strip():
            lines += [f"{key}:", *(f"  {line}" for line in text.strip("\n").split("\n"))]
    return "\n".join(lines) + "\n"


def flow(steps: str, inputs: str = "") -> Workflow:
    """A workflow that only this test has."""
    return loader.parse(source(steps, inputs), "trial.yaml")


def put(project: Path, text: str, name: str = "trial.yaml", folder: str = "workflows") -> Path:
    """Puts a file among the workflows (or skills) of a project or a home."""
    place = project / ".loom" / folder
    place.mkdir(parents=True, exist_ok=True)
    (place / name).write_text(text)
    return place / name


async def begun(
    loom: Loom, steps: str, inputs: str = "", given: Mapping[str, Any] | None = None, **more: Any
) -> WorkflowRun:
    """A run that was started and carried on as far as it goes."""
    run = await runs.start(loom, flow(steps, inputs), given or {})
    return await runs.advance(loom, run.id, **more)


async def rows(loom: Loom, run: WorkflowRun) -> dict[str, StepRun]:
    """The steps of a run by their ids."""
    return {row.step: row for row in (await runs.look(loom, run.id))[1]}


async def outputs(loom: Loom, run: WorkflowRun) -> dict[str, Any]:
    """What its steps came to."""
    return {name: row.output for name, row in (await rows(loom, run)).items() if row.output is not None}


def configure(home: Path, model: Model) -> None:
    """Has the user's own settings name the model, for processes."""
    (home / ".loom").mkdir(exist_ok=True)
    settings = {"skills": {"provider": "command", "command": model.command}}
    (home / ".loom" / "config.yaml").write_text(json.dumps(settings))


Clock = Callable[[float], Awaitable[None]]


class Told(list[StepProgress]):
    """What a carrier tells of its steps."""

    def __call__(self, progress: StepProgress) -> None:
        self.append(progress)

    @property
    def brief(self) -> list[str]:
        return [f"{one.step} {one.phase}" for one in self]
