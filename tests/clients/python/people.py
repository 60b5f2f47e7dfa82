"""Two people with tokens of their own, the clients they speak through, and the database they write to."""

import base64
import hashlib
import hmac
import json
import time
import uuid
from dataclasses import dataclass, field

import psycopg
from realtime import AsyncRealtimeClient

from promise import required_environment

_url = required_environment("WALCAST_URL")
_secret = required_environment("WALCAST_JWT_SECRET")


@dataclass(frozen=True)
class Person:
    name: str
    id: str = field(default_factory=lambda: str(uuid.uuid4()))


ANA = Person("ana")
BRUNO = Person("bruno")


def token_of(person: Person, seconds_to_live: int = 3600, **more: str) -> str:
    """An HS256 token of the role `authenticated` for one person, unless the claims say otherwise."""

    def encode(data: bytes) -> bytes:
        return base64.urlsafe_b64encode(data).rstrip(b"=")

    now = int(time.time())
    claims = {"role": "authenticated", "sub": person.id, "iat": now, "exp": now + seconds_to_live, **more}
    signed = encode(b'{"alg":"HS256","typ":"JWT"}') + b"." + encode(json.dumps(claims).encode())
    return (signed + b"." + encode(hmac.digest(_secret.encode(), signed, hashlib.sha256))).decode()


_clients: list[AsyncRealtimeClient] = []


def client_of(person: Person, token: str | None = None) -> AsyncRealtimeClient:
    """A stock client that speaks as `person`."""
    client = AsyncRealtimeClient(f"{_url}/realtime/v1", token or token_of(person))
    _clients.append(client)
    return client


async def close_clients() -> None:
    for client in _clients:
        await client.close()


async def connect_database() -> psycopg.AsyncConnection:
    return await psycopg.AsyncConnection.connect(required_environment("DATABASE_URL"), autocommit=True)


async def insert_notes(database: psycopg.AsyncConnection, notes: list[tuple[Person, str, str, int]]) -> list[int]:
    """Inserts `(owner, room, body, number)` in one transaction, in the given order, and returns the ids."""
    ids = []
    async with database.transaction():
        for owner, room, body, number in notes:
            cursor = await database.execute(
                "insert into checks.notes (owner, room, body, number) values (%s, %s, %s, %s) returning id",
                (owner.id, room, body, number),
            )
            ids.append((await cursor.fetchone())[0])
    return ids
