// How people look on the page.
import { h } from './dom.js';

const COLOURS = 6;

/** A round initial whose colour belongs to the person. */
export function avatar(id, name) {
  let hash = 0;
  for (const letter of String(id)) hash = (hash * 31 + letter.codePointAt(0)) >>> 0;
  return h('span', { class: `avatar colour-${hash % COLOURS}`, 'aria-hidden': 'true' }, [...name][0] ?? '?');
}
