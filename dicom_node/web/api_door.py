"""Who calls the API: a person by a key of theirs; and the body of a request, read after that."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import anyio
from anyio.to_thread import run_sync
from fastapi import Depends, Request
from starlette.exceptions import HTTPException

from dicom_node.settings import Role
from dicom_node.store.ledger import Ledger
from dicom_node.store.ledger.api_keys import HEAD
from dicom_node.web.brake import DECAY_S, Brake
from dicom_node.web.sessions import Door, Person, from_our_page

MOST_DEEP = 8
"""Tables within each other in a body; no peer and no rule has more than three."""

_UNKNOWN_KEY = "API key"


class ApiDoor:
    """Knows people by a key of theirs; where nobody signs in, everybody on this machine.

    Parameters
    ----------
    door : Door
    ledger : Ledger
    brake : Brake
    """

    def __init__(self, door: Door, ledger: Ledger, brake: Brake) -> None:
        self._door = door
        self._keys = ledger.api_keys
        self._brake = brake

    def needs(self, role: Role) -> Callable[[Request], Any]:
        """Return the dependency of what people with this role may do."""

        async def needed(request: Request) -> Person:
            person = await self._find_person(request)
            if not person.may(role):
                raise HTTPException(403, f"this needs the role {role}; the key's is {person.role}")
            return person

        return needed

    async def _find_person(self, request: Request) -> Person:
        kind, _, key = request.headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and key.startswith(HEAD):
            found = await run_sync(self._key_holder, key.strip())
            if found is not None:
                return found
            address = self._door.address(request)
            await anyio.sleep(self._brake.pause(address))
            if not self._brake.take(_UNKNOWN_KEY, address):
                wait = {"Retry-After": f"{DECAY_S:.0f}"}
                raise HTTPException(429, f"too many unknown keys; wait {DECAY_S:.0f} s", wait)
        elif not self._door.has_sign_in:
            from_our_page(request)
            person = await run_sync(self._door.person, request)
            if person is not None:
                return person
        raise HTTPException(
            401, "send a key of yours as bearer token", {"WWW-Authenticate": "Bearer"}
        )

    def _key_holder(self, key: str) -> Person | None:
        """Return whose key this is, with the role that they have now."""
        found = self._keys.find(key)
        return None if found is None else self._door.user_named(found.user_name)


async def _read_body(request: Request) -> dict[str, Any]:
    """Return the table of a body; it is read when it is known who sends it."""
    try:
        content = json.loads(await request.body(), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as exc:
        raise HTTPException(422, "the body is not JSON") from exc
    if not isinstance(content, dict) or _nesting_depth(content) > MOST_DEEP:
        raise HTTPException(422, 'the body is not a table: write { "key": value }')
    return content


TABLE = Depends(_read_body)


def _refuse_constant(word: str) -> None:
    raise ValueError(word)


def _nesting_depth(value: Any) -> int:
    depth, layer = 0, [value]
    while layer and depth <= MOST_DEEP:
        depth += 1
        inner: list[Any] = []
        for item in layer:
            inner += (
                item.values() if isinstance(item, dict) else item if isinstance(item, list) else ()
            )
        layer = [item for item in inner if isinstance(item, dict | list)]
    return depth
