"""Loom: one durable, dependency-aware task graph for many AI coding agents.

    from loom import Loom, TaskNotFoundError

Everything that is meant for use from outside is here: the front, what it takes and gives back, the configuration, and
every error with the words that it is told in. Other modules may move.
"""

from __future__ import annotations

TYPE_CHECKING = False  # as the one of `typing`, whose import takes longer than all of this
if TYPE_CHECKING:
    from loom.bus.events import Event, EventType, Position
    from loom.config import (
        CheckConfig,
        DatabaseConfig,
        LandingConfig,
        LoomConfig,
        McpConfig,
        OrchestrationConfig,
        ReceiverConfig,
        RedisConfig,
        RetentionConfig,
        ServerConfig,
        ServersConfig,
        SetupConfig,
        SkillsConfig,
        WorkConfig,
        load_config,
    )
    from loom.exceptions import (
        AnswerError,
        BackupError,
        BusyError,
        CheckFailedError,
        ClaimConflictError,
        CommandError,
        ConfigError,
        ConflictError,
        DatabaseUnavailableError,
        DependencyCycleError,
        EscalationNotFoundError,
        FileError,
        ForbiddenError,
        ImportFormatError,
        InternalError,
        InvalidError,
        InvalidInputError,
        LandingError,
        LoomError,
        MessageNotFoundError,
        NotFoundError,
        NotFromAfarError,
        PageNotFoundError,
        PlanError,
        PlanNotFoundError,
        ProjectElsewhereError,
        ProjectNotFoundError,
        ProofMissingError,
        ProviderError,
        RestoreError,
        RunAnsweredError,
        RunLostError,
        RunNotFoundError,
        SchemaTooNewError,
        SchemaTooOldError,
        ServersError,
        ServersStoppedError,
        SkillError,
        SkillNotFoundError,
        TargetError,
        TargetHeldError,
        TaskNotFoundError,
        TaskStateError,
        TokenError,
        TokenNotFoundError,
        UnavailableError,
        WorkflowError,
        WorkflowNotFoundError,
        WorkflowStateError,
    )
    from loom.graph.cache.waiting import Waited
    from loom.graph.connections import Connections
    from loom.graph.front import Loom
    from loom.graph.importing import Adjustment, AdjustmentKind, Batch
    from loom.graph.importing import read as read_batch
    from loom.graph.importing.writing import Imported
    from loom.graph.model.filters import Filter, Span
    from loom.graph.model.notes import Note
    from loom.graph.model.principals import Principal, Role
    from loom.graph.model.task import Listed, Priority, Task, TaskStatus
    from loom.graph.model.verdict import Verdict
    from loom.graph.overview import Glance
    from loom.graph.project import ProjectStatus
    from loom.graph.rules.claims import Outcome, Renewal, Swept
    from loom.graph.rules.proofs import Proven
    from loom.graph.store.blockers import Blocker
    from loom.graph.store.claiming import Claim
    from loom.graph.store.escalations import Escalation, EscalationKind
    from loom.graph.store.glance import Ask, EpicProgress, Estimate, Need, Phase, Progress
    from loom.graph.store.graphs import GraphView, Outline
    from loom.graph.store.landing_targets import RecordedTarget
    from loom.graph.store.landing_views import LandingLease, LandingTally, LandingView, ShownLanding
    from loom.graph.store.landings import Landing, LandingState
    from loom.graph.store.listing import Found
    from loom.graph.store.messages import Inbox, Message
    from loom.graph.store.projects import Project
    from loom.graph.store.proofs import Proof
    from loom.graph.store.reading import AgentView, DeadLetter, Detail, Neighbour, Page
    from loom.graph.store.stats import Figures, Stats
    from loom.graph.store.sticking import Cause, Root
    from loom.graph.store.tokens import AccessToken, NewToken
    from loom.wording import Call, Words

__all__ = [
    "AccessToken",
    "Adjustment",
    "AdjustmentKind",
    "AgentView",
    "AnswerError",
    "Ask",
    "BackupError",
    "Batch",
    "Blocker",
    "BusyError",
    "Call",
    "Cause",
    "CheckConfig",
    "CheckFailedError",
    "Claim",
    "ClaimConflictError",
    "CommandError",
    "ConfigError",
    "ConflictError",
    "Connections",
    "DatabaseConfig",
    "DatabaseUnavailableError",
    "DeadLetter",
    "DependencyCycleError",
    "Detail",
    "EpicProgress",
    "Escalation",
    "EscalationKind",
    "EscalationNotFoundError",
    "Estimate",
    "Event",
    "EventType",
    "Figures",
    "FileError",
    "Filter",
    "ForbiddenError",
    "Found",
    "Glance",
    "GraphView",
    "ImportFormatError",
    "Imported",
    "Inbox",
    "InternalError",
    "InvalidError",
    "InvalidInputError",
    "Landing",
    "LandingConfig",
    "LandingError",
    "LandingLease",
    "LandingState",
    "LandingTally",
    "LandingView",
    "Listed",
    "Loom",
    "LoomConfig",
    "LoomError",
    "McpConfig",
    "Message",
    "MessageNotFoundError",
    "Need",
    "Neighbour",
    "NewToken",
    "NotFoundError",
    "NotFromAfarError",
    "Note",
    "OrchestrationConfig",
    "Outcome",
    "Outline",
    "Page",
    "PageNotFoundError",
    "Phase",
    "PlanError",
    "PlanNotFoundError",
    "Position",
    "Principal",
    "Priority",
    "Progress",
    "Project",
    "ProjectElsewhereError",
    "ProjectNotFoundError",
    "ProjectStatus",
    "Proof",
    "ProofMissingError",
    "Proven",
    "ProviderError",
    "ReceiverConfig",
    "RecordedTarget",
    "RedisConfig",
    "Renewal",
    "RestoreError",
    "RetentionConfig",
    "Role",
    "Root",
    "RunAnsweredError",
    "RunLostError",
    "RunNotFoundError",
    "SchemaTooNewError",
    "SchemaTooOldError",
    "ServerConfig",
    "ServersConfig",
    "ServersError",
    "ServersStoppedError",
    "SetupConfig",
    "ShownLanding",
    "SkillError",
    "SkillNotFoundError",
    "SkillsConfig",
    "Span",
    "Stats",
    "Swept",
    "TargetError",
    "TargetHeldError",
    "Task",
    "TaskNotFoundError",
    "TaskStateError",
    "TaskStatus",
    "TokenError",
    "TokenNotFoundError",
    "UnavailableError",
    "Verdict",
    "Waited",
    "Words",
    "WorkConfig",
    "WorkflowError",
    "WorkflowNotFoundError",
    "WorkflowStateError",
    "load_config",
    "read_batch",
]

# Each is imported when it is asked for; those that are not here are errors.
_PLACES = {
    "AccessToken": "graph.store.tokens",
    "Adjustment": "graph.importing",
    "AdjustmentKind": "graph.importing",
    "AgentView": "graph.store.reading",
    "Ask": "graph.store.glance",
    "Batch": "graph.importing",
    "Blocker": "graph.store.blockers",
    "Call": "wording",
    "Cause": "graph.store.sticking",
    "CheckConfig": "config",
    "Claim": "graph.store.claiming",
    "Connections": "graph.connections",
    "DatabaseConfig": "config",
    "DeadLetter": "graph.store.reading",
    "Detail": "graph.store.reading",
    "EpicProgress": "graph.store.glance",
    "Escalation": "graph.store.escalations",
    "EscalationKind": "graph.store.escalations",
    "Estimate": "graph.store.glance",
    "Event": "bus.events",
    "EventType": "bus.events",
    "Figures": "graph.store.stats",
    "Filter": "graph.model.filters",
    "Found": "graph.store.listing",
    "Glance": "graph.overview",
    "GraphView": "graph.store.graphs",
    "Imported": "graph.importing.writing",
    "Inbox": "graph.store.messages",
    "Landing": "graph.store.landings",
    "LandingConfig": "config",
    "LandingLease": "graph.store.landing_views",
    "LandingState": "graph.store.landings",
    "LandingTally": "graph.store.landing_views",
    "LandingView": "graph.store.landing_views",
    "Listed": "graph.model.task",
    "Loom": "graph.front",
    "LoomConfig": "config",
    "McpConfig": "config",
    "Message": "graph.store.messages",
    "Note": "graph.model.notes",
    "Need": "graph.store.glance",
    "Neighbour": "graph.store.reading",
    "NewToken": "graph.store.tokens",
    "OrchestrationConfig": "config",
    "Outcome": "graph.rules.claims",
    "Outline": "graph.store.graphs",
    "Page": "graph.store.reading",
    "Phase": "graph.store.glance",
    "Position": "bus.events",
    "Principal": "graph.model.principals",
    "Priority": "graph.model.task",
    "Progress": "graph.store.glance",
    "Project": "graph.store.projects",
    "ProjectStatus": "graph.project",
    "Proof": "graph.store.proofs",
    "Proven": "graph.rules.proofs",
    "ReceiverConfig": "config",
    "RecordedTarget": "graph.store.landing_targets",
    "RedisConfig": "config",
    "Renewal": "graph.rules.claims",
    "RetentionConfig": "config",
    "Role": "graph.model.principals",
    "Root": "graph.store.sticking",
    "ServerConfig": "config",
    "ServersConfig": "config",
    "SetupConfig": "config",
    "ShownLanding": "graph.store.landing_views",
    "SkillsConfig": "config",
    "Span": "graph.model.filters",
    "Stats": "graph.store.stats",
    "Swept": "graph.rules.claims",
    "Task": "graph.model.task",
    "TaskStatus": "graph.model.task",
    "Verdict": "graph.model.verdict",
    "Waited": "graph.cache.waiting",
    "Words": "wording",
    "WorkConfig": "config",
    "load_config": "config",
    "read_batch": "graph.importing:read",
}


if not TYPE_CHECKING:  # for a type checker a name that is not above is a mistake

    def __getattr__(name: str) -> object:
        if name not in __all__:
            raise AttributeError(f"module 'loom' has no attribute {name!r}")
        from importlib import import_module

        module, _, attribute = _PLACES.get(name, "exceptions").partition(":")
        return getattr(import_module(f"loom.{module}"), attribute or name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
