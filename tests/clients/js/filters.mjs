// Filters, `select`, and changes that happen at once.
import { strict as assert } from 'node:assert';
import pg from 'pg';
import { changes, fresh } from './channels.mjs';
import { ana, database, insertNotes, insertTasks, subscribed } from './people.mjs';
import { promise, requiredEnvironment } from './promise.mjs';

/** The tasks that the filters choose from. */
const tasks = [
  { title: 'alpha', number: 1, done: true },
  { title: 'Beta', number: 5, done: false },
  { title: 'a,b (c)', number: 10, done: null },
  { title: null, number: null, done: true },
];

/** As text, as the newest client's builder writes it, and the places in `tasks` of what must arrive. */
const filters = [
  ['number=eq.5', (where) => where.eq('number', 5), [1]],
  ['number=neq.5', (where) => where.neq('number', 5), [0, 2]],
  ['number=lt.5', (where) => where.lt('number', 5), [0]],
  ['number=lte.5', (where) => where.lte('number', 5), [0, 1]],
  ['number=gt.5', (where) => where.gt('number', 5), [2]],
  ['number=gte.5', (where) => where.gte('number', 5), [1, 2]],
  ['number=in.(1,10)', (where) => where.in('number', [1, 10]), [0, 2]],
  ['title=in.("a,b (c)",Beta)', (where) => where.in('title', ['a,b (c)', 'Beta']), [1, 2]],
  ['title=like.%a', (where) => where.like('title', '%a'), [0, 1]],
  ['title=ilike.B%', (where) => where.ilike('title', 'B%'), [1]],
  ['title=match.^[a-z]+$', (where) => where.match('title', '^[a-z]+$'), [0]],
  ['title=imatch.^[a-z]+$', (where) => where.imatch('title', '^[a-z]+$'), [0, 1]],
  ['done=is.true', (where) => where.is('done', true), [0, 3]],
  ['done=is.null', (where) => where.is('done', null), [2]],
  ['number=isdistinct.5', (where) => where.isDistinct('number', 5), [0, 2, 3]],
  ['title=eq."a,b (c)"', (where) => where.eq('title', 'a,b (c)'), [2]],
  ['done=not.is.null', (where) => where.not('done', 'is', null), [0, 1, 3]],
  ['title=not.like.a%', (where) => where.not('title', 'like', 'a%'), [1]],
  ['number=gt.1,number=lt.10', (where) => where.gt('number', 1).lt('number', 10), [1]],
  ['number=gte.5,done=is.null,title=not.ilike.b%', (where) => where.gte('number', 5).is('done', null).not('title', 'ilike', 'b%'), [2]],
];

export async function checkFilters({ asAna, newest, library }) {
  await promise('290: each filter operator, negated and combined, lets through exactly the rows that fit', async () => {
    const room = fresh('filters');
    const channel = asAna().channel(fresh('changes'));
    const follow = (filter) => changes(channel, { table: 'tasks', event: 'INSERT', filter });
    const inboxes = filters.map(([text, build]) => {
      if (!newest) return follow(`room=eq.${room},${text}`);
      const builder = build(new library.RealtimePostgresFilterBuilder());
      assert.equal(builder.build(), text);
      return follow(build(new library.RealtimePostgresFilterBuilder().eq('room', room)));
    });
    const everything = follow(`room=eq.${room}`);
    await subscribed(channel);
    const ids = await insertTasks(tasks.map((task) => ({ owner: ana, room, ...task })));
    await everything.next('the last task', ({ new: row }) => row.id === ids.at(-1));
    const arrived = inboxes.map((inbox, index) => [filters[index][0], inbox.seen.map(({ new: row }) => ids.indexOf(row.id))]);
    assert.deepEqual(arrived, filters.map(([text, , expected]) => [text, expected]));
  });

  await promise('288: INSERT, UPDATE and DELETE from several connections at once all arrive, under a filter', async () => {
    const [room, elsewhere] = [fresh('busy'), fresh('busy')];
    const channel = asAna().channel(fresh('changes'));
    const inbox = changes(channel, { event: '*', filter: `room=eq.${room}` });
    await subscribed(channel);
    const pool = new pg.Pool({ connectionString: requiredEnvironment('DATABASE_URL'), max: 4 });
    const live = async (index) => {
      const insert = 'insert into checks.notes (owner, room, body) values ($1, $2, $3) returning id';
      const { rows: [{ id }] } = await pool.query(insert, [ana.id, index % 2 ? elsewhere : room, 'new']);
      await pool.query(`update checks.notes set body = 'changed' where id = $1`, [id]);
      await pool.query('delete from checks.notes where id = $1', [id]);
      return Number(id);
    };
    const ids = await Promise.all(Array.from({ length: 60 }, (_, index) => live(index)));
    await pool.end();
    const [last] = await insertNotes([{ owner: ana, room, body: 'last' }]);
    await inbox.next('the last note', ({ new: row }) => row.id === last);
    const heard = (id) => inbox.seen.filter((change) => (change.new.id ?? change.old.id) === id).map(({ eventType }) => eventType);
    ids.forEach((id, index) => assert.deepEqual(heard(id), index % 2 ? [] : ['INSERT', 'UPDATE', 'DELETE']));
  });

  if (!newest) return;
  await promise('289: select restricts new and old rows to the listed columns and the key', async () => {
    const room = fresh('select');
    const channel = asAna().channel(fresh('changes'));
    const inbox = changes(channel, { event: '*', filter: `room=eq.${room}`, select: ['body'] });
    await subscribed(channel);
    const [id] = await insertNotes([{ owner: ana, room, body: 'one' }]);
    await database.query(`update checks.notes set body = 'two' where id = $1`, [id]);
    await database.query('delete from checks.notes where id = $1', [id]);
    assert.deepEqual((await inbox.next('INSERT')).new, { id, body: 'one' });
    const { new: row, old } = await inbox.next('UPDATE');
    assert.deepEqual([row, old], [{ id, body: 'two' }, { id, body: 'one' }]);
    assert.equal((await inbox.next('DELETE')).old.id, id);
  });
}
