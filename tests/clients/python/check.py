"""Promises of walcast to the stock Python client, which speaks serializer 1.0.0 and validates every frame strictly.
How it is started and what it expects: tests/clients/README.md."""

import asyncio

from channels import broadcasts, changes, config, fresh, is_subscribed, subscribed
from private import check_http, check_private_channels, check_stored_messages
from promise import Inbox, finish, promise, restart_server

from people import ANA, BRUNO, client_of, close_clients, connect_database, insert_notes, token_of


async def check_broadcast() -> None:
    async def comes_back() -> None:
        channel = client_of(ANA).channel(fresh("self"), config(to_self=True))
        inbox = broadcasts(channel, "ping")
        await subscribed(channel)
        await channel.send_broadcast("ping", {"text": "ñandú ☕", "list": [1, None]})
        assert await inbox.next("own broadcast") == {"text": "ñandú ☕", "list": [1, None]}

    async def is_acknowledged() -> None:
        channel = client_of(ANA).channel(fresh("ack"), config(ack=True))
        await subscribed(channel)
        replies = Inbox()
        push = await channel.push("broadcast", {"type": "broadcast", "event": "ping", "payload": {}})
        push.receive("ok", lambda _: replies.push("ok")).receive("error", replies.push)
        assert await replies.next("the acknowledgement") == "ok"

    async def reaches_the_other() -> None:
        topic = fresh("pair")
        hers, his = client_of(ANA).channel(topic, config()), client_of(BRUNO).channel(topic, config())
        at_ana, at_bruno = broadcasts(hers, "note"), broadcasts(his, "note")
        await subscribed(hers)
        await subscribed(his)
        await hers.send_broadcast("note", {"from": "ana"})
        assert await at_bruno.next("Ana's broadcast") == {"from": "ana"}
        # His answer is sent after hers was delivered, so a copy of her own would have come before it.
        await his.send_broadcast("note", {"from": "bruno"})
        assert await at_ana.next("Bruno's broadcast") == {"from": "bruno"}
        assert len(at_ana.seen) == 1

    await promise("a broadcast with self comes back to its sender", comes_back)
    await promise("a broadcast with ack is acknowledged", is_acknowledged)
    await promise("a broadcast reaches the other client and not its sender", reaches_the_other)


async def check_presence() -> None:
    async def join_sync_leave() -> None:
        topic = fresh("presence")
        hers = client_of(ANA).channel(topic, config(presence_key="ana"))
        his = client_of(BRUNO).channel(topic, config(presence_key="bruno"))
        at_ana, at_bruno, left = Inbox(), Inbox(), Inbox()
        hers.on_presence_sync(lambda: at_ana.push(sorted(hers.presence_state())))
        hers.on_presence_leave(lambda key, _current, _gone: left.push(key))
        his.on_presence_sync(lambda: at_bruno.push(sorted(his.presence_state())))
        await subscribed(hers)
        await hers.track({"estado": "en línea"})
        await at_ana.next("her own presence", lambda keys: keys == ["ana"])
        await subscribed(his)
        await at_bruno.next("Ana in the first state", lambda keys: keys == ["ana"])
        assert his.presence_state()["ana"][0]["estado"] == "en línea"
        await his.track({"estado": "en camino"})
        await at_ana.next("both", lambda keys: keys == ["ana", "bruno"])
        await his.untrack()
        assert await left.next("Bruno's leave") == "bruno"

    async def ends_with_the_connection() -> None:
        topic = fresh("presence")
        hers = client_of(ANA).channel(topic, config(presence_key="ana"))
        his_client = client_of(BRUNO)
        his = his_client.channel(topic, config(presence_key="bruno"))
        at_ana = Inbox()
        hers.on_presence_sync(lambda: at_ana.push(sorted(hers.presence_state())))
        await subscribed(hers)
        await subscribed(his)
        await his.track({})
        await at_ana.next("Bruno", lambda keys: keys == ["bruno"])
        await his_client.close()
        await at_ana.next("nobody", lambda keys: keys == [])

    await promise("who joins is seen, who was there is seen by the newcomer, who leaves is gone", join_sync_leave)
    await promise("a connection that ends takes its presence with it", ends_with_the_connection)


async def check_postgres_changes(database) -> None:
    async def all_events() -> None:
        room = fresh("typed")
        channel = client_of(ANA).channel(fresh("changes"), config())
        inbox = changes(channel, "*", f"room=eq.{room}")
        await subscribed(channel)
        [note] = await insert_notes(database, [(ANA, room, "uno", 7)])
        await database.execute("update checks.notes set body = 'dos' where id = %s", (note,))
        await database.execute("delete from checks.notes where id = %s", (note,))
        inserted = await inbox.next("INSERT")
        assert inserted["type"] == "INSERT" and inserted["commit_timestamp"].endswith("Z")
        record = inserted["record"]
        assert (record["id"], record["owner"], record["body"], record["number"]) == (note, ANA.id, "uno", 7)
        updated = await inbox.next("UPDATE")
        assert (updated["type"], updated["record"]["body"]) == ("UPDATE", "dos")
        assert updated["old_record"]["body"] == "uno"
        deleted = await inbox.next("DELETE")
        assert (deleted["type"], deleted["old_record"]["id"]) == ("DELETE", note)

    async def own_rows() -> None:
        room = fresh("rls")
        hers = client_of(ANA).channel(fresh("changes"), config())
        his = client_of(BRUNO).channel(fresh("changes"), config())
        at_ana, at_bruno = changes(hers, "*", f"room=eq.{room}"), changes(his, "*", f"room=eq.{room}")
        await subscribed(hers)
        await subscribed(his)
        notes = [(BRUNO, room, "b1", 0), (ANA, room, "a1", 0), (BRUNO, room, "b2", 0), (ANA, room, "a2", 0)]
        await insert_notes(database, notes)
        await at_ana.next("a2", lambda change: change["record"]["body"] == "a2")
        await at_bruno.next("b2", lambda change: change["record"]["body"] == "b2")
        assert [change["record"]["body"] for change in at_ana.seen] == ["a1", "a2"]
        assert [change["record"]["body"] for change in at_bruno.seen] == ["b1", "b2"]

    async def filters() -> None:
        room = fresh("filters")
        channel = client_of(ANA).channel(fresh("changes"), config())
        conditions = {
            "number=eq.5": [5],
            "number=neq.5": [1, 10],
            "number=lt.5": [1],
            "number=lte.5": [1, 5],
            "number=gt.5": [10],
            "number=gte.5": [5, 10],
            "number=in.(1,10)": [1, 10],
            "title=like.%a": [1, 5],
            "title=ilike.b%": [5],
            "title=match.^[a-z]+$": [1],
            "title=imatch.^[a-z]+$": [1, 5],
            "done=is.null": [10],
            "number=isdistinct.5": [1, 10, None],
            'title=eq."a,b (c)"': [10],
            "done=not.is.null": [1, 5, None],
            "number=gt.1,number=lt.10": [5],
        }
        inboxes = {
            condition: changes(channel, "INSERT", f"room=eq.{room},{condition}", "tasks") for condition in conditions
        }
        everything = changes(channel, "INSERT", f"room=eq.{room}", "tasks")
        await subscribed(channel)
        for title, number, done in [("alpha", 1, True), ("Beta", 5, False), ("a,b (c)", 10, None), (None, None, True)]:
            await database.execute(
                "insert into checks.tasks (owner, room, title, number, done) values (%s, %s, %s, %s, %s)",
                (ANA.id, room, title, number, done),
            )
        await everything.next("the last task", lambda change: change["record"]["number"] is None)
        arrived = {
            condition: [change["record"]["number"] for change in inbox.seen] for condition, inbox in inboxes.items()
        }
        assert arrived == conditions, arrived

    async def select() -> None:
        room = fresh("select")
        channel = client_of(ANA).channel(fresh("changes"), config())
        inbox = changes(channel, "INSERT", f"room=eq.{room}", select=["body"])
        await subscribed(channel)
        [note] = await insert_notes(database, [(ANA, room, "one", 7)])
        assert (await inbox.next("INSERT"))["record"] == {"id": note, "body": "one"}

    await promise("INSERT, UPDATE and DELETE arrive with typed values, in commit order", all_events)
    await promise("each of two users gets only the own rows", own_rows)
    await promise("290: each filter operator lets through exactly the rows that fit", filters)
    await promise("289: select restricts the record to the listed columns and the key", select)


async def check_tokens(database) -> None:
    async def refresh() -> None:
        room = fresh("refresh")
        client = client_of(ANA)
        channel = client.channel(fresh("changes"), config())
        inbox, system = changes(channel, "INSERT", f"room=eq.{room}"), Inbox()
        channel.on_system(lambda message: system.push(message.message))
        states = await subscribed(channel)
        await system.next("the subscription", lambda message: message == "Subscribed to PostgreSQL")
        await client.set_auth(token_of(BRUNO))
        await system.next("the new subscription", lambda message: message == "Subscribed to PostgreSQL")
        await insert_notes(database, [(ANA, room, "hers", 0), (BRUNO, room, "his", 0)])
        assert (await inbox.next("a change"))["record"]["body"] == "his"
        assert len(states.seen) == 1

    await promise("a refreshed token changes whose rows arrive, without a new join", refresh)


async def check_restart(database) -> None:
    async def comes_back() -> None:
        room, topic = fresh("restart"), fresh("restart")
        hers, his = client_of(ANA).channel(topic, config()), client_of(BRUNO).channel(topic, config())
        inbox, heard = changes(hers, "INSERT", f"room=eq.{room}"), broadcasts(hers, "note")
        her_states, his_states = await subscribed(hers), await subscribed(his)
        await insert_notes(database, [(ANA, room, "before", 0)])
        await inbox.next("a change before", lambda change: change["record"]["body"] == "before")

        await restart_server()
        await is_subscribed(her_states)
        await is_subscribed(his_states)

        await insert_notes(database, [(BRUNO, room, "not hers", 0), (ANA, room, "after", 0)])
        await inbox.next("a change after", lambda change: change["record"]["body"] == "after")
        assert all(change["record"]["body"] != "not hers" for change in inbox.seen)
        await his.send_broadcast("note", {"after": True})
        assert await heard.next("a broadcast after") == {"after": True}

    await promise("after a restart of the server the client comes back by itself and everything flows again", comes_back)


async def main() -> None:
    database = await connect_database()
    await check_broadcast()
    await check_presence()
    await check_postgres_changes(database)
    await check_tokens(database)
    await check_private_channels()
    await check_stored_messages(database)
    await check_http()
    await check_restart(database)
    await database.close()
    await close_clients()
    finish()


asyncio.run(main())
