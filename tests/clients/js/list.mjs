// A list that never races (docs/protocol.md §5.8): a page shows the notes of a room, and the list is right from its first
// row on, however much is written while it begins. The client is supabase-js, unchanged; all that is new is `snapshot`.
//
//     make clients
//     cargo test --package walcast-tests --test clients list -- --nocapture
import { strict as assert } from 'node:assert';
import { createClient } from '@supabase/supabase-js';
import pg from 'pg';
import { fresh } from './channels.mjs';
import { ana, clientOf, closeClients, database } from './people.mjs';
import { finish, Inbox, promise, requiredEnvironment } from './promise.mjs';

const LISTS = 50;
const supabase = clientOf(createClient, ana);

/** What a page does. The list is a map by key, for which it does not matter which rows were there and which came. */
function showNotes(room, whole, changed) {
  const list = new Map();
  const channel = supabase
    .channel(fresh('list'))
    .on(
      'postgres_changes',
      { event: '*', schema: 'checks', table: 'notes', filter: `room=eq.${room}`, snapshot: true },
      ({ eventType, new: row, old }) => {
        if (eventType === 'DELETE') list.delete(old.id);
        else list.set(row.id, row.number);
        changed(row);
      },
    )
    .on('system', {}, ({ extension, status, message }) => {
      if (extension === 'snapshot') whole({ status, message, rows: list.size });
    })
    .subscribe((status) => {
      if (status === 'SUBSCRIBED') list.clear(); // after a reconnect, too, which brings a new snapshot
    });
  return { channel, list };
}

/** Writes notes of a room until it is stopped. */
async function write(room, state) {
  const client = new pg.Client({ connectionString: requiredEnvironment('DATABASE_URL') });
  await client.connect();
  for (let turn = 0; !state.stopped; turn += 1) {
    await client.query('insert into checks.notes (owner, room, body, number) values ($1, $2, $3, $4)', [ana.id, room, '', turn]);
    const one = '(select id from checks.notes where room = $1 order by random() limit 1)';
    await client.query(`update checks.notes set number = number + 1000 where id = ${one}`, [room]);
    if (turn % 2) await client.query(`delete from checks.notes where id = ${one}`, [room]);
  }
  await client.end();
}

await database.connect();
await promise(`${LISTS} lists that began while rows were written are what SELECT says`, async () => {
  let rows = 0;
  let changes = 0;
  for (let turn = 0; turn < LISTS; turn += 1) {
    const room = fresh('room');
    const state = { stopped: false };
    const writers = [write(room, state), write(room, state), write(room, state)];
    const ends = new Inbox();
    const changed = new Inbox();
    const { channel, list } = showNotes(room, ends.push, changed.push);
    const { status, message, rows: begun } = await ends.next('the end of the snapshot');
    assert.equal(status, 'ok', message);
    // The list is whole, and goes on.
    await changed.next('a change');
    state.stopped = true;
    await Promise.all(writers);
    await database.query('insert into checks.notes (owner, room, body, number) values ($1, $2, $3, -1)', [ana.id, room, 'last']);
    await changed.next('the last note', (row) => row.body === 'last');
    const selected = await database.query('select id, number from checks.notes where room = $1 order by id', [room]);
    assert.deepEqual(
      [...list].sort(([one], [other]) => one - other),
      selected.rows.map(({ id, number }) => [Number(id), number]),
    );
    rows += begun;
    changes += changed.seen.length - begun;
    await supabase.removeChannel(channel);
  }
  console.log(`# ${rows} rows to begin with, ${changes} changes behind them, no difference`);
});
await database.end();
await closeClients();
finish();
