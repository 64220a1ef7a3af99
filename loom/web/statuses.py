"""Which status of HTTP tells of an error, on a page and in JSON alike."""

from __future__ import annotations

from loom.exceptions import ConflictError, ForbiddenError, LoomError, NotFoundError, TokenError, UnavailableError

_STATUS: tuple[tuple[type[LoomError], int], ...] = (
    (TokenError, 401),
    (ForbiddenError, 403),
    (NotFoundError, 404),
    (ConflictError, 409),
    (UnavailableError, 503),
)
_INVALID = 422


def status_of(error: LoomError) -> int:
    """The status that tells of an error."""
    return next((status for kind, status in _STATUS if isinstance(error, kind)), _INVALID)
