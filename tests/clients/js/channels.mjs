// What the checks of channels share: names, inboxes for what arrives, and joins that are to be refused.
import { strict as assert } from 'node:assert';
import { randomUUID } from 'node:crypto';
import { Inbox } from './promise.mjs';

/** A name of this run's own, so that runs on one server do not meet. */
export const fresh = (name) => `${name}:${randomUUID()}`;

/** Listens for broadcasts of one event and puts them whole into an inbox. */
export function messages(channel, event) {
  const inbox = new Inbox();
  channel.on('broadcast', { event }, inbox.push);
  return inbox;
}

/** Listens for broadcasts of one event and puts their payloads into an inbox. */
export function broadcasts(channel, event) {
  const inbox = new Inbox();
  channel.on('broadcast', { event }, ({ payload }) => inbox.push(payload));
  return inbox;
}

/** Listens for changes of a table, of the notes if none is named, and puts them into an inbox. */
export function changes(channel, binding) {
  const inbox = new Inbox();
  channel.on('postgres_changes', { schema: 'checks', table: 'notes', ...binding }, inbox.push);
  return inbox;
}

export const send = (channel, event, payload) => channel.send({ type: 'broadcast', event, payload });

/** A channel that follows presence under `key`, and an inbox of what happens there. */
export function withPresence(client, topic, key, config = {}) {
  const channel = client.channel(topic, { config: { ...config, presence: { key } } });
  const present = () => Object.keys(channel.presenceState()).sort();
  const inbox = new Inbox();
  channel.on('presence', { event: 'sync' }, () => inbox.push({ sync: present() }));
  channel.on('presence', { event: 'join' }, ({ key: joined }) => inbox.push({ join: joined }));
  channel.on('presence', { event: 'leave' }, ({ key: left }) => inbox.push({ leave: left }));
  const seesPresent = (...keys) =>
    inbox.next(`presence of exactly ${keys}`, ({ sync }) => sync && String(sync) === String(keys));
  return { channel, inbox, seesPresent };
}

/** Subscribes, and resolves with the reason once the channel is in CHANNEL_ERROR. */
export async function refused(client, topic, options) {
  const states = new Inbox();
  client.channel(topic, options).subscribe((status, error) => states.push({ status, reason: error?.message }));
  const { status, reason } = await states.next('an answer to the join');
  assert.equal(status, 'CHANNEL_ERROR', `${topic} was not refused`);
  // Or it would try again and again.
  await client.realtime.disconnect();
  // Older versions put it in quotation marks.
  return reason.replace(/^"(.*)"$/, '$1');
}
