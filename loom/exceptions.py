"""Every error Loom raises on purpose, on one page.

A `LoomError` says in one sentence what was wrong (`cause`) and in one what to do next (`next_step`). The same two
sentences reach a person on the terminal, an agent through MCP and a caller in Python. `code` is stable and meant for
programs; `exit_code` is what the command line returns.
"""

from __future__ import annotations

from typing import Any


class LoomError(Exception):
    """Base of all errors of Loom.

    Args:
        cause: one sentence, what was wrong.
        next_step: one sentence, what to do now; empty where nothing can be done.
    """

    code = "error"
    exit_code = 1

    def __init__(self, cause: str, next_step: str = "") -> None:
        super().__init__(cause)
        self.cause = cause
        self.next_step = next_step

    def __str__(self) -> str:
        return f"{self.cause} {self.next_step}".strip()


class InvalidInputError(LoomError):
    """An argument has the wrong type, size or form."""

    code = "invalid_input"
    exit_code = 2


class ConfigError(LoomError):
    """A configuration file or variable cannot be used."""

    code = "config_invalid"


class ProjectNotFoundError(LoomError):
    """No Loom project here, or none with that id."""

    code = "project_not_found"


class TaskNotFoundError(LoomError):
    """The project has no task with that id."""

    code = "task_not_found"


class EscalationNotFoundError(LoomError):
    """The project has no escalation with that id."""

    code = "escalation_not_found"


class MessageNotFoundError(LoomError):
    """The inbox has no message with that id."""

    code = "message_not_found"


class TaskStateError(LoomError):
    """The task is not in a status that allows this."""

    code = "task_state"


class ClaimConflictError(LoomError):
    """Somebody else holds the task, or this claim is no longer the newest."""

    code = "claim_conflict"
    exit_code = 3


class RunLostError(ClaimConflictError):
    """Somebody else goes on with this run of a workflow or a skill now."""


class DependencyCycleError(LoomError):
    """The change would make a task wait for itself."""

    code = "dependency_cycle"


class PlanError(LoomError):
    """A plan cannot be written as it is. `problems`: all that was found wrong with it, a sentence or two each."""

    code = "invalid_plan"

    def __init__(self, cause: str, next_step: str = "", problems: tuple[str, ...] = ()) -> None:
        super().__init__(cause, next_step)
        self.problems = problems or (f"{cause} {next_step}".strip(),)


class PlanNotFoundError(LoomError):
    """The project has no stored plan with that id."""

    code = "plan_not_found"


class ImportFormatError(LoomError):
    """A file to import has no format that Loom reads, or is damaged."""

    code = "import_format"


class SkillError(LoomError):
    """A skill's file is not in order, or its template cannot be filled in."""

    code = "invalid_skill"


class SkillNotFoundError(LoomError):
    """There is no skill with that name."""

    code = "skill_not_found"


class WorkflowError(LoomError):
    """A workflow's file is not in order, or one of its steps has a value that cannot be used."""

    code = "invalid_workflow"


class WorkflowNotFoundError(LoomError):
    """There is no workflow with that name."""

    code = "workflow_not_found"


class WorkflowStateError(LoomError):
    """The run of a workflow is not where this could be done with it."""

    code = "workflow_state"


class RunNotFoundError(LoomError):
    """The project has no run of a skill or of a workflow with that id."""

    code = "run_not_found"


class ProviderError(LoomError):
    """The model behind a skill cannot be asked, or did not answer."""

    code = "provider"


class AnswerError(LoomError):
    """A model's answer is not what its skill asks for. `problems`: what is wrong with it, a sentence each. `answers`:
    the objects that a provider has answered, the last one last, so that its work is not lost."""

    code = "invalid_answer"

    def __init__(
        self,
        cause: str,
        next_step: str = "",
        problems: tuple[str, ...] = (),
        answers: tuple[dict[str, Any], ...] = (),
    ) -> None:
        super().__init__(cause, next_step)
        self.problems = problems
        self.answers = answers


class RunAnsweredError(LoomError):
    """The run of a skill has its answer already, and it is another one."""

    code = "run_answered"


class ServersError(LoomError):
    """PostgreSQL or Redis cannot be started, stopped or found."""

    code = "servers"


class ServersStoppedError(ServersError):
    """The servers were stopped on purpose and are left that way."""

    code = "servers_stopped"


class DatabaseUnavailableError(LoomError):
    """PostgreSQL does not answer, or refuses. `began`: it went away with a statement under way, which may have been
    carried out."""

    code = "database_unavailable"
    began = False


class SchemaTooNewError(LoomError):
    """A newer Loom has changed the database in a way that this one cannot work with."""

    code = "schema_too_new"
