// The demo page: sign in as one of three people, fetch what they may see, stay current over the WebSocket.
//
// Read on in: identity.js (who this window is), live.js (the stock supabase-js client and its channels), chat.js,
// orders.js, notices.js and map.js (what is shown), frames.js (the log of raw frames), api.js (writes), dom.js.
import { apiOf, people as fetchPeople } from './api.js';
import { Chat } from './chat.js';
import { byId, h, keepInStep, showText } from './dom.js';
import { showFrames } from './frames.js';
import { chosenPerson, forgetPerson, identify, keepPerson } from './identity.js';
import { goLive } from './live.js';
import { RouteMap } from './map.js';
import { Notices } from './notices.js';
import { Orders } from './orders.js';
import { avatar } from './people.js';

const BANNER_MS = 4_000;
const REFETCH_RETRY_MS = 2_000;
const WIDE_ENOUGH_FOR_FRAMES = '(min-width: 1240px)';

const CONNECTION_TEXT = { connecting: 'Conectando…', up: 'En línea', down: 'Sin conexión' };

let wasDown = false;
let bannerTimer;

await start();

async function start() {
  let people;
  try {
    people = await fetchPeople();
  } catch (error) {
    byId('welcome').hidden = false;
    showText(byId('welcome-error'), error.message);
    return;
  }
  // Another person in the URL is another window's life: begin it afresh.
  window.addEventListener('hashchange', () => location.reload());
  const handle = chosenPerson();
  if (!people.some((person) => person.handle === handle)) {
    welcome(people);
    return;
  }
  keepPerson(handle);
  await work(people, handle);
}

function welcome(people) {
  byId('welcome').hidden = false;
  byId('people').replaceChildren(...people.map((person) => h('li', {},
    h('button', { type: 'button', onclick: () => { location.hash = person.handle; } },
      avatar(person.id, person.name),
      h('b', {}, person.name),
      h('span', { class: 'muted' }, person.operator ? 'operador' : 'cliente')))));
}

async function work(people, handle) {
  const names = new Map(people.map(({ id, name }) => [id, name]));
  const nameOf = (person) => names.get(person) ?? 'Alguien';
  const { me, apiKey, token } = await identify(handle);
  showMe(me);
  showFrames();

  const api = apiOf(token);
  const map = new RouteMap({
    move: (order, coords) => live.sayPosition(order, coords),
  });
  const notices = new Notices({ api });
  const chat = new Chat({ me, api, nameOf, sayTyping: (room) => live.sayTyping(room) });
  const orders = new Orders({ me, api, nameOf, follow: (order) => follow(order) });

  let followed = null;
  function follow(wanted) {
    const underway = orders.underway;
    const order = underway.find(({ id }) => id === wanted) ?? underway[0];
    followed = order?.id ?? null;
    live.watchOrders(underway.map(({ id }) => id));
    orders.showFollowed(followed);
    const driving = order?.operador_id === me.id;
    const caption = !order ? 'Cuando una solicitud esté tomada, aquí se ve al operador.'
      : driving ? `Vas a ${order.zona}, para ${nameOf(order.cliente_id)}.`
        : `${nameOf(order.operador_id)} va a ${order.zona}.`;
    map.follow(followed, { driving, caption });
  }

  const views = {
    mensajes: (change) => chat.change(change),
    notificaciones: (change) => notices.change(change),
    solicitudes: (change) => {
      orders.change(change);
      follow(followed);
    },
    // A room came or went: only a new look tells what is in it.
    sala_miembros: () => refetch(),
  };
  const refetch = refetcher(api, (state) => {
    live.watchRooms(state.salas.map(({ id }) => id));
    chat.load(state);
    notices.load(state.notificaciones);
    orders.load(state.solicitudes);
    follow(followed);
  });

  const live = await goLive({
    me,
    apiKey,
    token,
    on: {
      change: (table, change) => views[table]?.(change),
      online: (online) => showOnline(people, online, me),
      typing: (room, person) => chat.typing(room, person),
      position: (order, coords) => map.place(order, coords ?? {}),
      alert: (message) => showBanner('notice', `Aviso: ${message}`, BANNER_MS),
      connection: showConnection,
      joined: () => refetch(),
    },
  });
  refetch();
  showOnline(people, new Map(), me);
}

/** Fetches the state and hands it on; calls that come while one is under way lead to one more, never to two at once. */
function refetcher(api, use) {
  let running = false;
  let again = false;
  return async function refetch() {
    again = true;
    if (running) return;
    running = true;
    while (again) {
      again = false;
      try {
        use(await api.state());
      } catch (error) {
        console.warn('refetch:', error.message);
        again = true;
        await new Promise((resolve) => { setTimeout(resolve, REFETCH_RETRY_MS); });
      }
    }
    running = false;
  };
}

function showMe(me) {
  byId('desk').hidden = false;
  document.title = `${me.name} · walcast`;
  byId('me-name').textContent = me.operator ? `${me.name} (operador)` : me.name;
  byId('me-avatar').replaceWith(avatar(me.id, me.name));
  byId('switch-person').addEventListener('click', () => {
    forgetPerson();
    location.reload();
  });
  const toggle = byId('toggle-frames');
  const setFrames = (shown) => {
    byId('frames').hidden = !shown;
    byId('desk').classList.toggle('with-frames', shown);
    toggle.setAttribute('aria-expanded', String(shown));
  };
  toggle.addEventListener('click', () => setFrames(byId('frames').hidden));
  setFrames(matchMedia(WIDE_ENOUGH_FOR_FRAMES).matches);
}

function showOnline(people, online, me) {
  keepInStep(byId('online'), people, ({ id }) => online.get(id) ?? 0, ({ id, name, operator }) => {
    const windows = online.get(id) ?? 0;
    return h('li', { class: windows > 0 ? 'present' : 'absent' },
      avatar(id, name),
      h('span', {}, name, id === me.id && ' (tú)', operator && h('span', { class: 'muted' }, ' operador')),
      h('span', { class: 'muted' }, windows > 1 ? `en ${windows} ventanas` : windows === 1 ? 'en línea' : 'desconectado'));
  });
}

function showConnection(state) {
  byId('connection').dataset.state = state;
  byId('connection-text').textContent = CONNECTION_TEXT[state];
  document.body.dataset.connection = state;
  if (state === 'down') {
    wasDown = true;
    showBanner('down', 'Se perdió la conexión. Lo que escribas se guarda y sale al volver; reintentando…');
  } else if (state === 'up' && wasDown) {
    wasDown = false;
    showBanner('back', 'De nuevo en línea. Todo está al día.', BANNER_MS);
  }
}

function showBanner(kind, text, milliseconds) {
  clearTimeout(bannerTimer);
  byId('banner').dataset.kind = kind;
  showText(byId('banner'), text);
  if (milliseconds) bannerTimer = setTimeout(() => showText(byId('banner'), ''), milliseconds);
}
