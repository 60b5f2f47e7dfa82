// Promises of walcast to the JavaScript client of the Phoenix framework, which knows nothing of Supabase. One
// argument: the transport, `websocket` or `longpoll`. How it is started: tests/clients/README.md.
import { strict as assert } from 'node:assert';
import { randomUUID } from 'node:crypto';
import { LongPoll, Presence, Socket } from 'phoenix';
import WebSocket from 'ws';
import { ana, bruno, database, insertNotes, tokenOf } from './people.mjs';
import { newTeam } from './private.mjs';
import { finish, Inbox, promise, requiredEnvironment, restartServer, withDeadline } from './promise.mjs';

const transports = { websocket: WebSocket, longpoll: LongPoll };
const transport = transports[process.argv[2]];
assert.ok(transport, 'the argument is websocket or longpoll');

const sockets = [];

function socketOf(person, apikey = tokenOf(person)) {
  const url = requiredEnvironment('WALCAST_URL').replace(/^http/, 'ws') + '/socket';
  const socket = new Socket(url, { transport, params: { apikey }, reconnectAfterMs: () => 200, rejoinAfterMs: () => 200 });
  sockets.push(socket);
  socket.connect();
  return socket;
}

const fresh = (name) => `realtime:${name}:${randomUUID()}`;

/** The answer to a push or join: its status and response. */
const answer = (push) =>
  withDeadline(
    new Promise((resolve) => {
      for (const status of ['ok', 'error', 'timeout']) push.receive(status, (response) => resolve({ status, response }));
    }),
    'a reply',
  );

/** A joined channel; `prepare` is called before the join, since what follows it comes at once. */
async function joined(socket, topic, config = {}, prepare = () => {}) {
  const channel = socket.channel(topic, { config });
  prepare(channel);
  const { status, response } = await answer(channel.join());
  assert.equal(status, 'ok', JSON.stringify(response));
  return channel;
}

function inboxOf(channel, event) {
  const inbox = new Inbox();
  channel.on(event, inbox.push);
  return inbox;
}

await database.connect();

await promise('a broadcast reaches the other member, in order, and is acknowledged', async () => {
  const topic = fresh('pair');
  const [hers, his] = [await joined(socketOf(ana), topic, { broadcast: { ack: true } }), await joined(socketOf(bruno), topic)];
  const received = inboxOf(his, 'broadcast');
  const sent = Array.from({ length: 20 }, (_, n) => ({ type: 'broadcast', event: 'n', payload: { n, text: 'ñandú' } }));
  const replies = await Promise.all(sent.map((payload) => answer(hers.push('broadcast', payload))));
  assert.ok(replies.every(({ status }) => status === 'ok'));
  for (const payload of sent) assert.deepEqual(await received.next('a broadcast'), payload);
});

await promise('presence shows who is there and who leaves', async () => {
  const topic = fresh('who');
  const states = new Inbox();
  const hers = await joined(socketOf(ana), topic, { presence: { key: 'ana', enabled: true } }, (channel) => {
    const presence = new Presence(channel);
    presence.onSync(() => states.push(presence.list((key) => key).sort().join()));
  });
  const his = await joined(socketOf(bruno), topic, { presence: { key: 'bruno', enabled: true } });
  for (const [channel, name] of [[hers, 'Ana'], [his, 'Bruno']]) {
    const tracked = await answer(channel.push('presence', { type: 'presence', event: 'track', payload: { name } }));
    assert.equal(tracked.status, 'ok');
  }
  await states.next('both', (keys) => keys === 'ana,bruno');
  await answer(his.leave());
  await states.next('Ana alone', (keys) => keys === 'ana');
});

await promise('row changes arrive under row-level security', async () => {
  const channel = await joined(socketOf(ana), fresh('notes'), {
    postgres_changes: [{ event: 'INSERT', schema: 'checks', table: 'notes' }],
  });
  const changes = inboxOf(channel, 'postgres_changes');
  const room = randomUUID();
  await insertNotes([
    { owner: bruno, room, body: 'his' },
    { owner: ana, room, body: 'hers' },
  ]);
  const { data } = await changes.next('her note');
  assert.equal(data.record.body, 'hers');
});

await promise('a refused join is told why', async () => {
  const { status, response } = await answer(socketOf(ana).channel('elsewhere', {}).join());
  assert.equal(status, 'error');
  assert.deepEqual(response, { reason: 'unmatched topic' });
});

await promise('private channels: refused without permission, and with it broadcasts', async () => {
  const { topic, memberToken } = newTeam();
  const stranger = await answer(socketOf(bruno).channel(`realtime:${topic}`, { config: { private: true } }).join());
  const reason = `Unauthorized: You do not have permissions to read from this Channel topic: ${topic}`;
  assert.deepEqual(stranger, { status: 'error', response: { reason } });
  const config = { private: true, broadcast: { ack: true } };
  const hers = await joined(socketOf(ana, memberToken(ana)), `realtime:${topic}`, config);
  const his = await joined(socketOf(bruno, memberToken(bruno)), `realtime:${topic}`, config);
  const received = inboxOf(his, 'broadcast');
  const sent = { type: 'broadcast', event: 'note', payload: { from: 'ana' } };
  assert.equal((await answer(hers.push('broadcast', sent))).status, 'ok');
  assert.deepEqual(await received.next('her broadcast'), sent);
});

// Over WebSocket a message from the database is a binary frame of a kind that only Supabase's clients know
// (docs/protocol.md §2.3), and a frame that this client can not read is an exception in it.
if (transport === LongPoll) await checkStoredMessages();

await promise('a socket with a bad key is not let in', async () => {
  const socket = socketOf(ana, 'nonsense');
  const errors = new Inbox();
  socket.onError(errors.push);
  await errors.next('an error');
  assert.ok(!socket.isConnected());
  socket.disconnect();
});

await promise('after a restart of the server it joins again by itself', async () => {
  const topic = fresh('restart');
  const channel = await joined(socketOf(ana), topic, { broadcast: { self: true } });
  const received = inboxOf(channel, 'broadcast');
  const joins = new Inbox();
  channel.joinPush.receive('ok', joins.push);
  await restartServer();
  await joins.next('the second join');
  channel.push('broadcast', { type: 'broadcast', event: 'back', payload: {} });
  assert.equal((await received.next('its own broadcast')).event, 'back');
});

for (const socket of sockets) socket.disconnect();
await database.end();
finish();

async function checkStoredMessages() {
  const store = (topic, n) => database.query(`select realtime.send($1, 'stored', $2, true)`, [{ n }, topic]);

  await promise('messages from the database arrive', async () => {
    const { topic, memberToken } = newTeam();
    const channel = await joined(socketOf(ana, memberToken(ana)), `realtime:${topic}`, { private: true });
    const received = inboxOf(channel, 'broadcast');
    await store(topic, 1);
    const { payload: { id, n }, ...message } = await received.next('the message from the database');
    assert.deepEqual([n, message], [1, { type: 'broadcast', event: 'stored', meta: { id } }]);
  });

  await promise('stored messages are replayed at the join', async () => {
    const { topic, memberToken } = newTeam();
    for (const n of [1, 2]) await store(topic, n);
    const config = { private: true, broadcast: { replay: { since: Date.now() - 60_000, limit: 2 } } };
    let received;
    await joined(socketOf(ana, memberToken(ana)), `realtime:${topic}`, config, (channel) => {
      received = inboxOf(channel, 'broadcast');
    });
    for (const n of [1, 2]) {
      const { payload, meta } = await received.next('a replay');
      assert.deepEqual([payload.n, meta.replayed], [n, true]);
    }
  });
}
