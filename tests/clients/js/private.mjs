// Channels that policies on realtime.messages guard; the policies are in schema.sql.
import { strict as assert } from 'node:assert';
import { randomUUID } from 'node:crypto';
import { broadcasts, fresh, messages, refused, send, withPresence } from './channels.mjs';
import { ana, bruno, subscribed, tokenOf } from './people.mjs';
import { Inbox, promise } from './promise.mjs';

const mayNotRead = (topic) => `Unauthorized: You do not have permissions to read from this Channel topic: ${topic}`;
const secret = (more = {}) => ({ config: { private: true, ...more } });

/** A private topic of a new team, and tokens of its members. */
export function newTeam() {
  const team = randomUUID();
  const memberToken = (person) => tokenOf(person, 3600, { team });
  return { topic: fresh(`team:${team}`), memberToken };
}

export async function checkPrivateChannels({ asAna, asBruno }) {
  await promise('277: the first connection is subscribed within the ten seconds that a client waits', async () => {
    const begun = performance.now();
    await subscribed(asAna().channel(fresh('first')));
    assert.ok(performance.now() - begun < 10_000);
  });

  await promise('282: a private channel is refused without permission, with the reason', async () => {
    const { topic } = newTeam();
    assert.equal(await refused(asAna(), topic, secret()), mayNotRead(topic));
  });

  await promise('283: with permission a private channel is subscribed, and what is sent there stays there', async () => {
    const { topic, memberToken } = newTeam();
    const hers = asAna(memberToken(ana)).channel(topic, secret());
    const his = asBruno(memberToken(bruno)).channel(topic, secret());
    const outside = asBruno().channel(topic, { config: { broadcast: { self: true } } });
    const [atBruno, atOutside] = [broadcasts(his, 'note'), broadcasts(outside, 'note')];
    await Promise.all([hers, his, outside].map(subscribed));
    await send(hers, 'note', { for: 'members' });
    assert.deepEqual(await atBruno.next("Ana's broadcast"), { for: 'members' });
    // The public channel of the same name is another one.
    await send(outside, 'note', { for: 'everybody' });
    assert.deepEqual(await atOutside.next('the own broadcast'), { for: 'everybody' });
    await send(hers, 'note', { last: true });
    assert.deepEqual(await atBruno.next("Ana's second broadcast"), { last: true });
    assert.deepEqual([atBruno.seen.length, atOutside.seen.length], [2, 1]);
  });

  await promise('284: a private channel by JWT claims: for one team and not for another', async () => {
    const [one, other] = [newTeam(), newTeam()];
    await subscribed(asAna(one.memberToken(ana)).channel(one.topic, secret()));
    assert.equal(await refused(asAna(one.memberToken(ana)), other.topic, secret()), mayNotRead(other.topic));
  });

  await promise('284: a private channel by the role of the token', async () => {
    const topic = fresh('staff');
    await subscribed(asAna(tokenOf(ana, 3600, { role: 'staff' })).channel(topic, secret()));
    assert.equal(await refused(asBruno(), topic, secret()), mayNotRead(topic));
  });

  await promise('who may only read a private channel is told so when sending, and stays', async () => {
    const topic = fresh('board');
    const channel = asAna().channel(topic, secret({ broadcast: { ack: true, self: true } }));
    const [inbox, states] = [broadcasts(channel, 'note'), await subscribed(channel)];
    assert.equal(await send(channel, 'note', { n: 1 }), 'error');
    assert.equal(await channel.track({}), 'error');
    assert.equal(inbox.seen.length, 0);
    assert.deepEqual(states.seen.map(({ status }) => status), ['SUBSCRIBED']);
  });

  await promise('281: presence on a private channel: who comes, changes and leaves', async () => {
    const { topic, memberToken } = newTeam();
    const hers = withPresence(asAna(memberToken(ana)), topic, 'ana', { private: true });
    const his = withPresence(asBruno(memberToken(bruno)), topic, 'bruno', { private: true });
    const outside = withPresence(asBruno(), topic, 'outside');
    await Promise.all([hers, his, outside].map(({ channel }) => subscribed(channel)));
    assert.equal(await hers.channel.track({ estado: 'en línea' }), 'ok');
    await his.seesPresent('ana');
    assert.equal(await his.channel.track({ estado: 'libre' }), 'ok');
    await hers.seesPresent('ana', 'bruno');
    assert.equal(await his.channel.track({ estado: 'ocupado' }), 'ok');
    await hers.inbox.next('the new state', () => {
      const metas = hers.channel.presenceState().bruno ?? [];
      return metas.length === 1 && metas[0].estado === 'ocupado';
    });
    await his.channel.unsubscribe();
    await hers.seesPresent('ana');
    assert.equal(await outside.channel.track({}), 'ok');
    await outside.seesPresent('outside');
    assert.ok(!outside.inbox.seen.some(({ join }) => join === 'ana' || join === 'bruno'));
  });

  await promise('a refreshed token keeps a private channel that it may read, and ends one that it may not', async () => {
    const { topic, memberToken } = newTeam();
    const client = asAna(memberToken(ana));
    const channel = client.channel(topic, secret({ broadcast: { ack: true } }));
    const system = new Inbox();
    channel.on('system', {}, system.push);
    const states = await subscribed(channel);
    assert.equal(await send(channel, 'note', {}), 'ok');
    await client.refresh(memberToken(bruno));
    assert.equal(await send(channel, 'note', {}), 'ok');
    await client.refresh(newTeam().memberToken(ana));
    const { message } = await system.next('the end of the permission', ({ status }) => status === 'error');
    assert.equal(message, `You do not have permissions to read from this Channel topic: ${topic}`);
    await states.next('CLOSED', ({ status }) => status === 'CLOSED');
  });

  await promise('a connection that is lost and comes back within the grace was never away', async () => {
    const { topic, memberToken } = newTeam();
    const hers = withPresence(asAna(memberToken(ana)), topic, 'ana', { private: true });
    const hisClient = asBruno(memberToken(bruno));
    const his = withPresence(hisClient, topic, 'bruno', { private: true });
    const marks = messages(hers.channel, 'mark');
    const states = new Inbox();
    // As applications do it: what is tracked is tracked again after every join.
    his.channel.subscribe(async (status) => {
      if (status === 'SUBSCRIBED') states.push(await his.channel.track({ estado: 'en camino' }));
    });
    await subscribed(hers.channel);
    assert.equal(await states.next('the first track'), 'ok');
    await hers.seesPresent('bruno');
    hisClient.loseConnection();
    assert.equal(await states.next('the track after the reconnect'), 'ok');
    await send(his.channel, 'mark', {});
    await marks.next('what he sent behind it');
    assert.deepEqual(Object.keys(hers.channel.presenceState()), ['bruno']);
    assert.ok(!hers.inbox.seen.some(({ leave }) => leave === 'bruno'), 'no leave');
    assert.equal(hers.inbox.seen.filter(({ join }) => join === 'bruno').length, 1, 'one join');
  });
}
