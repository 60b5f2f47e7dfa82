// Solicitudes: a client asks, an operator takes the request and finishes it. Who sees which is up to the database.
import { byId, h, keepInStep, showText } from './dom.js';
import { olderFirst } from './time.js';

const STATES = {
  abierta: 'abierta',
  tomada: 'tomada',
  completada: 'completada',
  cancelada: 'cancelada',
};

const money = new Intl.NumberFormat('es', { minimumFractionDigits: 2, maximumFractionDigits: 2 });

/** `me`, `api`, `nameOf(person)`, and `follow(order)`, called when somebody wants to see an order on the map. */
export class Orders {
  #orders = new Map();
  #followed = null;

  constructor({ me, api, nameOf, follow }) {
    Object.assign(this, { me, api, nameOf, follow });
    byId('new-order').hidden = me.operator;
    byId('new-order').addEventListener('submit', (event) => {
      event.preventDefault();
      const zona = byId('order-zone').value.trim();
      const precio = byId('order-price').valueAsNumber;
      this.#attempt(() => this.api.createOrder({ zona, precio }));
    });
  }

  load(orders) {
    this.#orders = new Map(orders.map((order) => [order.id, order]));
    this.#draw();
  }

  change({ eventType, new: row, old }) {
    if (eventType === 'DELETE') this.#orders.delete(old.id);
    else this.#orders.set(row.id, row);
    this.#draw();
  }

  /** Orders on the road in which this person has a part, newest first. */
  get underway() {
    return this.#sorted().filter((order) => order.estado === 'tomada' && this.#takesPart(order));
  }

  get(id) {
    return this.#orders.get(id);
  }

  showFollowed(id) {
    this.#followed = id;
    this.#draw();
  }

  #takesPart({ cliente_id, operador_id }) {
    return [cliente_id, operador_id].includes(this.me.id);
  }

  #sorted() {
    return [...this.#orders.values()].sort(olderFirst).reverse();
  }

  async #attempt(work) {
    try {
      await work();
      showText(byId('orders-error'), '');
    } catch (error) {
      showText(byId('orders-error'), error.message);
    }
  }

  #draw() {
    const orders = this.#sorted();
    showText(byId('no-orders'), orders.length > 0 ? '' : this.me.operator ? 'No hay solicitudes abiertas.' : 'Todavía no pediste nada.');
    keepInStep(byId('orders'), orders, (order) => [order, order.id === this.#followed], (order) => this.#order(order));
  }

  #order(order) {
    const mine = order.cliente_id === this.me.id;
    const taken = order.operador_id === this.me.id;
    const step = (name, label, quiet = false) => h('button', {
      type: 'button',
      class: quiet && 'quiet',
      'aria-label': `${label} la solicitud de ${order.zona}`,
      onclick: () => this.#attempt(() => this.api.moveOrder(order.id, name)),
    }, label);
    const open = order.estado === 'abierta';
    const underway = order.estado === 'tomada';
    return h('li', { class: 'order' },
      h('p', {}, h('b', {}, order.zona), h('span', { class: 'price' }, `$ ${money.format(order.precio)}`),
        h('span', { class: `state ${order.estado}` }, STATES[order.estado] ?? order.estado)),
      h('p', { class: 'muted' }, `Pide ${mine ? 'tú' : this.nameOf(order.cliente_id)}`,
        order.operador_id && ` · va ${taken ? 'tú' : this.nameOf(order.operador_id)}`),
      h('p', { class: 'actions' },
        open && this.me.operator && step('take', 'Tomar'),
        underway && taken && step('complete', 'Completar'),
        open && mine && step('cancel', 'Cancelar', true),
        underway && this.#takesPart(order) && h('button', {
          type: 'button', class: 'quiet', 'aria-pressed': String(this.#followed === order.id), onclick: () => this.follow(order.id),
        }, 'Ver en el mapa')));
  }
}
