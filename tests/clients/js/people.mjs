// Two people with tokens of their own, the clients they speak through, and the database they write to.
import { createHmac, randomUUID } from 'node:crypto';
import pg from 'pg';
import WebSocket from 'ws';
import { Inbox, requiredEnvironment } from './promise.mjs';

const url = requiredEnvironment('WALCAST_URL');
const secret = requiredEnvironment('WALCAST_JWT_SECRET');

export const ana = { name: 'ana', id: randomUUID() };
export const bruno = { name: 'bruno', id: randomUUID() };

/** An HS256 token of the role `authenticated` for one person, unless the claims say otherwise. */
export function tokenOf(person, secondsToLive = 3600, claims = {}) {
  const encode = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
  const now = Math.floor(Date.now() / 1000);
  const all = { role: 'authenticated', sub: person.id, iat: now, exp: now + secondsToLive, ...claims };
  const signed = `${encode({ alg: 'HS256', typ: 'JWT' })}.${encode(all)}`;
  return `${signed}.${createHmac('sha256', secret).update(signed).digest('base64url')}`;
}

const clients = [];

/** A stock client of the package whose `createClient` is given, speaking as `person`. */
export function clientOf(createClient, person, token = tokenOf(person)) {
  const held = { token };
  let wire;
  class Wire extends WebSocket {
    constructor(...parameters) {
      super(...parameters);
      // A client that is closed while it connects listens to nothing any more. In Node.js, unlike in a browser, an error
      // that nobody listens to ends the process.
      this.on('error', () => {});
      wire = this;
    }
  }
  const client = createClient(url, token, {
    accessToken: async () => held.token,
    // Node 20 has no WebSocket of its own.
    realtime: { transport: Wire },
  });
  clients.push(client);
  return Object.assign(client, {
    /** What an application does when its session is refreshed: the client asks for the token again. */
    refresh: async (newToken) => {
      held.token = newToken;
      await client.realtime.setAuth();
    },
    /** What a tunnel does: the connection is gone, and nobody has said goodbye. The client connects again by itself. */
    loseConnection: () => wire.terminate(),
  });
}

export async function closeClients() {
  await Promise.all(clients.map((client) => client.realtime.disconnect()));
}

/** Subscribes, and resolves with the inbox of the channel's states once it is SUBSCRIBED. */
export async function subscribed(channel) {
  const states = new Inbox();
  channel.subscribe((status, error) => states.push({ status, error: error?.message }));
  await states.next(`SUBSCRIBED on ${channel.topic}`, ({ status }) => status === 'SUBSCRIBED');
  return states;
}

export const database = new pg.Client({ connectionString: requiredEnvironment('DATABASE_URL') });

/** Inserts notes in one transaction, in the given order, and returns their ids. */
export async function insertNotes(notes) {
  const ids = [];
  await database.query('begin');
  for (const { owner, room, body, number = 0, tags = [], details = {} } of notes) {
    const { rows } = await database.query(
      `insert into checks.notes (owner, room, body, number, tags, details) values ($1, $2, $3, $4, $5, $6) returning id`,
      [owner.id, room, body, number, tags, JSON.stringify(details)],
    );
    ids.push(Number(rows[0].id));
  }
  await database.query('commit');
  return ids;
}

/** The same with tasks, whose title, number and done may be null. */
export async function insertTasks(tasks) {
  const ids = [];
  await database.query('begin');
  for (const { owner, room, title, number, done } of tasks) {
    const { rows } = await database.query(
      'insert into checks.tasks (owner, room, title, number, done) values ($1, $2, $3, $4, $5) returning id',
      [owner.id, room, title, number, done],
    );
    ids.push(Number(rows[0].id));
  }
  await database.query('commit');
  return ids;
}
