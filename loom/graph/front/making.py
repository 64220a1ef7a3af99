"""Making tasks, and changing what they say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from loom import ids
from loom.db import connection as db
from loom.exceptions import InvalidInputError
from loom.graph import project, store
from loom.graph.front.seat import Seat
from loom.graph.model import limits
from loom.graph.model.task import Task, TaskStatus
from loom.graph.rules import cancelling, creating, editing
from loom.graph.rules.claims import Outcome
from loom.graph.rules.holding import Holder
from loom.graph.store import messages
from loom.graph.store.transaction import Transaction
from loom.wording import Argument, Words

if TYPE_CHECKING:
    from loom.graph.importing import Batch
    from loom.graph.importing.writing import Imported


class Making(Seat):
    """What a front offers to whoever makes and changes tasks."""

    async def create(
        self,
        title: str,
        *,
        context: Mapping[str, Any] | None = None,
        depends_on: Sequence[str] = (),
        priority: str = "p1",
        parent_id: str | None = None,
        done_when: str | None = None,
        epic: bool = False,
        files: Sequence[str] = (),
        checks: Sequence[str] = (),
        labels: Sequence[str] = (),
        key: str | None = None,
        agent_id: str | None = None,
    ) -> Task:
        """Creates one task; it is ready at once unless it has open dependencies or waits with its parent.

        Args:
            files: the paths that it is about, relative to the repository's root.
            checks: the names of the checks that it is done only with; an epic hands them down to its children.
            labels: words that it is found by.
            key: an idempotency key: the same again makes nothing and returns the same task, as it is then.

        Raises InvalidInputError, TaskNotFoundError, TaskStateError, DependencyCycleError.
        """
        task = store.NewTask(
            id=ids.task_id(),
            title=limits.title(title),
            status=TaskStatus.EPIC if epic else TaskStatus.PENDING,
            priority=limits.priority(priority),
            max_attempts=self._policy.max_attempts,
            parent_id=None if parent_id is None else await self.id_of(parent_id, "parent_id"),
            context=limits.context(context),
            done_when=limits.done_when(done_when),
            depends_on=limits.depends_on(await self._ids_of(depends_on)),
            files=limits.files(files),
            checks=limits.checks(checks),
            labels=limits.labels(labels),
            origin_id=None if key is None else f"key/{limits.key(key)}",
        )
        agent = self._session.name(agent_id)
        if not self.may("create.anywhere"):
            return await self._commit(lambda tx: self._create_below(tx, task, agent))
        if task.depends_on or task.parent_id or task.origin_id:
            return await self._commit(lambda tx: creating.create(tx, task, agent))
        return await self._at_once(lambda tx: creating.create_alone(tx, task, agent))

    async def _create_below(self, tx: Transaction, task: store.NewTask, agent: str) -> Task:
        assert self.principal is not None, "whoever is none may create anywhere"
        await creating.must_be_below(tx, task, self.principal)
        return await creating.create(tx, task, agent)

    async def apply_plan(self, given: object, *, key: str | None = None, agent_id: str | None = None) -> list[Task]:
        """Creates all tasks of a plan `{"tasks": [...]}` or none.

        Args:
            key: an idempotency key: of the same plan again only those tasks are made that were added to it, and those
                that there are already are returned as they are then.

        Raises PlanError, InvalidInputError, TaskNotFoundError, TaskStateError, DependencyCycleError.
        """
        from loom.graph.model import plan
        from loom.graph.rules import plans

        drafts, agent = plan.parse(given), self._session.name(agent_id)
        if key is not None:
            prefix = f"key/{limits.key(key)}"
            drafts = [
                replace(draft, origin_id=f"{prefix}#{digest}")
                for draft, digest in zip(drafts, plan.identities(drafts), strict=True)
            ]
        return await self.transact(lambda tx: plans.plant_once(tx, drafts, agent=agent, max_attempts=self.max_attempts))

    async def import_tasks(self, batch: Batch, *, agent_id: str | None = None) -> Imported:
        """Creates what an import brought and the project has not had before; leaves everything else alone."""
        from loom.graph.importing import items, writing

        if self.principal is not None:  # who reads a file in this process has made its values fit
            items.must_fit(batch.drafts)
        agent = self._session.name(agent_id)
        return await self.transact(lambda tx: writing.write(tx, batch, agent=agent, max_attempts=self.max_attempts))

    async def export(self) -> dict[str, Any]:
        """The whole project as Loom's own import reads it."""
        from loom.graph.importing import native

        async def whole(connection: db.Connection) -> dict[str, Any]:
            shown = await project.get_project(connection, self.project_id)
            tasks = [task async for some in store.list_all_tasks(connection, self.project_id, 500) for task in some]
            waived = await store.waived_edges(connection, self.project_id)
            held = await store.escalations.holding(connection, self.project_id)
            notes = await messages.notes_of(connection, self.project_id, None)
            return native.export(shown.id, shown.name, tasks, waived, held, notes)

        return await self._links.read(whole, snapshot=True)

    async def update(
        self,
        task_id: str,
        *,
        title: str | None = None,
        context: Mapping[str, Any] | None = None,
        priority: str | None = None,
        depends_on: Sequence[str] | None = None,
        done_when: str | None = None,
        files: Sequence[str] = (),
        checks: Sequence[str] = (),
        no_files: bool = False,
        no_checks: bool = False,
        labels: Sequence[str] = (),
        unlabel: Sequence[str] = (),
        add_deps: Sequence[str] = (),
        drop_deps: Sequence[str] = (),
        parent_id: str | None = None,
        seen: Mapping[str, Any] | None = None,
        agent_id: str | None = None,
        token: int | None = None,
    ) -> Outcome:
        """Changes an unfinished task. `context` and `depends_on` replace what was there; `done_when` "" removes it.

        Args:
            parent_id: the epic that it is moved into; "" takes it out of the one that it is in.
            seen: fields of the task as they were when the change was decided on; it is refused where somebody else has
                changed one since.
            files, checks: added to those that it has, which `no_files` and `no_checks` take away first. Whoever holds
                the task, or is inside of a run that Loom started, takes none away and adds no path that a check
                protects.
            token: of the claim that the change is made under; one that is lost changes nothing.

        Raises InvalidInputError, TaskNotFoundError, TaskStateError, ClaimConflictError, DependencyCycleError.
        """
        edit = editing.Edit(
            title=None if title is None else limits.title(title),
            context=None if context is None else limits.context(context),
            priority=None if priority is None else limits.priority(priority),
            depends_on=None if depends_on is None else limits.depends_on(await self._ids_of(depends_on)),
            done_when="" if done_when == "" else limits.done_when(done_when),
            files=limits.files(files),
            checks=limits.checks(checks),
            no_files=no_files,
            no_checks=no_checks,
            labels=limits.labels(labels),
            unlabel=limits.labels(unlabel, "unlabel"),
            add_deps=limits.depends_on(await self._ids_of(add_deps)),
            drop_deps=limits.depends_on(await self._ids_of(drop_deps)),
            parent_id=await self.id_of(parent_id, "parent_id") if parent_id else parent_id,
            seen=editing.fields_seen(seen),
        )
        if edit == editing.Edit():
            raise InvalidInputError(
                "Nothing to change was given.",
                Words(
                    "Pass {}, {}, {}, {}, {}, {}, {}, {} or {}.",
                    Argument("title"),
                    Argument("context"),
                    Argument("priority"),
                    Argument("depends_on"),
                    Argument("done_when"),
                    Argument("files"),
                    Argument("checks"),
                    Argument("labels"),
                    Argument("parent_id"),
                ),
            )
        if not edit.only_adds:
            await self.permit("update.anything")
        task_id = await self.id_of(task_id)
        holder = self._session.holder(task_id, agent_id, token) if edit.binds or token is not None else None
        holder = holder or Holder(self._session.name(agent_id))
        return await self._commit(lambda tx: editing.update(tx, task_id, edit, holder))

    async def cancel(
        self, task_id: str, *, reason: str | None = None, downstream: bool = False, agent_id: str | None = None
    ) -> Outcome:
        """Cancels an unfinished task, all that is unfinished in an epic, and with `downstream` what waits for it.

        Raises InvalidInputError, TaskNotFoundError, TaskStateError.
        """
        task_id, agent = await self.id_of(task_id), self._session.name(agent_id)
        why = None if reason is None else limits.reason(reason)
        return await self._commit(lambda tx: cancelling.cancel(tx, task_id, why, agent, downstream=downstream))
