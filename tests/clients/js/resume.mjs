// Subscribers that lose their connection again and again, each at an address of its own, and what each has seen.
//
//     WALCAST_URLS=http://…,http://… WALCAST_JWT_SECRET=… node resume.mjs <package>
//
// Prints SUBSCRIBED once all are, and after LAST on standard input, and once everybody has seen the row that says so, one
// line of JSON for each client: the numbers of the rows in the order of their arrival, and null for each SUBSCRIBED.
import { createHmac } from 'node:crypto';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import WebSocket from 'ws';
import { requiredEnvironment, withDeadline } from './promise.mjs';

const [packageName] = process.argv.slice(2);
const { createClient } = await import(packageName);
const secret = requiredEnvironment('WALCAST_JWT_SECRET');

class Wire extends WebSocket {
  constructor(...parameters) {
    super(...parameters);
    this.on('error', () => {});
  }
}

function tokenOf(subject) {
  const encode = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
  const exp = Math.floor(Date.now() / 1000) + 3600;
  const signed = `${encode({ alg: 'HS256', typ: 'JWT' })}.${encode({ role: 'authenticated', sub: subject, exp })}`;
  return `${signed}.${createHmac('sha256', secret).update(signed).digest('base64url')}`;
}

function subscriber(url, index) {
  const token = tokenOf(`js-${packageName}-${index}`);
  const client = createClient(url, token, {
    accessToken: async () => token,
    realtime: { transport: Wire, reconnectAfterMs: () => 100 },
  });
  const seen = [];
  const told = [];
  let subscribed, finished;
  const isSubscribed = new Promise((resolve) => (subscribed = resolve));
  const isFinished = new Promise((resolve) => (finished = resolve));
  client
    .channel('stream')
    .on('postgres_changes', { event: 'INSERT', schema: 'public', table: 'stream' }, ({ new: row }) => {
      seen.push(Number(row.seq));
      if (row.body === 'last') finished();
    })
    .on('system', {}, (message) => {
      if (message.extension === 'resume') told.push(message.message);
    })
    .subscribe((status) => {
      if (status === 'SUBSCRIBED') {
        seen.push(null);
        subscribed();
      }
    });
  return { index, seen, told, isSubscribed, isFinished };
}

const subscribers = requiredEnvironment('WALCAST_URLS').split(',').map(subscriber);
await withDeadline(Promise.all(subscribers.map(({ isSubscribed }) => isSubscribed)), 'SUBSCRIBED', 60_000);
console.log('SUBSCRIBED');
const lines = createInterface({ input: process.stdin });
await once(lines, 'line');
await withDeadline(Promise.all(subscribers.map(({ isFinished }) => isFinished)), 'the last row', 60_000).catch(() => {});
for (const { index, seen, told } of subscribers) {
  await new Promise((resolve) => process.stdout.write(`${JSON.stringify({ index, seen, told })}\n`, resolve));
}
process.exit(0);
