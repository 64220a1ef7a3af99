"""A project in a repository, with work that waits to be landed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from loom.config import CheckConfig, LandingConfig, LoomConfig
from loom.graph.front import Loom
from loom.graph.model.task import Task
from loom.graph.rules import landings as rules
from loom.graph.rules.holding import Holder
from loom.graph.store import landings
from loom.graph.store.landings import Landing
from loom.landing import refs
from loom.landing.lander import Lander
from loom.landing.proving import Prover
from loom.landing.target import OWN
from loom.landing.worktrees import Worktrees
from tests.landing.place import Place

# Red where a file is called `bad`, or where `x` and `y` came together.
UNIT = CheckConfig(("sh", "-c", "echo looked; ! test -e bad && ! test -e x -a -e y"))


def configured(config: LoomConfig, place: Place, **landing: Any) -> LoomConfig:
    """With a check that everything needs."""
    checks = {"unit": UNIT, "other": CheckConfig(("sh", "-c", "! test -e worse"))}
    return replace(
        config, project_dir=place.top, checks=checks, landing=LandingConfig(**{"checks": ("unit",), **landing})
    )


@dataclass
class Yard:
    """What a test lands in."""

    loom: Loom
    place: Place
    bench: Place  # where branches are made, apart from the checkout
    worktrees: Worktrees
    prover: Prover
    target: str = OWN

    async def lander(self, kind: type[Lander] = Lander) -> Lander:
        return await kind.of(self.loom, self.worktrees, self.prover)

    async def queued(
        self,
        files: dict[str, str],
        title: str = "Work",
        *,
        at: str | None = None,
        checks: tuple[str, ...] = (),
        **entered: Any,
    ) -> Task:
        """A task whose branch with these files is in the queue."""
        at = at or await self.tip()
        made = await self.loom.create(title)
        if checks:
            await self.loom.look(
                lambda connection: connection.execute(
                    "update tasks set checks = $2 where id = $1", made.id, list(checks)
                )
            )
        claim = await self.loom.claim(made.id, agent_id=f"ann-{made.id[-4:]}")
        assert claim is not None
        task = claim.task
        branch = f"loom/{task.id}"
        self.bench.git("checkout", "-q", "--detach", at)
        commit = self.bench.commit(title, files)
        self.place.git("update-ref", f"refs/heads/{branch}", commit)
        holder = Holder(task.assignee or "", task.claim_token)
        await self.loom.transact(lambda tx: rules.begin(tx, task.id, holder, target=self.target, branch=branch))
        await self.loom.transact(
            lambda tx: rules.enter(
                tx, task.id, task.claim_token, commit_id=commit, base=at, output={"by": title}, **entered
            )
        )
        return task

    async def proven(self, task: Task) -> None:
        """As its worker has done before."""
        landing = await self.landing(task)
        assert landing.commit_id is not None
        await self.prover.prove(landing.commit_id, self.checks("unit"), agent="w", task_id=task.id, token=landing.token)

    def checks(self, *names: str) -> list[Any]:
        from loom.landing.checks import in_force

        return [in_force(self.loom.config)[name] for name in names]

    async def tip(self) -> str:
        """Where the target stands."""
        return await (await self.lander()).tip()

    async def landing(self, task: Task) -> Landing:
        found = await self.loom.look(lambda connection: landings.of_task(connection, self.loom.project_id, task.id))
        assert found is not None
        return found

    async def status(self, task: Task) -> str:
        return (await self.loom.get(task.id)).task.status.value

    async def runs(self) -> int:
        """How often checks were run so far."""
        return int(
            await self.loom.look(
                lambda connection: connection.fetchval(
                    "select count(*) from proofs where project_id = $1", self.loom.project_id
                )
            )
        )

    def landed(self, target: str | None = None, since: str = "") -> list[list[str]]:
        """The tasks that each first-parent commit of the target names, oldest first."""
        listed = self.place.git(
            "log", "--first-parent", "--reverse", "--format=%H %(trailers:key=Loom-Task,valueonly,separator=%x20)",
            *([f"{since}..{target or self.target}"] if since else [target or self.target]),
        )  # fmt: skip
        return [line.split(" ")[1:] for line in listed.splitlines() if len(line.split(" ")) > 1 and line.split(" ")[1]]

    def held(self) -> str:
        """The refs of Loom's own, but for where projects have brought the branch."""
        listed = self.place.git("for-each-ref", "refs/loom").splitlines()
        return "\n".join(line for line in listed if refs.TIPS not in line)
