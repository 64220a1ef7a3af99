"""Every error Loom raises on purpose, on one page.

A `LoomError` says in one sentence what was wrong and in one what to do next. Each face puts both into its own words:
where they name a call or an argument they are `wording.Words`, whose parts are data. Four bases say what a caller can
do about it; only their kinds are raised.

    LoomError
        NotFoundError       ask for another one, or make it
        ConflictError       look how things stand now
        UnavailableError    mend or start what is needed, then do the same again
        InvalidError        correct what was given
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from loom.wording import Shell, Words, from_parts, parts_of


class LoomError(Exception):
    """Base of all errors of Loom.

    Args:
        cause: one sentence, what was wrong.
        next_step: one sentence, what to do now; empty where nothing can be done.

    Attributes:
        code: stable, meant for programs.
        exit_code: what the command line returns: 1, 2 for an argument that cannot be, 3 for a claim that is another's.
        cause, next_step: as above; a text for Python, and `Words` where they name what faces word differently.
    """

    code = "error"
    exit_code = 1

    def __init__(self, cause: str, next_step: str = "") -> None:
        super().__init__(cause)
        self.cause = cause
        self.next_step = next_step

    @property
    def said(self) -> Words:
        """Both sentences."""
        return Words("{} {}", self.cause, self.next_step) if self.next_step else Words("{}", self.cause)

    @property
    def facts(self) -> dict[str, Any]:
        """What a program wants to know beside them, as JSON has it."""
        return {}

    def __str__(self) -> str:
        return str(self.said)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        """How an error stands in what travels as JSON."""
        from pydantic_core import core_schema

        return core_schema.no_info_plain_validator_function(
            from_data, serialization=core_schema.plain_serializer_function_ser_schema(as_data)
        )


# --- what is not there ------------------------------------------------------------------------------------------------


class NotFoundError(LoomError):
    """There is nothing of that name or id."""

    code = "not_found"


class ProjectNotFoundError(NotFoundError):
    """No Loom project here, or none with that id."""

    code = "project_not_found"


class TaskNotFoundError(NotFoundError):
    """The project has no task with that id."""

    code = "task_not_found"


class EscalationNotFoundError(NotFoundError):
    """The project has no escalation with that id."""

    code = "escalation_not_found"


class MessageNotFoundError(NotFoundError):
    """The inbox has no message with that id."""

    code = "message_not_found"


class PlanNotFoundError(NotFoundError):
    """The project has no stored plan with that id."""

    code = "plan_not_found"


class SkillNotFoundError(NotFoundError):
    """There is no skill with that name."""

    code = "skill_not_found"


class WorkflowNotFoundError(NotFoundError):
    """There is no workflow with that name."""

    code = "workflow_not_found"


class PageNotFoundError(NotFoundError):
    """A server has nothing at this address."""

    code = "page_not_found"


class RunNotFoundError(NotFoundError):
    """The project has no run of a skill or of a workflow with that id."""

    code = "run_not_found"


class TokenNotFoundError(NotFoundError):
    """The project has no access token with that name or id."""

    code = "token_not_found"


# --- what stands otherwise --------------------------------------------------------------------------------------------


class ConflictError(LoomError):
    """Things do not stand as this needs them to, or somebody else was first."""

    code = "conflict"


class ProjectElsewhereError(ConflictError):
    """The project's id belongs to another place of this machine."""

    code = "project_elsewhere"


class TaskStateError(ConflictError):
    """The task is not in a status that allows this."""

    code = "task_state"


class ClaimConflictError(ConflictError):
    """Somebody else holds the task, or this claim is no longer the newest."""

    code = "claim_conflict"
    exit_code = 3


class RunLostError(ClaimConflictError):
    """Somebody else goes on with this run of a workflow or a skill now."""


class ProofMissingError(ConflictError):
    """A task is done only with checks that are not proven for this work.

    Attributes:
        checks: an object for each, with its `name`, and `why` where running it would not help.
    """

    code = "proof_missing"

    def __init__(self, cause: str, next_step: str = "", checks: Sequence[Mapping[str, Any]] = ()) -> None:
        super().__init__(cause, next_step)
        self.checks = tuple(checks)

    @property
    def facts(self) -> dict[str, Any]:
        return {"checks": [dict(one) for one in self.checks]} if self.checks else {}


class CheckFailedError(ProofMissingError):
    """A check that was run for this work is red; the claim stays.

    Attributes:
        checks: an object for each, with `name`, `exit_status`, `seconds`, and `tail`, the end of what it printed.
    """

    code = "check_failed"


class WorkflowStateError(ConflictError):
    """The run of a workflow is not where this could be done with it."""

    code = "workflow_state"


class TargetError(ConflictError):
    """The branch that work lands on does not exist, cannot be one, or was moved by somebody else."""

    code = "target"


class TargetHeldError(TargetError):
    """A checkout of the branch that work lands on does not let it move."""

    code = "target_held"


class RestoreError(ConflictError):
    """A project is not restored over what it has, nor while somebody works on it."""

    code = "restore"


class LandingError(ConflictError):
    """The work on a task cannot land as it is; its claim stays."""

    code = "landing"


class RunAnsweredError(ConflictError):
    """The run of a skill has its answer already, and it is another one."""

    code = "run_answered"


# --- what cannot be reached -------------------------------------------------------------------------------------------


class UnavailableError(LoomError):
    """Something that Loom needs is not there, does not run or does not answer."""

    code = "unavailable"


class ServersError(UnavailableError):
    """PostgreSQL or Redis cannot be started, stopped or found."""

    code = "servers"


class ServersStoppedError(ServersError):
    """The servers were stopped on purpose and are left that way."""

    code = "servers_stopped"


class DatabaseUnavailableError(UnavailableError):
    """PostgreSQL does not answer, or refuses.

    Attributes:
        began: it went away with a statement under way, which may have been carried out.
    """

    code = "database_unavailable"
    began = False


class SchemaTooNewError(UnavailableError):
    """A newer Loom has changed the database in a way that this one cannot work with."""

    code = "schema_too_new"


class SchemaTooOldError(UnavailableError):
    """The database lacks what this Loom needs, and it is not for this process to bring it."""

    code = "schema_too_old"


class ProviderError(UnavailableError):
    """The model behind a skill cannot be asked, or did not answer."""

    code = "provider"


class CommandError(UnavailableError):
    """A program that somebody else has written, such as git or a worker's command, cannot be run, or refuses."""

    code = "command"


class BusyError(UnavailableError):
    """A server has as much to do as it can hold."""

    code = "busy"


class InternalError(UnavailableError):
    """Something went wrong inside Loom; the log of who met it has the details."""

    code = "internal"


class NotFromAfarError(UnavailableError):
    """This needs the project's database, and the project is behind a server here."""

    code = "not_from_afar"

    @classmethod
    def at(cls, url: str) -> NotFromAfarError:
        """Of a project that the configuration leads to a server for."""
        return cls(
            f"This project is behind the server at {url}, where its database is.",
            Words(
                "Do it on a machine that has the database, or have an agent do it with the server's tools ({}).",
                Shell(f"loom init --remote {url}"),
            ),
        )


class FileError(UnavailableError):
    """A file cannot be written."""

    code = "file"


# --- what was given ---------------------------------------------------------------------------------------------------


class InvalidError(LoomError):
    """What was given, or stands in a file, is not in order."""

    code = "invalid"


class InvalidInputError(InvalidError):
    """An argument has the wrong type, size or form."""

    code = "invalid_input"
    exit_code = 2


class ConfigError(InvalidError):
    """A configuration file or variable cannot be used."""

    code = "config_invalid"


class TokenError(InvalidError):
    """An access token is not there, not known, over, or revoked."""

    code = "token"


class ForbiddenError(InvalidError):
    """The role of an access token is not enough for this, or a name is not its own."""

    code = "forbidden"


class DependencyCycleError(InvalidError):
    """The change would make a task wait for itself."""

    code = "dependency_cycle"


class PlanError(InvalidError):
    """A plan cannot be written as it is.

    Attributes:
        problems: all that was found wrong with it, a sentence or two each.
    """

    code = "invalid_plan"

    def __init__(self, cause: str, next_step: str = "", problems: tuple[str, ...] = ()) -> None:
        super().__init__(cause, next_step)
        self.problems = problems or (self.said,)


class ImportFormatError(InvalidError):
    """A file to import has no format that Loom reads, or is damaged."""

    code = "import_format"


class BackupError(InvalidError):
    """A file is no backup of this project, is damaged, or was made by a newer Loom; nothing was changed."""

    code = "invalid_backup"


class SkillError(InvalidError):
    """A skill's file is not in order, or its template cannot be filled in."""

    code = "invalid_skill"


class WorkflowError(InvalidError):
    """A workflow's file is not in order, or one of its steps has a value that cannot be used."""

    code = "invalid_workflow"


class AnswerError(InvalidError):
    """A model's answer is not what its skill asks for.

    Attributes:
        problems: what is wrong with it, a sentence each.
        answers: the objects that a provider has answered, the last one last, so that its work is not lost.
    """

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


# --- on its way -------------------------------------------------------------------------------------------------------


def as_data(error: LoomError) -> dict[str, Any]:
    """An error as JSON has it, with all that faces word differently: the reverse of `from_data`."""
    more = {name: value for name, value in vars(error).items() if name not in ("cause", "next_step")}
    return {
        "error": type(error).__name__,
        "cause": parts_of(error.cause),
        "next_step": parts_of(error.next_step),
        "more": {name: _sent(value) for name, value in more.items()},
    }


def from_data(data: Mapping[str, Any]) -> LoomError:
    """An error that `as_data` made JSON of; one of a kind that is not known here is a `LoomError`."""
    kind = globals().get(str(data["error"]))
    if not (isinstance(kind, type) and issubclass(kind, LoomError)):
        kind = LoomError
    error: LoomError = kind(from_parts(data["cause"]), from_parts(data["next_step"]))
    vars(error).update({name: _received(value) for name, value in data.get("more", {}).items()})
    return error


def _sent(value: Any) -> Any:
    """An attribute; texts, and those of a list, keep what faces word differently."""
    return [parts_of(one) if isinstance(one, str) else one for one in value] if isinstance(value, tuple) else value


def _received(value: Any) -> Any:
    if not isinstance(value, list):
        return value
    return tuple(one if isinstance(one, dict) else from_parts(one) for one in value)
