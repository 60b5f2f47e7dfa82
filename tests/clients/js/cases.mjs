// The conformance cases that are about the stock JavaScript client, one per run: the argument is the number of the case
// in docs/protocol.md §15. Each runs with the newest package and with the older one, which speaks serializer 1.0.0,
// where both can do it. How it is started and what it expects: tests/clients/README.md.
import { strict as assert } from 'node:assert';
import { randomUUID } from 'node:crypto';
import * as newest from '@supabase/supabase-js';
import * as older from 'supabase-js-v1-serializer';
import { ana, bruno, clientOf, closeClients, database, insertNotes, subscribed } from './people.mjs';
import { finish, Inbox, promise } from './promise.mjs';

const cases = {
  277: firstConnect,
  278: selfBroadcast,
  280: presence,
  288: changesConcurrently,
  289: select,
  290: filterBuilder,
};
const NEWEST_ONLY = ['289', '290'];

const fresh = (name) => `${name}:${randomUUID()}`;

const number = process.argv[2];
assert.ok(number in cases, `the argument is one of ${Object.keys(cases)}`);
await database.connect();
for (const [name, { createClient }] of Object.entries({ newest, older })) {
  if (name === 'older' && NEWEST_ONLY.includes(number)) continue;
  await promise(`case ${number} with the ${name} package`, () => cases[number](createClient));
}
await database.end();
await closeClients();
finish();

/** Listens for changes of the notes and puts them into an inbox. */
function changes(channel, binding) {
  const inbox = new Inbox();
  channel.on('postgres_changes', { schema: 'checks', table: 'notes', ...binding }, inbox.push);
  return inbox;
}

/** A client that has connected nothing yet is subscribed far below the ten seconds after which it gives up. */
async function firstConnect(createClient) {
  const started = performance.now();
  const states = await subscribed(clientOf(createClient, ana).channel(fresh('first')));
  const took = performance.now() - started;
  assert.ok(took < 3_000, `SUBSCRIBED after ${took} ms`);
  assert.deepEqual(states.seen.map(({ status }) => status), ['SUBSCRIBED'], 'at the first try');
}

async function selfBroadcast(createClient) {
  const channel = clientOf(createClient, ana).channel(fresh('self'), { config: { broadcast: { self: true, ack: true } } });
  const inbox = new Inbox();
  channel.on('broadcast', { event: 'ping' }, ({ payload }) => inbox.push(payload));
  await subscribed(channel);
  const payload = { text: 'ñandú ☕', list: [1, null, { deep: true }] };
  assert.equal(await channel.send({ type: 'broadcast', event: 'ping', payload }), 'ok');
  assert.deepEqual(await inbox.next('the own broadcast'), payload);
}

async function presence(createClient) {
  const topic = fresh('presence');
  const follow = (person, key) => {
    const channel = clientOf(createClient, person).channel(topic, { config: { presence: { key } } });
    const inbox = new Inbox();
    for (const event of ['join', 'leave']) {
      channel.on('presence', { event }, ({ key: who }) => inbox.push(`${event} ${who}`));
    }
    channel.on('presence', { event: 'sync' }, () => inbox.push(`now ${Object.keys(channel.presenceState()).sort()}`));
    return { channel, inbox };
  };
  const [hers, his] = [follow(ana, 'ana'), follow(bruno, 'bruno')];
  await Promise.all([subscribed(hers.channel), subscribed(his.channel)]);
  assert.equal(await hers.channel.track({ state: 'here' }), 'ok');
  await his.inbox.next('she comes', (event) => event === 'join ana');
  await his.inbox.next('she is there', (event) => event === 'now ana');
  assert.equal(his.channel.presenceState().ana[0].state, 'here');
  assert.equal(await hers.channel.track({ state: 'away' }), 'ok');
  await his.inbox.next('she changes', () => his.channel.presenceState().ana?.[0].state === 'away');
  assert.equal(his.channel.presenceState().ana.length, 1);
  assert.equal(await hers.channel.untrack(), 'ok');
  await his.inbox.next('she goes', (event) => event === 'leave ana');
  await his.inbox.next('nobody is there', (event) => event === 'now ');
}

async function changesConcurrently(createClient) {
  const room = fresh('room');
  const client = clientOf(createClient, ana);
  const channels = ['INSERT', 'UPDATE', 'DELETE'].map((event) => {
    const channel = client.channel(fresh(event));
    return { event, channel, inbox: changes(channel, { event, filter: `room=eq.${room}` }) };
  });
  await Promise.all(channels.map(({ channel }) => subscribed(channel)));
  const ids = await insertNotes([
    { owner: ana, room, body: 'one' },
    { owner: ana, room: fresh('elsewhere'), body: 'elsewhere' },
    { owner: ana, room, body: 'two' },
  ]);
  await database.query(`update checks.notes set body = body || '!' where id = any($1)`, [ids]);
  await database.query('delete from checks.notes where id = any($1)', [ids]);
  const own = [ids[0], ids[2]];
  await Promise.all(channels.map(({ event, inbox }) => inbox.next(`the second ${event}`, () => inbox.seen.length >= 2)));
  for (const { event, inbox } of channels) {
    assert.deepEqual(inbox.seen.map(({ eventType }) => eventType), [event, event]);
    // In no promised order within a statement.
    const seen = inbox.seen.map(({ new: row, old }) => row.id ?? old.id).sort((one, other) => one - other);
    assert.deepEqual(seen, own);
  }
}

async function select(createClient) {
  const room = fresh('select');
  const channel = clientOf(createClient, ana).channel(fresh('changes'));
  const inbox = changes(channel, { event: '*', filter: `room=eq.${room}`, select: ['body'] });
  await subscribed(channel);
  const [id] = await insertNotes([{ owner: ana, room, body: 'only' }]);
  await database.query(`update checks.notes set body = 'new' where id = $1`, [id]);
  assert.deepEqual((await inbox.next('the insert')).new, { id, body: 'only' });
  const { new: row, old } = await inbox.next('the update');
  assert.deepEqual([row, old], [{ id, body: 'new' }, { id, body: 'only' }]);
}

async function filterBuilder(createClient) {
  const { postgresChangesFilter } = newest;
  const room = fresh('a,b "c" (d)');
  const filter = () => postgresChangesFilter().eq('room', room);
  // Of the bodies and numbers below, those that fit.
  const fitting = [
    [filter(), [1, 2, 3, 4]],
    [filter().eq('number', 2), [2]],
    [filter().neq('number', 2), [1, 3, 4]],
    [filter().lt('number', 2), [1]],
    [filter().lte('number', 2), [1, 2]],
    [filter().gt('number', 2), [3, 4]],
    [filter().gte('number', 2), [2, 3, 4]],
    [filter().in('number', [1, 4, 9]), [1, 4]],
    [filter().in('body', ['plain', 'x, y (z)']), [1, 4]],
    [filter().like('body', 'Ca%'), [2]],
    [filter().ilike('body', 'ca%'), [2, 3]],
    [filter().match('body', '^c.*e$'), [3]],
    [filter().imatch('body', '^C.*E$'), [2, 3]],
    [filter().is('owner', null), []],
    [filter().isDistinct('number', 3), [1, 2, 4]],
    [filter().not('number', 'eq', 3), [1, 2, 4]],
    [filter().not('number', 'in', [1, 2]), [3, 4]],
    [filter().not('owner', 'is', null), [1, 2, 3, 4]],
    [filter().not('body', 'ilike', 'ca%'), [1, 4]],
    [filter().gt('number', 1).lt('number', 4).like('body', 'c%'), [3]],
    [filter().eq('body', 'x, y (z)'), [4]],
  ];
  const channel = clientOf(createClient, ana).channel(fresh('changes'));
  const inboxes = fitting.map(([built]) => changes(channel, { event: 'INSERT', filter: built }));
  const everything = changes(channel, { event: 'INSERT' });
  const system = new Inbox();
  channel.on('system', {}, system.push);
  await subscribed(channel);
  const { status, message } = await system.next('what becomes of the bindings');
  assert.equal(status, 'ok', message);
  await insertNotes(['plain', 'Care', 'cafe', 'x, y (z)'].map((body, index) => ({ owner: ana, room, body, number: index + 1 })));
  await insertNotes([{ owner: ana, room: fresh('mark'), body: room }]);
  await everything.next('the mark', ({ new: row }) => row.body === room);
  fitting.forEach(([built, numbers], index) => {
    assert.deepEqual(inboxes[index].seen.map(({ new: row }) => row.number), numbers, String(built));
  });
}
