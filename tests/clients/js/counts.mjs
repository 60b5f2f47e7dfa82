// Many messages of every kind: none is lost, none comes twice, each sender's are in order. How fast they are is another
// question, which the benchmarks ask.
import { strict as assert } from 'node:assert';
import { broadcasts, changes, fresh, send, withPresence } from './channels.mjs';
import { ana, bruno, database, subscribed } from './people.mjs';
import { newTeam } from './private.mjs';
import { promise } from './promise.mjs';

const COUNT = 500;
const upTo = (count) => Array.from({ length: count }, (_, n) => n);

/** Waits for the last of `count` payloads `{ n }` and asserts that all came, in order. */
async function allArrive(inbox, count) {
  await inbox.next(`number ${count - 1}`, ({ n }) => n === count - 1);
  assert.deepEqual(inbox.seen.map(({ n }) => n), upTo(count));
}

export async function checkCounts({ asAna, asBruno, newest }) {
  await promise(`292: ${COUNT} broadcasts come back to their sender`, async () => {
    const channel = asAna().channel(fresh('many'), { config: { broadcast: { self: true } } });
    const inbox = broadcasts(channel, 'n');
    await subscribed(channel);
    for (const n of upTo(COUNT)) send(channel, 'n', { n });
    await allArrive(inbox, COUNT);
  });

  await promise('292: 100 broadcasts over HTTP arrive', async () => {
    const topic = fresh('many');
    const his = asBruno().channel(topic);
    const inbox = broadcasts(his, 'n');
    await subscribed(his);
    const client = asAna();
    await client.realtime.setAuth();
    const channel = client.channel(topic);
    for (const n of upTo(100)) await (newest ? channel.httpSend('n', { n }) : send(channel, 'n', { n }));
    await allArrive(inbox, 100);
  });

  await promise(`292: ${COUNT} messages of one transaction in the database arrive`, async () => {
    const { topic, memberToken } = newTeam();
    const channel = asAna(memberToken(ana)).channel(topic, { config: { private: true } });
    const inbox = broadcasts(channel, 'n');
    await subscribed(channel);
    const sql = `select realtime.send(jsonb_build_object('n', n), 'n', $1, true) from generate_series(0, $2::int - 1) as n`;
    await database.query(sql, [topic, COUNT]);
    await allArrive(inbox, COUNT);
  });

  await promise('292: 40 people are seen to come', async () => {
    const topic = fresh('many');
    const hers = withPresence(asAna(), topic, 'ana');
    await subscribed(hers.channel);
    const keys = upTo(40).map((n) => `p${String(n).padStart(2, '0')}`);
    const arrive = async (key) => {
      const { channel } = withPresence(asBruno(), topic, key);
      await subscribed(channel);
      assert.equal(await channel.track({}), 'ok');
    };
    await Promise.all([...keys.map(arrive), hers.seesPresent(...keys)]);
    assert.equal(hers.inbox.seen.filter(({ join }) => join !== undefined).length, 40);
  });

  await promise(`292: ${COUNT} each of INSERT, UPDATE and DELETE arrive`, async () => {
    const room = fresh('many');
    const channel = asBruno().channel(fresh('changes'));
    const inbox = changes(channel, { event: '*', filter: `room=eq.${room}` });
    await subscribed(channel);
    const insert = `insert into checks.notes (owner, room, body, number) select $1, $2, 'many', n from generate_series(0, $3::int - 1) as n`;
    await database.query(insert, [bruno.id, room, COUNT]);
    await database.query(`update checks.notes set body = 'changed' where room = $1`, [room]);
    await database.query('delete from checks.notes where room = $1', [room]);
    const deleted = () => inbox.seen.filter(({ eventType }) => eventType === 'DELETE').length;
    await inbox.next('the last DELETE', () => deleted() === COUNT);
    const sorted = (event, row) =>
      inbox.seen.filter(({ eventType }) => eventType === event).map((change) => change[row].number ?? change[row].id).sort((a, b) => a - b);
    assert.deepEqual(sorted('INSERT', 'new'), upTo(COUNT));
    assert.deepEqual(sorted('UPDATE', 'new'), upTo(COUNT));
    assert.equal(new Set(sorted('DELETE', 'old')).size, COUNT);
    assert.equal(inbox.seen.length, 3 * COUNT);
  });
}
