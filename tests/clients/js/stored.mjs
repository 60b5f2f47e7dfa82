// Broadcasts from the database, and their replay.
import { strict as assert } from 'node:assert';
import { broadcasts, fresh, messages } from './channels.mjs';
import { ana, bruno, database, subscribed } from './people.mjs';
import { newTeam } from './private.mjs';
import { promise } from './promise.mjs';

const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;
const sendSql = (topic, event, payload, isPrivate = true) =>
  database.query('select realtime.send($1, $2, $3, $4)', [JSON.stringify(payload), event, topic, isPrivate]);
const sendBytes = (topic, event, bytes) =>
  database.query('select realtime.send_binary($1, $2, $3)', [Buffer.from(bytes), event, topic]);

export async function checkStoredMessages(checking) {
  await checkFunctions(checking);
  await checkChanges(checking);
  await checkReplay(checking);
}

async function checkFunctions({ asAna, asBruno, newest }) {
  await promise('realtime.send reaches the private channel or the public one, as it says', async () => {
    const { topic, memberToken } = newTeam();
    const inside = asAna(memberToken(ana)).channel(topic, { config: { private: true } });
    const outside = asBruno().channel(topic);
    const [atMember, atOutside] = [messages(inside, 'news'), messages(outside, 'news')];
    await Promise.all([subscribed(inside), subscribed(outside)]);
    await sendSql(topic, 'news', { for: 'members', text: 'ñandú' });
    await sendSql(topic, 'news', { for: 'everybody' }, false);
    const { payload: { id, ...payload }, meta } = await atMember.next('the private message');
    assert.deepEqual(payload, { for: 'members', text: 'ñandú' });
    assert.match(id, UUID);
    assert.deepEqual(meta, { id });
    assert.equal((await atOutside.next('the public message')).payload.for, 'everybody');
    assert.equal(atOutside.seen.length, 1);
  });

  await promise('a message of a transaction that is rolled back is never sent', async () => {
    const topic = fresh('rollback');
    const channel = asAna().channel(topic);
    const inbox = broadcasts(channel, 'news');
    await subscribed(channel);
    await database.query('begin');
    await sendSql(topic, 'news', { n: 1 }, false);
    await database.query('rollback');
    await sendSql(topic, 'news', { n: 2 }, false);
    assert.equal((await inbox.next('the second message')).n, 2);
    assert.equal(inbox.seen.length, 1);
  });

  if (!newest) return;
  await promise('realtime.send_binary arrives byte for byte', async () => {
    const { topic, memberToken } = newTeam();
    const channel = asAna(memberToken(ana)).channel(topic, { config: { private: true } });
    const inbox = messages(channel, 'bytes');
    await subscribed(channel);
    await sendBytes(topic, 'bytes', [0, 1, 127, 128, 255]);
    const { payload, meta } = await inbox.next('the bytes');
    assert.deepEqual([...new Uint8Array(payload)], [0, 1, 127, 128, 255]);
    assert.match(meta.id, UUID);
  });
}

/** Runs SQL as somebody who is signed in, as PostgREST would. */
async function as(person, sql, parameters) {
  await database.query('begin');
  try {
    const claims = JSON.stringify({ role: 'authenticated', sub: person.id });
    await database.query(`select set_config('role', 'authenticated', true), set_config('request.jwt.claims', $1, true)`, [claims]);
    const { rows } = await database.query(sql, parameters);
    await database.query('commit');
    return rows;
  } catch (error) {
    await database.query('rollback');
    throw error;
  }
}

async function checkChanges({ asBruno }) {
  await promise('285–287: realtime.broadcast_changes tells INSERT, UPDATE and DELETE of a signed-in user', async () => {
    const room = fresh('room');
    const channel = asBruno().channel(`tasks:${room}`, { config: { private: true } });
    const inbox = broadcasts(channel, '*');
    await subscribed(channel);
    const values = { owner: ana.id, room, title: 'uno', number: 1, done: null };
    const insert = 'insert into checks.tasks (owner, room, title, number) values ($1, $2, $3, $4) returning id';
    const [row] = await as(ana, insert, [ana.id, room, 'uno', 1]);
    const id = Number(row.id);
    await as(ana, `update checks.tasks set title = 'dos', done = true where id = $1`, [id]);
    await as(ana, 'delete from checks.tasks where id = $1', [id]);

    const [before, after] = [{ id, ...values }, { id, ...values, title: 'dos', done: true }];
    const expected = [['INSERT', before, null], ['UPDATE', after, before], ['DELETE', null, after]];
    for (const [operation, record, old_record] of expected) {
      const { id: message, ...told } = await inbox.next(operation);
      assert.match(message, UUID);
      assert.deepEqual(told, { operation, record, old_record, table: 'tasks', schema: 'checks' });
    }
    assert.equal(inbox.seen.length, 3);
  });
}

async function checkReplay({ asAna, asBruno, newest }) {
  const minutesAgo = (minutes) => Date.now() - minutes * 60_000;
  const replaying = (since, limit) => ({ config: { private: true, broadcast: { replay: { since, limit } } } });
  /** Stores messages while somebody listens, and resolves when they have been live: who joins now gets them by replay. */
  const stored = async ({ topic, memberToken }, store) => {
    const witness = asBruno(memberToken(bruno)).channel(topic, { config: { private: true } });
    const marks = messages(witness, 'mark');
    await subscribed(witness);
    await store();
    await sendSql(topic, 'mark', {});
    await marks.next('what was stored last');
    await witness.unsubscribe();
  };

  await promise('291: stored messages are replayed at the join, flagged, oldest first, and live ones follow', async () => {
    const team = newTeam();
    const { topic, memberToken } = team;
    await stored(team, async () => {
      for (let n = 1; n <= 5; n += 1) await sendSql(topic, 'stored', { n });
      await sendSql(topic, 'stored', { n: 'public' }, false);
    });
    // Three and the mark.
    const channel = asAna(memberToken(ana)).channel(topic, replaying(minutesAgo(5), 4));
    const inbox = messages(channel, 'stored');
    await subscribed(channel);
    await inbox.next('the last stored one', ({ payload }) => payload.n === 5);
    await sendSql(topic, 'stored', { n: 6 });
    await inbox.next('the live one', ({ payload }) => payload.n === 6);
    assert.deepEqual(inbox.seen.map(({ payload, meta }) => [payload.n, meta.replayed ?? false]), [
      [3, true],
      [4, true],
      [5, true],
      [6, false],
    ]);
    assert.equal(inbox.seen[0].payload.id, inbox.seen[0].meta.id);
  });

  await promise('291: a replay begins where `since` says', async () => {
    const team = newTeam();
    const { topic, memberToken } = team;
    const store = (n, minutes) =>
      database.query(
        `insert into realtime.messages (topic, extension, event, payload, private, inserted_at)
         values ($1, 'broadcast', 'stored', $2, true, (now() at time zone 'UTC') - make_interval(mins => $3))`,
        [topic, JSON.stringify({ n }), minutes],
      );
    await stored(team, async () => {
      await store('old', 60);
      await store('new', 10);
    });
    const channel = asBruno(memberToken(bruno)).channel(topic, replaying(minutesAgo(30)));
    const inbox = broadcasts(channel, 'stored');
    await subscribed(channel);
    await inbox.next('the newer one', ({ n }) => n === 'new');
    await sendSql(topic, 'stored', { n: 'live' });
    await inbox.next('the live one', ({ n }) => n === 'live');
    assert.deepEqual(inbox.seen.map(({ n }) => n), ['new', 'live']);
  });

  if (!newest) return;
  await promise('291: bytes are replayed as bytes', async () => {
    const team = newTeam();
    const { topic, memberToken } = team;
    await stored(team, () => sendBytes(topic, 'stored', [0, 200, 7]));
    const channel = asAna(memberToken(ana)).channel(topic, replaying(minutesAgo(5)));
    const inbox = messages(channel, 'stored');
    await subscribed(channel);
    const { payload, meta } = await inbox.next('the bytes');
    assert.deepEqual([...new Uint8Array(payload)], [0, 200, 7]);
    assert.equal(meta.replayed, true);
  });
}
