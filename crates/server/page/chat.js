// Rooms and their messages: sending, editing, deleting, who is typing, and an outbox for what is written while the
// server is out of reach.
import { byId, h, keepInStep, showText } from './dom.js';
import { avatar } from './people.js';
import { olderFirst, timeOf } from './time.js';

const TYPING_EVERY_MS = 2_000;
const TYPING_SHOWN_MS = 3_500;
const RETRY_MS = 3_000;

/** Takes `me`, `api`, `nameOf(person)` and `sayTyping(room)`. */
export class Chat {
  #rooms = [];
  #messages = new Map();
  #unread = new Map();
  #typing = new Map();
  #outbox = [];
  #room = null;
  #editing = null;
  #lastTyping = 0;
  #retry = null;
  #sending = false;

  constructor({ me, api, nameOf, sayTyping }) {
    Object.assign(this, { me, api, nameOf, sayTyping });
    byId('composer').addEventListener('submit', (event) => {
      event.preventDefault();
      this.#send(byId('message').value.trim());
    });
    byId('message').addEventListener('input', () => this.#tellTyping());
  }

  /** What the server has now: the rooms and the messages this person may see. */
  load({ salas, mensajes }) {
    this.#rooms = salas;
    this.#messages = new Map(mensajes.map((message) => [message.id, message]));
    this.#outbox = this.#outbox.filter(({ id }) => !this.#messages.has(id));
    if (!this.#rooms.some(({ id }) => id === this.#room)) this.#room = this.#rooms[0]?.id ?? null;
    this.#draw();
    this.#flush();
  }

  change({ eventType, new: row, old }) {
    if (eventType === 'DELETE') this.#messages.delete(old.id);
    else this.#messages.set(row.id, row);
    if (eventType === 'INSERT') {
      this.#outbox = this.#outbox.filter(({ id }) => id !== row.id);
      this.#stopTyping(`${row.sala_id} ${row.autor_id}`);
      if (row.sala_id !== this.#room) this.#unread.set(row.sala_id, (this.#unread.get(row.sala_id) ?? 0) + 1);
    }
    this.#draw();
  }

  typing(room, person) {
    if (person === this.me.id) return;
    const key = `${room} ${person}`;
    this.#stopTyping(key);
    this.#typing.set(key, setTimeout(() => this.#stopTyping(key), TYPING_SHOWN_MS));
    this.#drawTyping();
  }

  #stopTyping(key) {
    clearTimeout(this.#typing.get(key));
    this.#typing.delete(key);
    this.#drawTyping();
  }

  #tellTyping() {
    if (!this.#room || Date.now() - this.#lastTyping < TYPING_EVERY_MS) return;
    this.#lastTyping = Date.now();
    this.sayTyping(this.#room);
  }

  #send(body) {
    if (!body || !this.#room) return;
    byId('message').value = '';
    this.#lastTyping = 0;
    // The id is chosen here, so that a message that is sent twice after a lost answer is still one message.
    this.#outbox.push({ id: crypto.randomUUID(), sala_id: this.#room, cuerpo: body });
    this.#draw();
    this.#flush();
  }

  /** Sends what waits, in order. What can not be sent now is tried again; what is refused is dropped and said. */
  async #flush() {
    clearTimeout(this.#retry);
    if (this.#sending) return;
    this.#sending = true;
    try {
      while (this.#outbox.some(({ sent }) => !sent)) {
        const next = this.#outbox.find(({ sent }) => !sent);
        try {
          const { id, sala_id, cuerpo } = next;
          await this.api.sendMessage({ id, sala_id, cuerpo });
          next.sent = true;
          showText(byId('chat-error'), '');
        } catch (error) {
          if (error.status === 0 || error.status >= 500) {
            this.#retry = setTimeout(() => this.#flush(), RETRY_MS);
            break;
          }
          this.#outbox = this.#outbox.filter((message) => message !== next);
          showText(byId('chat-error'), error.message);
        }
      }
    } finally {
      this.#sending = false;
      this.#draw();
    }
  }

  async #attempt(work) {
    try {
      await work();
      showText(byId('chat-error'), '');
    } catch (error) {
      showText(byId('chat-error'), error.message);
    }
  }

  #open(room) {
    this.#room = room;
    this.#unread.delete(room);
    this.#editing = null;
    this.#draw();
    byId('message').focus();
  }

  #draw() {
    this.#drawRooms();
    this.#drawMessages();
    this.#drawTyping();
  }

  #drawRooms() {
    byId('rooms').replaceChildren(...this.#rooms.map(({ id, nombre }) => {
      const unread = this.#unread.get(id);
      return h('li', {},
        h('button', { type: 'button', class: 'room', 'aria-current': id === this.#room && 'true', onclick: () => this.#open(id) },
          nombre,
          unread && h('span', { class: 'badge', 'aria-label': `${unread} sin leer` }, String(unread))));
    }));
    const room = this.#rooms.find(({ id }) => id === this.#room);
    byId('room-name').textContent = room?.nombre ?? 'No estás en ninguna sala';
    byId('composer').hidden = !room;
  }

  #drawMessages() {
    const list = byId('messages');
    const atEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 60;
    const stored = [...this.#messages.values()].filter(({ sala_id }) => sala_id === this.#room);
    stored.sort(olderFirst);
    const waiting = this.#outbox.filter(({ id, sala_id }) => sala_id === this.#room && !this.#messages.has(id));
    const messages = [...stored, ...waiting.map((message) => ({ ...message, waiting: true }))];
    keepInStep(list, messages, (message) => [message, message.id === this.#editing], (message) => this.#message(message));
    if (atEnd) list.scrollTop = list.scrollHeight;
  }

  #message(message) {
    const author = message.waiting ? this.me.id : message.autor_id;
    const mine = author === this.me.id;
    const editable = mine && !message.waiting && !message.borrado;
    return h('li', { class: `message${mine ? ' mine' : ''}${message.waiting ? ' waiting' : ''}` },
      avatar(author, this.nameOf(author)),
      h('div', { class: 'bubble' },
        h('p', { class: 'by' },
          h('b', {}, this.nameOf(author)), ' ',
          h('time', {}, message.waiting ? 'por enviar…' : timeOf(message.creado_en)),
          message.editado && !message.borrado && ' · editado'),
        this.#editing === message.id && editable
          ? this.#editor(message)
          : h('p', { class: message.borrado ? 'gone' : 'body' }, message.borrado ? 'Mensaje borrado' : message.cuerpo),
        !message.borrado && this.#reactions(message.reacciones ?? {}),
        editable && this.#editing !== message.id && h('p', { class: 'message-actions' },
          h('button', { type: 'button', class: 'link', onclick: () => this.#edit(message.id) }, 'Editar'),
          h('button', { type: 'button', class: 'link', onclick: () => this.#attempt(() => this.api.deleteMessage(message.id)) },
            'Borrar'))));
  }

  #reactions(byEmoji) {
    const chosen = Object.entries(byEmoji).filter(([, people]) => people.length > 0);
    return chosen.length > 0 && h('p', { class: 'reactions' }, ...chosen.map(([emoji, people]) =>
      h('span', { title: people.map((person) => this.nameOf(person)).join(', ') }, `${emoji} ${people.length}`)));
  }

  #edit(id) {
    this.#editing = id;
    this.#draw();
    byId('messages').querySelector('.editor input')?.focus();
  }

  #editor(message) {
    const input = h('input', { 'aria-label': 'Mensaje corregido', maxlength: 2000, required: true, value: message.cuerpo });
    const close = () => {
      this.#editing = null;
      this.#draw();
      byId('message').focus();
    };
    return h('form', {
      class: 'editor',
      onsubmit: (event) => {
        event.preventDefault();
        const body = input.value.trim();
        close();
        if (body && body !== message.cuerpo) this.#attempt(() => this.api.editMessage(message.id, body));
      },
      onkeydown: (event) => { if (event.key === 'Escape') close(); },
    }, input, h('button', { type: 'submit' }, 'Guardar'), h('button', { type: 'button', class: 'quiet', onclick: close }, 'Cancelar'));
  }

  #drawTyping() {
    const names = [...this.#typing.keys()]
      .map((key) => key.split(' '))
      .filter(([room]) => room === this.#room)
      .map(([, person]) => this.nameOf(person));
    byId('typing').textContent = names.length === 0 ? '' : `${names.join(' y ')} está${names.length > 1 ? 'n' : ''} escribiendo…`;
  }
}
