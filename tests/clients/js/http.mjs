// Broadcasts over HTTP, as the client sends them.
import { strict as assert } from 'node:assert';
import { broadcasts, fresh, send } from './channels.mjs';
import { ana, bruno, subscribed } from './people.mjs';
import { newTeam } from './private.mjs';
import { promise } from './promise.mjs';

export async function checkHttp({ asAna, asBruno, newest }) {
  await promise('279: send() before joining goes over HTTP and arrives', async () => {
    const topic = fresh('http');
    const his = asBruno().channel(topic);
    const inbox = broadcasts(his, 'note');
    await subscribed(his);
    const client = asAna();
    // What a join would do: the client asks for the token.
    await client.realtime.setAuth();
    assert.equal(await send(client.channel(topic), 'note', { text: 'señal' }), 'ok');
    assert.deepEqual(await inbox.next('the broadcast'), { text: 'señal' });
  });

  if (!newest) return;
  await promise('279: httpSend reaches the members of a public topic, whatever its name', async () => {
    const topic = fresh('plaza mayor/ñ?');
    const his = asBruno().channel(topic);
    const inbox = broadcasts(his, 'una nota/%');
    await subscribed(his);
    const client = asAna();
    await client.realtime.setAuth();
    assert.deepEqual(await client.channel(topic).httpSend('una nota/%', { n: 1 }), { success: true });
    assert.deepEqual(await inbox.next('the broadcast'), { n: 1 });
  });

  await promise('279: httpSend of bytes arrives byte for byte', async () => {
    const topic = fresh('http');
    const his = asBruno().channel(topic);
    const inbox = broadcasts(his, 'blob');
    await subscribed(his);
    const client = asAna();
    await client.realtime.setAuth();
    await client.channel(topic).httpSend('blob', Uint8Array.from([0, 255, 10]));
    assert.deepEqual([...new Uint8Array(await inbox.next('the bytes'))], [0, 255, 10]);
  });

  await promise('279: httpSend to a private topic needs the permission to send there', async () => {
    const { topic, memberToken } = newTeam();
    const config = { config: { private: true } };
    const his = asBruno(memberToken(bruno)).channel(topic, config);
    const inbox = broadcasts(his, 'note');
    await subscribed(his);
    const [member, stranger] = [asAna(memberToken(ana)), asAna()];
    await Promise.all([member.realtime.setAuth(), stranger.realtime.setAuth()]);
    await assert.rejects(stranger.channel(topic, config).httpSend('note', { from: 'stranger' }), /^Error: Unauthorized/);
    assert.deepEqual(await member.channel(topic, config).httpSend('note', { from: 'member' }), { success: true });
    assert.deepEqual(await inbox.next('the broadcast'), { from: 'member' });
    assert.equal(inbox.seen.length, 1);
  });
}
