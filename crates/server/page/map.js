// A small plotted town: the operator's last position with its heading and the trail behind it, and the drive that the
// operator's window makes up. Latitudes and longitudes are those of the Broadcast payload; the streets are only drawn.
import { byId, svg } from './dom.js';

const WIDTH = 320;
const HEIGHT = 220;
const SOUTH_WEST = { lat: -34.918, lng: -56.206 };
const NORTH_EAST = { lat: -34.89, lng: -56.15 };
const TRAIL_POINTS = 60;
const STEP_MS = 400;
const STEP_DEGREES = 0.0009;
const START = { lat: -34.9132, lng: -56.1998, heading: 60 };
/** A round trip along the drawn streets. */
const ROUTE = [[-34.9132, -56.1998], [-34.9085, -56.1905], [-34.9012, -56.189], [-34.8965, -56.179], [-34.9005, -56.1665],
  [-34.9085, -56.1605], [-34.913, -56.171], [-34.9121, -56.185]];
const ARROWS = { ArrowUp: [1, 0], ArrowDown: [-1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };

/** Takes `move(coords)`, called with each new position while this person drives. */
export class RouteMap {
  #positions = new Map();
  #followed = null;
  #driving = false;
  #timer = null;
  #target = 1;

  constructor({ move }) {
    this.move = move;
    this.marker = svg('g', { class: 'marker', visibility: 'hidden' },
      svg('circle', { r: 13, class: 'halo' }), svg('path', { d: 'M0-9 6.5 7 0 3.5-6.5 7z' }));
    this.trail = svg('polyline', { class: 'trail' });
    this.picture = svg('svg', { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: 'img', 'aria-labelledby': 'map-title map-caption' },
      ...town(), this.trail, this.marker);
    byId('map').append(this.picture);
    byId('map').addEventListener('keydown', (event) => this.#steer(event));
    byId('drive').addEventListener('click', () => this.#drive(!this.#timer));
  }

  /** Shows one order, or none; `driving` when it is this person who is on the road. */
  follow(order, { driving = false, caption = '' } = {}) {
    if (order !== this.#followed || driving !== this.#driving) this.#drive(false);
    this.#followed = order;
    this.#driving = driving;
    byId('map-actions').hidden = !driving;
    byId('map-caption').textContent = caption;
    if (driving) byId('map').setAttribute('tabindex', '0');
    else byId('map').removeAttribute('tabindex');
    this.#draw();
  }

  /** A position that came in, or was sent by this window. */
  place(order, { lat, lng, heading }) {
    if (![lat, lng].every(Number.isFinite)) return;
    const trail = [...(this.#positions.get(order) ?? []), { lat, lng, heading: Number(heading) || 0 }];
    this.#positions.set(order, trail.slice(-TRAIL_POINTS));
    if (order === this.#followed) this.#draw();
  }

  #draw() {
    const trail = this.#positions.get(this.#followed) ?? [];
    const last = trail.at(-1);
    this.marker.setAttribute('visibility', last ? 'visible' : 'hidden');
    this.trail.setAttribute('points', trail.map((position) => plot(position).join(',')).join(' '));
    if (!last) return;
    const [x, y] = plot(last);
    this.marker.setAttribute('transform', `translate(${x} ${y}) rotate(${last.heading})`);
    this.picture.dataset.position = `${last.lat.toFixed(5)},${last.lng.toFixed(5)}`;
  }

  #drive(start) {
    clearInterval(this.#timer);
    this.#timer = start ? setInterval(() => this.#advance(), STEP_MS) : null;
    byId('drive').setAttribute('aria-pressed', String(start));
    byId('drive').textContent = start ? 'Detener recorrido' : 'Iniciar recorrido';
    if (start) this.#advance();
  }

  #advance() {
    const here = this.#here();
    const [lat, lng] = ROUTE[this.#target];
    const [north, east] = [lat - here.lat, lng - here.lng];
    const distance = Math.hypot(north, east);
    if (distance <= STEP_DEGREES) {
      this.#target = (this.#target + 1) % ROUTE.length;
      this.#go({ lat, lng, heading: here.heading });
    } else {
      this.#go({ lat: here.lat + (north / distance) * STEP_DEGREES, lng: here.lng + (east / distance) * STEP_DEGREES,
        heading: headingOf(north, east) });
    }
  }

  #steer(event) {
    const step = ARROWS[event.key];
    if (!step || !this.#driving) return;
    event.preventDefault();
    const here = this.#here();
    const [north, east] = step;
    this.#go({ lat: here.lat + north * STEP_DEGREES, lng: here.lng + east * STEP_DEGREES, heading: headingOf(north, east) });
  }

  #here() {
    return this.#positions.get(this.#followed)?.at(-1) ?? START;
  }

  #go({ lat, lng, heading }) {
    const coords = {
      lat: within(lat, SOUTH_WEST.lat, NORTH_EAST.lat),
      lng: within(lng, SOUTH_WEST.lng, NORTH_EAST.lng),
      heading: Math.round(heading),
    };
    this.place(this.#followed, coords);
    this.move(this.#followed, coords);
  }
}

const within = (value, low, high) => Number(Math.min(Math.max(value, low), high).toFixed(6));

/** Degrees clockwise from north. */
const headingOf = (north, east) => (Math.atan2(east, north) * 180) / Math.PI;

function plot({ lat, lng }) {
  const x = ((lng - SOUTH_WEST.lng) / (NORTH_EAST.lng - SOUTH_WEST.lng)) * WIDTH;
  const y = ((NORTH_EAST.lat - lat) / (NORTH_EAST.lat - SOUTH_WEST.lat)) * HEIGHT;
  return [within(x, 0, WIDTH), within(y, 0, HEIGHT)];
}

function town() {
  const streets = [];
  for (let x = 20; x < WIDTH; x += 44) streets.push(svg('path', { class: 'street', d: `M${x} 0 L${x + 26} ${HEIGHT}` }));
  for (let y = 18; y < HEIGHT; y += 40) streets.push(svg('path', { class: 'street', d: `M0 ${y + 14} L${WIDTH} ${y - 14}` }));
  const route = ROUTE.map(([lat, lng]) => plot({ lat, lng }).join(' '));
  return [
    svg('rect', { class: 'ground', width: WIDTH, height: HEIGHT }),
    svg('path', { class: 'park', d: 'M196 60q38-20 62 4t6 44q-44 14-66-6t-2-42z' }),
    svg('path', { class: 'water', d: `M0 ${HEIGHT} L0 202 Q60 186 120 204 T240 200 T${WIDTH} 190 L${WIDTH} ${HEIGHT}Z` }),
    ...streets,
    svg('path', { class: 'avenue', d: `M${route.join(' L')} Z` }),
  ];
}
