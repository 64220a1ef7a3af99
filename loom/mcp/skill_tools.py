"""The tools and prompts that lead from a goal to tasks: skills, decomposition, and workflows.

As in `tools.py` the docstrings are what agents read. The prompts are listed when a client asks for them, since which
ones there are depends on the project.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastmcp.exceptions import PromptError, ValidationError
from fastmcp.prompts import Prompt, PromptArgument
from fastmcp.server.providers import Provider
from fastmcp.utilities.components import FastMCPComponent
from pydantic import Field

from loom.background import apart
from loom.exceptions import InvalidInputError, LoomError
from loom.mcp.tool import tool
from loom.mcp.tools import Object, reporting
from loom.mcp.wording import agents
from loom.replies import Reply
from loom.texts import clean
from loom.wording import worded

if TYPE_CHECKING:
    from loom.graph.front import Loom
    from loom.skills.loader import Skill

_LONGEST = 900.0  # seconds that a provider has


class SkillTools:
    """The tools, over a way to the front that may raise while there is no project."""

    def __init__(self, loom: Callable[[], Loom]) -> None:
        self._loom = loom

    @tool("Plan tasks from a goal", outside=True)
    async def loom_decompose(
        self,
        goal: str = "",
        spec_path: Annotated[str | None, Field(description="a file of the project that says more")] = None,
        plan: Annotated[Object | None, Field(description='{"tasks": [...]}')] = None,
        plan_id: str | None = None,
        confirm: bool = False,
    ) -> Reply:
        """Turn a goal into tasks, in two steps. First with goal: the reply is a checked preview (waves, critical path)
        with its plan_id; or status plan_wanted, and you make the plan as the prompt says and call again with goal and
        plan; or sent_back with problems to correct. Nothing is written yet. Then, when the user agrees, with plan_id
        and confirm=true: exactly that plan is written, all of it or nothing, and once. If the user answers elsewhere,
        your inbox says so."""
        from loom.skills import tools

        async with reporting(_LONGEST):
            return await tools.decompose(self._loom(), goal, spec_path, plan, plan_id, confirm=confirm)

    @tool("Run a skill", outside=True)
    async def loom_skill(
        self,
        name: Annotated[str | None, Field(description="left out: list the skills")] = None,
        inputs: Object | None = None,
        run_id: str | None = None,
        output: Object | None = None,
    ) -> Reply:
        """Run a skill, a prompt with a checked answer: define_done, review_output, debug_failure and others. With name
        and inputs the reply is the answer; or status open with run_id, a prompt and a schema, and you do what the
        prompt says and call again with run_id and output, which is checked and recorded once."""
        from loom.skills import tools

        async with reporting(_LONGEST):
            return await tools.skill(self._loom(), name, inputs, run_id, output)

    @tool("Run a workflow", destroys=True, outside=True)
    async def loom_workflow(
        self,
        action: Literal["list", "start", "resume", "status"],
        name: str | None = None,
        run_id: str | None = None,
        inputs: Object | None = None,
    ) -> Reply:
        """Run a workflow, steps that lead from a goal to its end: ship_feature (specify, plan, agree, write, wait,
        review), debug_and_fix (diagnose a failed task, agree, repair) and the project's own. start takes name and
        inputs; the reply says how far it came and, in next, what it waits for: an answer, a yes of your user, tasks.
        resume goes on with run_id, with inputs as the answer if one is wanted, also after a crash or a failed step.
        status shows a run or, without run_id, all."""
        from loom.workflows import tools

        async with reporting(_LONGEST):
            return await tools.workflow(self._loom(), action, name, run_id, inputs)


class SkillPrompts(Provider):
    """The skills as prompts of the server."""

    def __init__(self, loom: Callable[[], Loom]) -> None:
        super().__init__()
        self._loom = loom

    async def get_tasks(self) -> Sequence[FastMCPComponent]:
        """None; asked for when the server starts, where reading the skills would cost time."""
        return ()

    async def _list_prompts(self) -> Sequence[Prompt]:
        return await apart(self._prompts())

    async def _prompts(self) -> Sequence[Prompt]:
        for module in ("loom.graph.front", "loom.skills.tools"):
            await asyncio.to_thread(import_module, module)
        from loom.skills import loader, tools

        found = await asyncio.to_thread(loader.load, tools.config(self._loom))
        return [_SkillPrompt.of(skill) for skill in found.all.values()]


class _SkillPrompt(Prompt):
    """One skill; its arguments come as texts."""

    skill: Annotated[Any, Field(exclude=True)]

    @classmethod
    def of(cls, skill: Skill) -> _SkillPrompt:
        """The prompt of a skill."""
        arguments = [
            PromptArgument(name=one.name, description=one.description or None, required=one.required)
            for one in skill.inputs
        ]
        return cls(name=skill.name, description=skill.description, arguments=arguments, skill=skill)

    async def render(self, arguments: dict[str, Any] | None = None) -> str:
        """The skill's prompt. Raises only what FastMCP passes on as it is, and does not log with a traceback."""
        from loom.skills import tools

        try:
            return tools.prompt(self.skill, arguments or {})
        except LoomError as error:
            kind = ValidationError if isinstance(error, InvalidInputError) else PromptError
            raise kind(clean(f"{error.code}: {worded(error.said, agents)}"), log_level=logging.DEBUG) from None
