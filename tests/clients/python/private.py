"""Private channels, whose policies are in schema.sql; messages from the database and their replay; HTTP."""

import json
import time
import uuid

from channels import broadcasts, config, fresh, messages, subscribed
from promise import Inbox, promise
from realtime import RealtimeSubscribeStates
from realtime.exceptions import RealtimeHTTPError

from people import ANA, BRUNO, Person, client_of, token_of


class Team:
    """A private topic of its own, for those whose tokens have its claim."""

    def __init__(self) -> None:
        self._claim = str(uuid.uuid4())
        self.topic = fresh(f"team:{self._claim}")

    def channel(self, person: Person, **settings):
        return client_of(person, token_of(person, team=self._claim)).channel(
            self.topic, config(private=True, **settings)
        )


async def refused(channel) -> str:
    """Subscribes, and returns the reason once the channel is in CHANNEL_ERROR."""
    states = Inbox()
    await channel.subscribe(lambda state, error: states.push((state, error)))
    state, error = await states.next("an answer to the join")
    assert state == RealtimeSubscribeStates.CHANNEL_ERROR, state
    # Or it would try again and again.
    await channel.socket.close()
    return json.loads(str(error))["reason"]


async def check_private_channels() -> None:
    async def without_permission() -> None:
        team = Team()
        reason = await refused(client_of(BRUNO).channel(team.topic, config(private=True)))
        expected = f"Unauthorized: You do not have permissions to read from this Channel topic: {team.topic}"
        assert reason == expected, reason

    async def by_claims() -> None:
        team = Team()
        hers, his = team.channel(ANA), team.channel(BRUNO)
        at_bruno = broadcasts(his, "note")
        await subscribed(hers)
        await subscribed(his)
        await hers.send_broadcast("note", {"for": "members"})
        assert await at_bruno.next("Ana's broadcast") == {"for": "members"}

    async def by_role() -> None:
        topic = fresh("staff")
        await subscribed(client_of(ANA, token_of(ANA, role="staff")).channel(topic, config(private=True)))
        assert "permissions" in await refused(client_of(BRUNO).channel(topic, config(private=True)))

    async def presence() -> None:
        team = Team()
        hers, his = team.channel(ANA, presence_key="ana"), team.channel(BRUNO, presence_key="bruno")
        at_ana, left = Inbox(), Inbox()
        hers.on_presence_sync(lambda: at_ana.push(sorted(hers.presence_state())))
        hers.on_presence_leave(lambda key, _current, _gone: left.push(key))
        await subscribed(hers)
        await subscribed(his)
        await his.track({"estado": "libre"})
        await at_ana.next("Bruno", lambda keys: keys == ["bruno"])
        await his.unsubscribe()
        assert await left.next("Bruno's leave") == "bruno"

    await promise("282: a private channel is refused without permission, with the reason", without_permission)
    await promise("283, 284: with permission by JWT claims a private channel is subscribed", by_claims)
    await promise("284: a private channel by the role of the token", by_role)
    await promise("281: presence on a private channel: who comes and leaves", presence)


async def check_stored_messages(database) -> None:
    async def send(topic: str, n: int, private: bool = True) -> None:
        await database.execute("select realtime.send(%s, 'stored', %s, %s)", (json.dumps({"n": n}), topic, private))

    async def from_the_database() -> None:
        team = Team()
        inside, outside = team.channel(ANA), client_of(BRUNO).channel(team.topic, config())
        at_member, at_outside = messages(inside, "stored"), messages(outside, "stored")
        await subscribed(inside)
        await subscribed(outside)
        await send(team.topic, 1)
        await send(team.topic, 2, private=False)
        message = await at_member.next("the private message")
        assert message["payload"]["n"] == 1 and message["meta"] == {"id": message["payload"]["id"]}
        assert (await at_outside.next("the public message"))["payload"]["n"] == 2
        assert len(at_outside.seen) == 1

    async def changes() -> None:
        room = fresh("room")
        channel = client_of(BRUNO).channel(f"tasks:{room}", config(private=True))
        inbox = broadcasts(channel, "*")
        await subscribed(channel)
        claims = json.dumps({"role": "authenticated", "sub": ANA.id})
        for sql in (
            "insert into checks.tasks (owner, room, title) values (%(owner)s, %(room)s, 'uno')",
            "update checks.tasks set title = 'dos' where room = %(room)s",
            "delete from checks.tasks where room = %(room)s",
        ):
            async with database.transaction():
                await database.execute(
                    "select set_config('role', 'authenticated', true), set_config('request.jwt.claims', %s, true)",
                    (claims,),
                )
                await database.execute(sql, {"owner": ANA.id, "room": room})

        def title(row: dict | None) -> str | None:
            return row and row["title"]

        for expected in [("INSERT", "uno", None), ("UPDATE", "dos", "uno"), ("DELETE", None, "dos")]:
            told = await inbox.next(expected[0])
            assert (told["operation"], title(told["record"]), title(told["old_record"])) == expected, told

    async def replay() -> None:
        team = Team()
        for n in (1, 2, 3):
            await send(team.topic, n)
        channel = team.channel(ANA, replay={"since": int((time.time() - 60) * 1000), "limit": 3})
        inbox = messages(channel, "stored")
        await subscribed(channel)
        for n in (1, 2, 3):
            message = await inbox.next("a replay")
            assert (message["payload"]["n"], message["meta"]["replayed"]) == (n, True), message

    await promise("realtime.send reaches the private channel or the public one, as it says", from_the_database)
    await promise("285–287: realtime.broadcast_changes tells INSERT, UPDATE and DELETE of a signed-in user", changes)
    await promise("291: stored messages are replayed at the join, flagged, oldest first", replay)


async def check_http() -> None:
    async def arrives() -> None:
        topic = fresh("plaza mayor/ñ?")
        his = client_of(BRUNO).channel(topic, config())
        inbox = broadcasts(his, "una nota/%")
        await subscribed(his)
        await client_of(ANA).channel(topic, config()).http_send("una nota/%", {"n": 1})
        assert await inbox.next("the broadcast") == {"n": 1}

    async def needs_permission() -> None:
        team = Team()
        his = team.channel(BRUNO)
        inbox = broadcasts(his, "note")
        await subscribed(his)
        try:
            await client_of(ANA).channel(team.topic, config(private=True)).http_send("note", {"from": "stranger"})
            raise AssertionError("a stranger may send")
        except RealtimeHTTPError as error:
            assert error.status == 403 and "Unauthorized" in str(error), error
        await team.channel(ANA).http_send("note", {"from": "member"})
        assert await inbox.next("the broadcast") == {"from": "member"}
        assert len(inbox.seen) == 1

    await promise("279: http_send reaches the members of a public topic, whatever its name", arrives)
    await promise("279: http_send to a private topic needs the permission to send there", needs_permission)
