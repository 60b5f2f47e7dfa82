// Notifications of this person: newest first, unread ones marked, read with one click.
import { byId, h, keepInStep, showText } from './dom.js';
import { olderFirst, timeOf } from './time.js';

const SHOWN = 5;

export class Notices {
  #notices = new Map();

  constructor({ api }) {
    this.api = api;
  }

  load(notices) {
    this.#notices = new Map(notices.map((notice) => [notice.id, notice]));
    this.#draw();
  }

  change({ eventType, new: row, old }) {
    if (eventType === 'DELETE') this.#notices.delete(old.id);
    else this.#notices.set(row.id, row);
    this.#draw();
  }

  #draw() {
    const notices = [...this.#notices.values()].sort(olderFirst).reverse();
    const unread = notices.filter(({ leida }) => !leida).length;
    byId('unread').hidden = unread === 0;
    byId('unread').textContent = String(unread);
    byId('unread').setAttribute('aria-label', `${unread} sin leer`);
    showText(byId('no-notices'), notices.length > 0 ? '' : 'Nada nuevo.');
    keepInStep(byId('notices'), notices.slice(0, SHOWN), (notice) => notice, (notice) => this.#notice(notice));
  }

  #notice({ id, titulo, cuerpo, leida, creado_en }) {
    return h('li', { class: `notice${leida ? '' : ' unread'}` },
      h('p', {}, h('b', {}, titulo), ' ', h('time', {}, timeOf(creado_en))),
      h('p', {}, cuerpo),
      !leida && h('button', {
        type: 'button',
        class: 'link',
        'aria-label': `Marcar como leída: ${titulo}`,
        // The change itself comes back over the WebSocket; a failure leaves the notice as it is.
        onclick: () => this.api.readNotice(id).catch(() => {}),
      }, 'Marcar como leída'));
  }
}
