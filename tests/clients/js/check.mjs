// Promises of walcast to the stock JavaScript client. The first argument is the package to check, by its name in
// package.json; a second one is the number of the only case of docs/protocol.md §15 that is wanted.
// How it is started and what it expects: tests/clients/README.md.
import { strict as assert } from 'node:assert';
import { broadcasts, changes, fresh, send, withPresence } from './channels.mjs';
import { checkCounts } from './counts.mjs';
import { checkFilters } from './filters.mjs';
import { checkHttp } from './http.mjs';
import { ana, bruno, clientOf, closeClients, database, insertNotes, subscribed, tokenOf } from './people.mjs';
import { checkPrivateChannels } from './private.mjs';
import { finish, Inbox, onlyCase, promise, restartServer } from './promise.mjs';
import { checkStoredMessages } from './stored.mjs';

const NEWEST = '@supabase/supabase-js';
const OLDER = 'supabase-js-v1-serializer';

const checked = process.argv[2] ?? NEWEST;
assert.ok([NEWEST, OLDER].includes(checked), `the argument is ${NEWEST} or ${OLDER}`);
if (process.argv[3]) onlyCase(process.argv[3]);
const library = await import(checked);
const { createClient } = library;
const { createClient: createOtherClient } = await import(checked === NEWEST ? OLDER : NEWEST);
const asAna = (token) => clientOf(createClient, ana, token);
const asBruno = (token) => clientOf(createClient, bruno, token);

/** What the other files of this folder check with. */
const checking = { asAna, asBruno, newest: checked === NEWEST, library };

await database.connect();
await checkBroadcast();
await checkPresence();
await checkPostgresChanges();
await checkFilters(checking);
await checkTokens();
await checkPrivateChannels(checking);
await checkStoredMessages(checking);
await checkHttp(checking);
await checkCounts(checking);
await checkRestart();
await database.end();
await closeClients();
finish();

async function checkBroadcast() {
  await promise('278: a broadcast with self comes back to its sender', async () => {
    const channel = asAna().channel(fresh('self'), { config: { broadcast: { self: true } } });
    const inbox = broadcasts(channel, 'ping');
    await subscribed(channel);
    await send(channel, 'ping', { text: 'ñandú ☕', list: [1, null, { deep: true }] });
    assert.deepEqual(await inbox.next('own broadcast'), { text: 'ñandú ☕', list: [1, null, { deep: true }] });
  });

  await promise('a broadcast with ack is acknowledged', async () => {
    const channel = asAna().channel(fresh('ack'), { config: { broadcast: { ack: true } } });
    await subscribed(channel);
    assert.equal(await send(channel, 'ping', { n: 1 }), 'ok');
  });

  await promise('a broadcast reaches the other client and not its sender', async () => {
    const topic = fresh('pair');
    const [hers, his] = [asAna().channel(topic), asBruno().channel(topic)];
    const [atAna, atBruno] = [broadcasts(hers, 'note'), broadcasts(his, 'note')];
    await Promise.all([subscribed(hers), subscribed(his)]);
    await send(hers, 'note', { from: 'ana' });
    assert.deepEqual(await atBruno.next("Ana's broadcast"), { from: 'ana' });
    // His answer is sent after hers was delivered, so a copy of her own would have come before it.
    await send(his, 'note', { from: 'bruno' });
    assert.deepEqual(await atAna.next("Bruno's broadcast"), { from: 'bruno' });
    assert.equal(atAna.seen.length, 1);
  });

  await promise('a broadcast stays in its topic and with listeners of its event', async () => {
    const channel = asAna().channel(fresh('event'), { config: { broadcast: { self: true } } });
    const elsewhere = asBruno().channel(fresh('event'));
    const [wanted, unwanted] = [broadcasts(channel, 'wanted'), broadcasts(elsewhere, 'wanted')];
    await Promise.all([subscribed(channel), subscribed(elsewhere)]);
    await send(channel, 'other', { n: 1 });
    await send(channel, 'wanted', { n: 2 });
    assert.deepEqual(await wanted.next('the wanted event'), { n: 2 });
    assert.equal(wanted.seen.length, 1);
    assert.equal(unwanted.seen.length, 0);
  });

  await promise('broadcasts of one sender arrive in the order they were sent', async () => {
    const topic = fresh('order');
    const [hers, his] = [asAna().channel(topic), asBruno().channel(topic)];
    const inbox = broadcasts(his, 'step');
    await Promise.all([subscribed(hers), subscribed(his)]);
    for (let step = 0; step < 200; step += 1) send(hers, 'step', { step });
    await inbox.next('the last step', ({ step }) => step === 199);
    assert.deepEqual(inbox.seen.map(({ step }) => step), Array.from({ length: 200 }, (_, step) => step));
  });

  await promise('serializers 1.0.0 and 2.0.0 understand each other in one topic', async () => {
    const topic = fresh('mixed');
    const [mine, other] = [asAna().channel(topic), clientOf(createOtherClient, bruno).channel(topic)];
    const [atMine, atOther] = [broadcasts(mine, 'note'), broadcasts(other, 'note')];
    await Promise.all([subscribed(mine), subscribed(other)]);
    await send(mine, 'note', { from: 'mine', text: 'señal' });
    assert.deepEqual(await atOther.next('broadcast of the checked client'), { from: 'mine', text: 'señal' });
    await send(other, 'note', { from: 'other', text: 'señal' });
    assert.deepEqual(await atMine.next('broadcast of the other client'), { from: 'other', text: 'señal' });
  });

  if (checked !== NEWEST) return;
  await promise('a binary broadcast arrives byte for byte', async () => {
    const topic = fresh('binary');
    const [hers, his] = [asAna().channel(topic), asBruno().channel(topic)];
    const inbox = broadcasts(his, 'blob');
    await Promise.all([subscribed(hers), subscribed(his)]);
    const bytes = Uint8Array.from({ length: 256 }, (_, index) => index);
    await send(hers, 'blob', bytes.buffer);
    const received = await inbox.next('the bytes');
    assert.deepEqual(new Uint8Array(received), bytes);
  });
}

async function checkPresence() {
  await promise('280: who joins is seen, who was there is seen by the newcomer, who leaves is gone', async () => {
    const topic = fresh('presence');
    const hers = withPresence(asAna(), topic, 'ana');
    const his = withPresence(asBruno(), topic, 'bruno');
    await subscribed(hers.channel);
    assert.equal(await hers.channel.track({ estado: 'en línea' }), 'ok');
    await hers.seesPresent('ana');
    await subscribed(his.channel);
    await his.seesPresent('ana');
    assert.equal(his.channel.presenceState().ana[0].estado, 'en línea');
    assert.equal(await his.channel.track({ estado: 'en camino' }), 'ok');
    await Promise.all([hers.seesPresent('ana', 'bruno'), his.seesPresent('ana', 'bruno')]);
    assert.ok(hers.inbox.seen.some(({ join }) => join === 'bruno'));
    await his.channel.untrack();
    await hers.seesPresent('ana');
    assert.ok(hers.inbox.seen.some(({ leave }) => leave === 'bruno'));
  });

  await promise('a tracked state that changes replaces the old one', async () => {
    const topic = fresh('presence');
    const hers = withPresence(asAna(), topic, 'ana');
    const his = withPresence(asBruno(), topic, 'bruno');
    await Promise.all([subscribed(hers.channel), subscribed(his.channel)]);
    await his.channel.track({ estado: 'libre' });
    await hers.seesPresent('bruno');
    await his.channel.track({ estado: 'ocupado' });
    await hers.inbox.next('the new state', () => {
      const metas = hers.channel.presenceState().bruno ?? [];
      return metas.length === 1 && metas[0].estado === 'ocupado';
    });
  });

  await promise('two devices under one key are one person with two states', async () => {
    const topic = fresh('presence');
    const hers = withPresence(asAna(), topic, 'ana');
    const [phone, desk] = [withPresence(asBruno(), topic, 'bruno'), withPresence(asBruno(), topic, 'bruno')];
    await Promise.all([hers, phone, desk].map(({ channel }) => subscribed(channel)));
    await phone.channel.track({ device: 'phone' });
    await desk.channel.track({ device: 'desk' });
    const devices = () => (hers.channel.presenceState().bruno ?? []).map(({ device }) => device).sort();
    await hers.inbox.next('two devices', () => String(devices()) === 'desk,phone');
    await phone.channel.unsubscribe();
    await hers.inbox.next('one device', () => String(devices()) === 'desk');
  });

  await promise('where many come, change and go at a time everybody sees who is there', async () => {
    const topic = fresh('presence');
    const keys = Array.from({ length: 15 }, (_, number) => `member ${String.fromCharCode(97 + number)}`);
    const members = keys.map((key, number) => withPresence(number % 2 ? asAna() : asBruno(), topic, key));
    const together = (chosen, act) => Promise.all(chosen.map(act));
    await together(members, ({ channel }) => subscribed(channel));
    await together(members, ({ channel }) => channel.track({ estado: 'libre' }));
    await together(members, ({ seesPresent }) => seesPresent(...keys));
    const [gone, there] = [members.slice(0, 5), members.slice(5)];
    await Promise.all([
      together(gone, ({ channel }) => channel.untrack()),
      together(there, ({ channel }) => channel.track({ estado: 'ocupado' })),
    ]);
    const expected = JSON.stringify(keys.slice(5).map((key) => [key, 'ocupado']));
    await together(members, ({ channel, inbox }) =>
      inbox.next('who is left, in their new state', () => {
        const seen = Object.entries(channel.presenceState());
        return JSON.stringify(seen.flatMap(([key, metas]) => metas.map(({ estado }) => [key, estado])).sort()) === expected;
      }),
    );
    assert.ok(there[0].inbox.seen.some(({ leave }) => leave === keys[0]));
  });

  await promise('a connection that ends takes its presence with it', async () => {
    const topic = fresh('presence');
    const hers = withPresence(asAna(), topic, 'ana');
    const hisClient = asBruno();
    const his = withPresence(hisClient, topic, 'bruno');
    await Promise.all([subscribed(hers.channel), subscribed(his.channel)]);
    await his.channel.track({});
    await hers.seesPresent('bruno');
    await hisClient.realtime.disconnect();
    await hers.seesPresent();
  });
}

async function checkPostgresChanges() {
  await promise('INSERT, UPDATE and DELETE arrive with typed values, in commit order', async () => {
    const room = fresh('typed');
    const channel = asAna().channel(fresh('changes'));
    const inbox = changes(channel, { event: '*', filter: `room=eq.${room}` });
    await subscribed(channel);
    const note = { owner: ana, room, body: 'uno', number: 7, tags: ['a', 'b,c'], details: { deep: [1, 2] } };
    const [id] = await insertNotes([note]);
    await database.query('update checks.notes set body = $2 where id = $1', [id, 'dos']);
    await database.query('delete from checks.notes where id = $1', [id]);

    const inserted = await inbox.next('INSERT');
    assert.equal(inserted.eventType, 'INSERT');
    assert.equal(inserted.schema, 'checks');
    assert.equal(inserted.table, 'notes');
    assert.match(inserted.commit_timestamp, /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/);
    assert.equal(inserted.errors, null);
    const { at, ...values } = inserted.new;
    assert.ok(!Number.isNaN(Date.parse(at)));
    assert.deepEqual(values, {
      id, owner: ana.id, room, body: 'uno', number: 7, tags: ['a', 'b,c'], details: { deep: [1, 2] },
    });

    const updated = await inbox.next('UPDATE');
    assert.deepEqual([updated.eventType, updated.new.body, updated.old.id], ['UPDATE', 'dos', id]);
    assert.equal(updated.old.body, 'uno', 'replica identity FULL carries the old row');

    const deleted = await inbox.next('DELETE');
    assert.deepEqual([deleted.eventType, deleted.old.id], ['DELETE', id]);
    assert.equal(inbox.seen.length, 3);
  });

  await promise('each of two users gets only the own rows', async () => {
    const room = fresh('rls');
    const [hers, his] = [asAna().channel(fresh('changes')), asBruno().channel(fresh('changes'))];
    const binding = { event: '*', filter: `room=eq.${room}` };
    const [atAna, atBruno] = [changes(hers, binding), changes(his, binding)];
    await Promise.all([subscribed(hers), subscribed(his)]);
    const ids = await insertNotes([
      { owner: bruno, room, body: 'b1' },
      { owner: ana, room, body: 'a1' },
      { owner: bruno, room, body: 'b2' },
      { owner: ana, room, body: 'a2' },
    ]);
    await database.query('delete from checks.notes where id = any($1)', [ids]);
    const heard = (inbox) => inbox.seen.map(({ eventType, new: row, old }) => row.body ?? `${eventType} ${old.id}`);
    await atAna.next("Ana's last", ({ eventType, old }) => eventType === 'DELETE' && old.id === ids[3]);
    await atBruno.next("Bruno's last", ({ eventType, old }) => eventType === 'DELETE' && old.id === ids[2]);
    assert.deepEqual(heard(atAna), ['a1', 'a2', `DELETE ${ids[1]}`, `DELETE ${ids[3]}`]);
    assert.deepEqual(heard(atBruno), ['b1', 'b2', `DELETE ${ids[0]}`, `DELETE ${ids[2]}`]);
  });

  await promise('a row that is handed over leaves nothing of itself with its old owner', async () => {
    const room = fresh('handover');
    const [hers, his] = [asAna().channel(fresh('changes')), asBruno().channel(fresh('changes'))];
    const [atAna, atBruno] = [changes(hers, { event: '*' }), changes(his, { event: '*' })];
    await Promise.all([subscribed(hers), subscribed(his)]);
    const [id] = await insertNotes([{ owner: ana, room, body: 'hers' }]);
    await database.query('update checks.notes set owner = $2, body = $3 where id = $1', [id, bruno.id, 'his']);
    await insertNotes([{ owner: ana, room, body: 'marker' }]);
    await atBruno.next('the row, now his', ({ new: row }) => row.body === 'his');
    await atAna.next('the marker', ({ new: row }) => row.body === 'marker');
    assert.ok(!JSON.stringify(atAna.seen).includes('"his"'));
  });

  await promise('with visibility a row that is handed over is gone here and new there', async () => {
    const room = fresh('visibility');
    const [hers, his] = [asAna().channel(fresh('changes')), asBruno().channel(fresh('changes'))];
    const binding = { filter: `room=eq.${room}`, visibility: true };
    const [gone, come] = [changes(hers, { ...binding, event: 'DELETE' }), changes(his, { ...binding, event: 'INSERT' })];
    await Promise.all([subscribed(hers), subscribed(his)]);
    const [id] = await insertNotes([{ owner: ana, room, body: 'hers' }]);
    await database.query('update checks.notes set owner = $2 where id = $1', [id, bruno.id]);
    assert.deepEqual((await gone.next('the row that is gone')).old, { id });
    const { new: row } = await come.next('the row that has come');
    assert.deepEqual([row.id, row.owner, row.body], [id, bruno.id, 'hers']);
  });

  await promise('several conditions, negation and quoting hold at once', async () => {
    const room = fresh('a,b (c)');
    const channel = asAna().channel(fresh('changes'));
    const inbox = changes(channel, { event: 'INSERT', filter: `room=eq."${room}",number=gte.2,body=not.like.x%` });
    await subscribed(channel);
    await insertNotes([
      { owner: ana, room, body: 'yes', number: 1 },
      { owner: ana, room, body: 'xno', number: 2 },
      { owner: ana, room, body: 'yes', number: 3 },
    ]);
    assert.equal((await inbox.next('the one note that fits')).new.number, 3);
    assert.equal(inbox.seen.length, 1);
  });

  await promise('an event binding gets only its events', async () => {
    const room = fresh('events');
    const channel = asAna().channel(fresh('changes'));
    const inbox = changes(channel, { event: 'UPDATE', filter: `room=eq.${room}` });
    await subscribed(channel);
    const [id] = await insertNotes([{ owner: ana, room, body: 'one' }]);
    await database.query('update checks.notes set body = $2 where id = $1', [id, 'two']);
    assert.equal((await inbox.next('UPDATE')).new.body, 'two');
    assert.equal(inbox.seen.length, 1);
  });

  await promise('a filter on a column that does not exist is reported and harms no one', async () => {
    const room = fresh('unknown');
    const channel = asAna().channel(fresh('changes'));
    changes(channel, { event: 'INSERT', filter: 'nothing=eq.1' });
    const system = new Inbox();
    channel.on('system', {}, system.push);
    const sound = asAna().channel(fresh('changes'));
    const inbox = changes(sound, { event: 'INSERT', filter: `room=eq.${room}` });
    await Promise.all([subscribed(channel), subscribed(sound)]);
    const { message } = await system.next('the error', ({ status }) => status === 'error');
    assert.match(message, /^Unable to subscribe to changes with given parameters/);
    assert.match(message, /invalid column for filter nothing/);
    await insertNotes([{ owner: ana, room, body: 'still' }]);
    assert.equal((await inbox.next('the change')).new.body, 'still');
  });

  await promise('many rows of one transaction all arrive, in order', async () => {
    const room = fresh('bulk');
    const channel = asAna().channel(fresh('changes'));
    const inbox = changes(channel, { event: 'INSERT', filter: `room=eq.${room}` });
    await subscribed(channel);
    await database.query(
      `insert into checks.notes (owner, room, body, number)
       select $1, $2, 'bulk', number from generate_series(1, 2000) as number`,
      [ana.id, room],
    );
    await inbox.next('the last row', ({ new: row }) => row.number === 2000);
    assert.deepEqual(inbox.seen.map(({ new: row }) => row.number), Array.from({ length: 2000 }, (_, index) => index + 1));
  });

  if (checked !== NEWEST) return;
  await promise('a join that waits is answered when the subscription stands', async () => {
    const room = fresh('wait');
    const channel = asAna().channel(fresh('changes'), { config: { postgres_changes_options: { wait: true } } });
    const inbox = changes(channel, { event: 'INSERT', filter: `room=eq.${room}` });
    await subscribed(channel);
    await insertNotes([{ owner: ana, room, body: 'first' }]);
    assert.equal((await inbox.next('the change')).new.body, 'first');
  });
}

async function checkTokens() {
  await promise('a refreshed token changes whose rows arrive, without a new join', async () => {
    const room = fresh('refresh');
    const client = asAna();
    const channel = client.channel(fresh('changes'));
    const inbox = changes(channel, { event: 'INSERT', filter: `room=eq.${room}` });
    const system = new Inbox();
    channel.on('system', {}, system.push);
    const states = await subscribed(channel);
    const subscriptionStands = () =>
      system.next('Subscribed to PostgreSQL', ({ extension, status }) => extension === 'postgres_changes' && status === 'ok');
    await subscriptionStands();
    await client.refresh(tokenOf(bruno));
    await subscriptionStands();
    await insertNotes([
      { owner: ana, room, body: 'hers' },
      { owner: bruno, room, body: 'his' },
    ]);
    assert.equal((await inbox.next('a change')).new.body, 'his');
    assert.deepEqual(states.seen.map(({ status }) => status), ['SUBSCRIBED']);
  });

  await promise('a token that runs out ends its channel, a refreshed one goes on', async () => {
    const [left, kept] = [asAna(tokenOf(ana, 3)), asBruno(tokenOf(bruno, 3))];
    const topic = fresh('expiry');
    const [leftChannel, keptChannel] = [left.channel(topic), kept.channel(topic)];
    const system = new Inbox();
    leftChannel.on('system', {}, system.push);
    const inbox = broadcasts(keptChannel, 'after');
    const [leftStates, keptStates] = await Promise.all([subscribed(leftChannel), subscribed(keptChannel)]);
    await kept.refresh(tokenOf(bruno));
    const { message } = await system.next('the expiry', ({ status }) => status === 'error');
    assert.match(message, /^Token has expired \d+ seconds ago$/);
    await leftStates.next('CLOSED', ({ status }) => status === 'CLOSED');
    const sender = asAna().channel(topic);
    await subscribed(sender);
    await send(sender, 'after', { still: 'here' });
    assert.deepEqual(await inbox.next('a broadcast after the expiry'), { still: 'here' });
    assert.deepEqual(keptStates.seen.map(({ status }) => status), ['SUBSCRIBED']);
  });

  await promise('a join with a damaged token is refused with the reason', async () => {
    const client = asAna();
    // The socket is opened with a sound token, the channel is joined with a broken one.
    await subscribed(client.channel(fresh('sound')));
    await client.refresh('not.a.token');
    const states = new Inbox();
    client.channel(fresh('damaged')).subscribe((status, error) => states.push({ status, error: error?.message }));
    const { error } = await states.next('CHANNEL_ERROR', ({ status }) => status === 'CHANNEL_ERROR');
    assert.match(error, /MalformedJWT: The token provided is not a valid JWT/);
    await client.realtime.disconnect();
  });
}

async function checkRestart() {
  await promise('after a restart of the server the client comes back by itself and everything flows again', async () => {
    const room = fresh('restart');
    const topic = fresh('restart');
    const [hers, his] = [asAna().channel(topic, { config: { presence: { key: 'ana' } } }), asBruno().channel(topic)];
    const inbox = changes(hers, { event: 'INSERT', filter: `room=eq.${room}` });
    const heard = broadcasts(hers, 'note');
    const presence = new Inbox();
    hers.on('presence', { event: 'sync' }, () => presence.push(Object.keys(hers.presenceState())));
    const [herStates, hisStates] = await Promise.all([subscribed(hers), subscribed(his)]);
    await insertNotes([{ owner: ana, room, body: 'before' }]);
    assert.equal((await inbox.next('a change before')).new.body, 'before');

    await restartServer();
    const returned = (states) => states.next('SUBSCRIBED again', ({ status }) => status === 'SUBSCRIBED');
    await Promise.all([returned(herStates), returned(hisStates)]);

    await insertNotes([{ owner: bruno, room, body: 'not hers' }, { owner: ana, room, body: 'after' }]);
    await inbox.next('a change after', ({ new: row }) => row.body === 'after');
    assert.ok(!inbox.seen.some(({ new: row }) => row.body === 'not hers'));
    await send(his, 'note', { after: true });
    assert.deepEqual(await heard.next('a broadcast after'), { after: true });
    await hers.track({ back: true });
    await presence.next('presence after', (keys) => keys.includes('ana'));
  });
}
