"""Who may come in over HTTP."""

from __future__ import annotations

from loom.config.inside import refuse_inside
from loom.graph.front.seat import Seat
from loom.graph.model import limits
from loom.graph.model.principals import Role
from loom.graph.store import tokens
from loom.graph.store.tokens import AccessToken, NewToken

_LONGEST_NAME = 500  # characters of a name that is looked up
_OLDEST = 100 * 365 * 86400.0


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
        span = None if seconds is None else limits.seconds(seconds, "expires", 60, _OLDEST)
        return await self._at_once(
            lambda tx: tokens.add(tx.connection, tx.project_id, given, chosen, seconds=span, by=by)
        )

    async def tokens(self) -> list[AccessToken]:
        """The access tokens of the project, oldest first, also those that are over."""
        return await self.look(lambda connection: tokens.listed(connection, self.project_id))

    async def revoke_tokens(self, which: str) -> list[AccessToken]:
        """Ends the access tokens that have this name or id, at once and everywhere. Returns those that held."""
        refuse_inside("Who may come in")
        return await self._at_once(lambda tx: tokens.revoke(tx.connection, tx.project_id, which[:_LONGEST_NAME]))

    async def admitted(self, secret: str, client: str) -> AccessToken | None:
        """The access token, of whichever project of this database, that somebody shows, where it holds now."""
        return await self.look(lambda connection: tokens.admitted(connection, secret, client))

    async def still_admitted(self, token: AccessToken) -> bool:
        """Whether an access token still holds."""
        return await self.look(lambda connection: tokens.holds(connection, token.project_id, token.id))
