// Every frame of the WebSocket, seen through the `transport` option of the stock client, and the log that shows them.
import { byId, h } from './dom.js';

const KEPT_FRAMES = 250;
const listeners = new Set();

/** The browser's WebSocket, telling everyone who asked of its frames and of its life. */
export class ObservedWebSocket extends WebSocket {
  constructor(url, protocols) {
    super(url, protocols);
    tell({ kind: 'connecting' });
    this.addEventListener('open', () => tell({ kind: 'open' }));
    this.addEventListener('close', ({ code, reason }) => tell({ kind: 'close', code, reason }));
    this.addEventListener('message', ({ data }) => tell({ kind: 'frame', sent: false, data }));
  }

  send(data) {
    tell({ kind: 'frame', sent: true, data });
    super.send(data);
  }
}

/** Calls `listener` with each event of each socket: connecting, open, close and frame. */
export function observeSockets(listener) {
  listeners.add(listener);
}

function tell(event) {
  for (const listener of listeners) listener(event);
}

/** Shows the frames on the page, newest first. */
export function showFrames() {
  const list = byId('frame-list');
  const paused = byId('frames-pause');
  byId('frames-clear').addEventListener('click', () => list.replaceChildren());
  observeSockets(async (event) => {
    if (paused.checked) return;
    const line = event.kind === 'frame' ? await frameLine(event) : lifeLine(event);
    if (!line) return;
    list.prepend(line);
    while (list.childElementCount > KEPT_FRAMES) list.lastElementChild.remove();
  });
}

function lifeLine({ kind, code, reason }) {
  const text = {
    connecting: 'conectando…',
    open: 'conexión abierta',
    close: `conexión cerrada: ${code}${reason ? ` ${reason}` : ''}`,
  }[kind];
  return h('li', { class: `life ${kind}` }, now(), ' ', text);
}

async function frameLine({ sent, data }) {
  const { topic, event, size, text } = typeof data === 'string' ? readText(data) : readBinary(await bytesOf(data));
  const heartbeat = topic === 'phoenix';
  return h('li', { class: `frame ${sent ? 'sent' : 'received'}${heartbeat ? ' heartbeat' : ''}` },
    h('details', {},
      h('summary', {},
        h('span', { class: 'direction', title: sent ? 'enviada' : 'recibida' }, sent ? '↑' : '↓'),
        h('span', { class: 'event' }, event),
        h('span', { class: 'topic' }, topic.replace(/^realtime:/, '')),
        h('span', { class: 'size' }, `${size} B`)),
      h('p', { class: 'muted' }, now()),
      h('pre', {}, text)));
}

const now = () => new Date().toLocaleTimeString('es', { hour: '2-digit', minute: '2-digit', second: '2-digit' });

/** Serializer 2.0.0, text: `[join_ref, ref, topic, event, payload]`. */
function readText(data) {
  const size = new TextEncoder().encode(data).length;
  try {
    const [, , topic, event, payload] = JSON.parse(data);
    const extension = event === 'postgres_changes' ? ` ${payload.data?.type ?? ''} ${payload.data?.table ?? ''}` : '';
    return { topic: String(topic), event: `${event}${extension}`, size, text: withoutTokens(data) };
  } catch {
    return { topic: '', event: 'texto', size, text: withoutTokens(data) };
  }
}

const withoutTokens = (text) => text.replace(/"eyJ[\w-]+\.[\w-]+\.[\w-]*"/g, '"«token»"');

async function bytesOf(data) {
  if (data instanceof Blob) return new Uint8Array(await data.arrayBuffer());
  return ArrayBuffer.isView(data) ? new Uint8Array(data.buffer, data.byteOffset, data.byteLength) : new Uint8Array(data);
}

/** Serializer 2.0.0, binary: kind 3 is a broadcast of ours, kind 4 one of somebody else. Lengths come first, one byte each. */
function readBinary(bytes) {
  const utf8 = new TextDecoder();
  const lengths = { 3: ['join_ref', 'ref', 'topic', 'event', 'metadata'], 4: ['topic', 'event', 'metadata'] }[bytes[0]];
  if (!lengths) return { topic: '', event: `binaria, clase ${bytes[0]}`, size: bytes.length, text: hex(bytes) };
  const encoding = bytes[1 + lengths.length];
  let offset = 2 + lengths.length;
  const fields = { kind: bytes[0] };
  lengths.forEach((name, index) => {
    const length = bytes[1 + index];
    fields[name] = utf8.decode(bytes.subarray(offset, offset + length));
    offset += length;
  });
  const payload = bytes.subarray(offset);
  fields.payload = encoding === 0 ? hex(payload) : utf8.decode(payload);
  const text = Object.entries(fields).map(([name, value]) => `${name.padEnd(8)} ${value}`).join('\n');
  return { topic: fields.topic, event: `broadcast ${fields.event}`, size: bytes.length, text };
}

const hex = (bytes) => Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join(' ');
