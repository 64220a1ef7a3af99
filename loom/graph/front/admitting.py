"""Who may come in over HTTP."""

from __future__ import annotations

from collections.abc import Collection

from loom.bus.publisher import publish_revocation
from loom.config.inside import refuse_inside
from loom.exceptions import TokenNotFoundError
from loom.graph.front.seat import Seat
from loom.graph.model import limits
from loom.graph.model.principals import Role
from loom.graph.store import entries, tokens
from loom.graph.store.tokens import AccessToken, NewToken
from loom.graph.store.transaction import Transaction
from loom.texts import quote
from loom.wording import Shell, Words


class Admitting(Seat):
    """What a front offers to whoever lets others in."""

    async def add_token(self, name: str, role: str, *, seconds: float | None = None) -> NewToken:
        """Makes an access token: whoever has it calls himself `name`, or `name/` and something more.

        Args:
            role: reader, worker, planner or admin.
            seconds: how long it holds; None: until it is revoked.

        Raises InvalidInputError.
        """
        refuse_inside("Who may come in")
        chosen, by = Role.named(role), self.agent
        given = limits.token_name(name)
        span = None if seconds is None else limits.seconds(seconds, "expires", 60, limits.SPAN_SECONDS)
        return await self._at_once(
            lambda tx: tokens.add(tx.connection, tx.project_id, given, chosen, seconds=span, by=by)
        )

    async def tokens(self) -> list[AccessToken]:
        """The access tokens of the project, oldest first, also those that are over."""
        return await self.look(lambda connection: tokens.listed(connection, self.project_id))

    async def revoke_tokens(self, which: str) -> list[AccessToken]:
        """Ends the access tokens that have this name or id, at once and everywhere. Returns those that were not revoked
        before.

        Raises TokenNotFoundError: there has never been one.
        """
        refuse_inside("Who may come in")
        wanted = which[: limits.LOOKUP_CHARACTERS]

        async def work(tx: Transaction) -> list[AccessToken]:
            revoked = await tokens.revoke(tx.connection, tx.project_id, wanted)
            if revoked:
                tx.announce(publish_revocation(tx.project_id))
            elif not any(wanted in (one.id, one.name) for one in await tokens.listed(tx.connection, tx.project_id)):
                raise TokenNotFoundError(
                    f"No access token of this project is called {quote(which)}.",
                    Words("{} has their names and ids.", Shell("loom token list")),
                )
            return revoked

        return await self._at_once(work)

    async def admitted(self, secret: str, client: str) -> AccessToken | None:
        """The access token, of whichever project of this database, that somebody shows, where it holds now."""
        return await self._aside(lambda connection: tokens.admitted(connection, secret, client))

    async def still_admitted(self, given: Collection[AccessToken]) -> set[str]:
        """The ids of those of these access tokens that still hold."""
        return await self.look(lambda connection: tokens.holding(connection, given))

    async def entry_code(self, token: AccessToken) -> str:
        """A code that lets a browser in once, within a minute, as who has this access token."""
        return await self._at_once(lambda tx: entries.code(tx.connection, token))

    async def enter(self, code: str) -> str | None:
        """The cookie that a code is changed for; None where it was used, is too old, or none."""
        return await self._at_once(lambda tx: entries.enter(tx.connection, code))

    async def visitor(self, cookie: str) -> AccessToken | None:
        """The access token that a browser's cookie stands for, where both hold now."""
        return await self._aside(lambda connection: entries.visitor(connection, cookie))
