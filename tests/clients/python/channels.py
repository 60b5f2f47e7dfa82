"""What the checks of channels share: names, settings of a join, inboxes for what arrives."""

import uuid

from promise import Inbox
from realtime import AsyncRealtimeChannel, RealtimeSubscribeStates


def fresh(name: str) -> str:
    """A name of this run's own, so that runs on one server do not meet."""
    return f"{name}:{uuid.uuid4()}"


def config(
    *, to_self: bool = False, ack: bool = False, presence_key: str = "", private: bool = False, replay: dict | None = None
) -> dict:
    broadcast = {"self": to_self, "ack": ack}
    if replay:
        broadcast["replay"] = replay
    return {
        "config": {
            "broadcast": broadcast,
            "presence": {"key": presence_key, "enabled": False},
            "private": private,
        }
    }


def messages(channel: AsyncRealtimeChannel, event: str) -> Inbox:
    """Listens for broadcasts of one event and puts them whole into an inbox."""
    inbox = Inbox()
    channel.on_broadcast(event, inbox.push)
    return inbox


def broadcasts(channel: AsyncRealtimeChannel, event: str) -> Inbox:
    """Listens for broadcasts of one event and puts their payloads into an inbox."""
    inbox = Inbox()
    channel.on_broadcast(event, lambda message: inbox.push(message["payload"]))
    return inbox


def changes(
    channel: AsyncRealtimeChannel, event: str, condition: str, table: str = "notes", select: list[str] | None = None
) -> Inbox:
    """Listens for changes of a table of the schema `checks` and puts them into an inbox."""
    inbox = Inbox()
    channel.on_postgres_changes(
        event,
        lambda change: inbox.push(change["data"]),
        schema="checks",
        table=table,
        filter=condition,
        select=select,
    )
    return inbox


async def subscribed(channel: AsyncRealtimeChannel) -> Inbox:
    """Subscribes, and returns the inbox of the channel's states once it is SUBSCRIBED."""
    states = Inbox()
    await channel.subscribe(lambda state, error: states.push((state, error)))
    await is_subscribed(states)
    return states


async def is_subscribed(states: Inbox) -> None:
    await states.next("SUBSCRIBED", lambda event: event[0] == RealtimeSubscribeStates.SUBSCRIBED)
