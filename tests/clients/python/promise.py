"""What the checks are written with: one TAP line per promise, a deadline on every wait, and a queue that is awaited
instead of slept for."""

import asyncio
import os
import sys
import traceback
from collections.abc import Awaitable, Callable
from typing import Any

DEADLINE_SECONDS = 20

_count = 0
_failures = 0


async def promise(sentence: str, body: Callable[[], Awaitable[None]]) -> None:
    """Runs one promise and prints its TAP line. A failure is reported and the run goes on."""
    global _count, _failures
    _count += 1
    try:
        await asyncio.wait_for(body(), 90)
        print(f"ok {_count} - {sentence}", flush=True)
    except Exception:
        _failures += 1
        print(f"not ok {_count} - {sentence}", flush=True)
        for line in traceback.format_exc().splitlines():
            print(f"  # {line}", flush=True)


def finish() -> None:
    """Prints the plan and ends the process: 0 when every promise was kept."""
    print(f"1..{_count}", flush=True)
    sys.exit(0 if _failures == 0 else 1)


class Inbox:
    """What happened, in order. `next` waits for the first event that fits and forgets it and all before it."""

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self._taken = 0
        self._news = asyncio.Event()

    def push(self, event: Any) -> None:
        self.seen.append(event)
        self._news.set()

    async def next(self, description: str, fits: Callable[[Any], bool] = lambda _: True) -> Any:
        try:
            return await asyncio.wait_for(self._next(fits), DEADLINE_SECONDS)
        except TimeoutError:
            raise AssertionError(f"waited {DEADLINE_SECONDS} s for: {description}; so far: {self.seen}") from None

    async def _next(self, fits: Callable[[Any], bool]) -> Any:
        while True:
            for index in range(self._taken, len(self.seen)):
                if fits(self.seen[index]):
                    self._taken = index + 1
                    return self.seen[index]
            self._news.clear()
            await self._news.wait()


async def restart_server() -> None:
    """Asks whoever started this script to restart walcast, and waits until they say that it serves again."""
    print("RESTART", flush=True)
    answer = await asyncio.wait_for(asyncio.to_thread(sys.stdin.readline), 60)
    assert answer.strip() == "RESTARTED", f"expected RESTARTED, got {answer!r}"


def required_environment(name: str) -> str:
    value = os.environ.get(name)
    if not value:
        print(f"Bail out! {name} is not set; see tests/clients/README.md")
        sys.exit(2)
    return value
