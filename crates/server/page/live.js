// Everything this page hears and says over the WebSocket, through the stock supabase-js client: row changes, Presence
// and Broadcast. Nothing here touches the page; what happens is handed to the callbacks in `on`.
import { ObservedWebSocket, observeSockets } from './frames.js';
import { createClient } from './vendor/supabase.js';

/**
 * Goes live as one person.
 *
 * `on.change(table, change)`   a row was inserted, updated or deleted, and this person may see it
 * `on.online(people)`          a map from person to the number of their windows
 * `on.typing(room, person)`    somebody writes in a room
 * `on.position(order, coords)` an operator moved: `{ lat, lng, heading }`
 * `on.alert(message)`          a maintenance alert for everybody
 * `on.connection(state)`       `connecting`, `up` or `down`
 * `on.joined()`                every channel is joined: what is fetched from now on misses nothing
 */
export async function goLive({ me, apiKey, token, on }) {
  const client = createClient(location.origin, apiKey, {
    accessToken: token,
    realtime: { transport: ObservedWebSocket, heartbeatIntervalMs: 15_000 },
  });
  // From here on every join carries this person's token; the client asks for it again with each heartbeat.
  await client.realtime.setAuth();
  const channels = new Map();
  const joined = new Set();
  const connection = new Connection(on.connection);

  const join = (topic, config, listen) => {
    if (channels.has(topic)) return;
    const channel = client.channel(topic, { config });
    channels.set(topic, channel);
    listen(channel);
    channel.subscribe((status) => {
      if (channels.get(topic) !== channel) return;
      if (status !== 'SUBSCRIBED') {
        joined.delete(topic);
        connection.update({ joined: false });
        return;
      }
      joined.add(topic);
      if (topic === SYSTEM) channel.track({ name: me.name });
      if (joined.size < channels.size) return;
      connection.update({ joined: true });
      on.joined();
    });
  };

  const leave = (topic) => {
    const channel = channels.get(topic);
    channels.delete(topic);
    joined.delete(topic);
    if (channel) client.removeChannel(channel);
  };

  const changesOf = (channel, table, event, filter) =>
    channel.on('postgres_changes', { event, schema: 'public', table, ...(filter && { filter }) },
      (change) => on.change(table, change));

  /** Sends at once or not at all: what is said here is worthless later. */
  const whisper = (topic, event, payload) => {
    if (joined.has(topic)) channels.get(topic).send({ type: 'broadcast', event, payload });
  };

  observeSockets(({ kind }) => {
    if (kind === 'open') connection.update({ open: true });
    if (kind === 'close') {
      joined.clear();
      connection.update({ open: false, joined: false });
    }
  });
  window.addEventListener('offline', () => connection.update({ network: false }));
  window.addEventListener('online', () => connection.update({ network: true }));

  join(SYSTEM, { presence: { key: me.id } }, (channel) => {
    channel.on('presence', { event: 'sync' }, () => {
      const state = channel.presenceState();
      on.online(new Map(Object.entries(state).map(([person, windows]) => [person, windows.length])));
    });
    channel.on('broadcast', { event: 'maintenance_alert' }, ({ payload }) => on.alert(String(payload?.msg ?? '')));
  });
  join(`user:${me.id}`, {}, (channel) => {
    changesOf(channel, 'notificaciones', '*');
    changesOf(channel, 'solicitudes', '*');
    changesOf(channel, 'sala_miembros', '*');
  });

  return {
    /** Joins the rooms in the list and leaves the others. */
    watchRooms(rooms) {
      const wanted = new Set(rooms.map((room) => `room:${room}`));
      for (const topic of [...channels.keys()]) if (topic.startsWith('room:') && !wanted.has(topic)) leave(topic);
      for (const room of rooms) {
        join(`room:${room}`, {}, (channel) => {
          changesOf(channel, 'mensajes', '*', `sala_id=eq.${room}`);
          channel.on('broadcast', { event: 'escribiendo' }, ({ payload }) => on.typing(room, String(payload?.person)));
        });
      }
    },

    /** Follows the positions of the orders in the list and of no others. */
    watchOrders(orders) {
      const wanted = new Set(orders.map((order) => `tracking:${order}`));
      for (const topic of [...channels.keys()]) if (topic.startsWith('tracking:') && !wanted.has(topic)) leave(topic);
      for (const order of orders) {
        join(`tracking:${order}`, {}, (channel) => {
          channel.on('broadcast', { event: 'coords_update' }, ({ payload }) => on.position(order, payload));
        });
      }
    },

    sayTyping: (room) => whisper(`room:${room}`, 'escribiendo', { person: me.id }),
    sayPosition: (order, coords) => whisper(`tracking:${order}`, 'coords_update', coords),
  };
}

const SYSTEM = 'global:system';

/** Sums up what is known of the connection in one word, and says it when it changes. */
class Connection {
  #facts = { network: navigator.onLine, open: false, joined: false, lost: false };
  #said = null;
  #say;

  constructor(say) {
    this.#say = say;
    this.update({});
  }

  update(facts) {
    Object.assign(this.#facts, facts);
    const { network, open, joined } = this.#facts;
    if (facts.open === false || !network) this.#facts.lost = true;
    if (network && open && joined) this.#facts.lost = false;
    const state = network && open && joined ? 'up' : this.#facts.lost ? 'down' : 'connecting';
    if (state === this.#said) return;
    this.#said = state;
    this.#say(state);
  }
}
