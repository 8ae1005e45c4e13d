"""The records of the audit log: which client requested which operation, and which scope that needs; never content."""

from __future__ import annotations

import logging

from chatapi.auth.policy import Operation
from chatapi.auth.scopes import KeyHolder
from chatapi.observability.logs import AUDIT

ANONYMOUS = KeyHolder("-", ())
"""The holder in the records of a client without a valid key."""

_log = logging.getLogger(AUDIT)


def record(
    kind: str, holder: KeyHolder, wanted: Operation, peer: str, seconds: float, **more: str | int | float
) -> None:
    """Write a record. `peer`: the client's address; `more`: further fields.

    The route is that of the policy, never the path of the request, which may name a conversation.
    """
    fields = {"key": holder.name, "scope": wanted.needs, "peer": peer, "route": wanted.route, **more}
    _log.info(kind, extra={**fields, "seconds": round(seconds, 4)})
