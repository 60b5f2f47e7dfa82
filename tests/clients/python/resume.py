"""Subscribers that lose their connection again and again, each at an address of its own, and what each has seen.

    WALCAST_URLS=http://…,http://… WALCAST_JWT_SECRET=… python resume.py

Prints SUBSCRIBED once all are, and after LAST on standard input, and once everybody has seen the row that says so, one
line of JSON for each client: the numbers of the rows in the order of their arrival, and null for each SUBSCRIBED."""

import asyncio
import base64
import hashlib
import hmac
import json
import logging
import sys
import time

from realtime import AsyncRealtimeClient, RealtimePostgresChangesListenEvent, RealtimeSubscribeStates

from promise import required_environment

logging.disable(logging.CRITICAL)
_secret = required_environment("WALCAST_JWT_SECRET")


def token_of(subject: str) -> str:
    def encode(data: bytes) -> bytes:
        return base64.urlsafe_b64encode(data).rstrip(b"=")

    claims = {"role": "authenticated", "sub": subject, "exp": int(time.time()) + 3600}
    signed = encode(b'{"alg":"HS256","typ":"JWT"}') + b"." + encode(json.dumps(claims).encode())
    return (signed + b"." + encode(hmac.digest(_secret.encode(), signed, hashlib.sha256))).decode()


class Subscriber:
    def __init__(self, url: str, index: int) -> None:
        self.index = index
        self.seen: list[int | None] = []
        self.told: list[str] = []
        self.finished = asyncio.Event()
        self.client = AsyncRealtimeClient(f"{url}/realtime/v1", token_of(f"python-{index}"), initial_backoff=0.1)

    async def subscribe(self) -> None:
        channel = self.client.channel("stream")
        channel.on_postgres_changes(
            RealtimePostgresChangesListenEvent.Insert, self._row, table="stream", schema="public"
        )
        channel.on_system(self._system)
        await channel.subscribe(self._state)

    def _row(self, payload: dict) -> None:
        record = payload["data"]["record"]
        self.seen.append(int(record["seq"]))
        if record["body"] == "last":
            self.finished.set()

    def _system(self, payload) -> None:
        text = str(payload)
        if "resume" in text:
            self.told.append(text)

    def _state(self, state: RealtimeSubscribeStates, error: Exception | None) -> None:
        if state == RealtimeSubscribeStates.SUBSCRIBED:
            self.seen.append(None)


async def main() -> None:
    urls = required_environment("WALCAST_URLS").split(",")
    subscribers = [Subscriber(url, index) for index, url in enumerate(urls)]
    await asyncio.gather(*(subscriber.subscribe() for subscriber in subscribers))
    print("SUBSCRIBED", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    try:
        await asyncio.wait_for(asyncio.gather(*(subscriber.finished.wait() for subscriber in subscribers)), 60)
    except TimeoutError:
        pass
    for subscriber in subscribers:
        report = {"index": subscriber.index, "seen": subscriber.seen, "told": subscriber.told}
        print(json.dumps(report), flush=True)


asyncio.run(main())
