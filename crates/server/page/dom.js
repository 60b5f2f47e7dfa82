// The only way this page builds elements: attributes and text are set, markup is never parsed.

const SVG = 'http://www.w3.org/2000/svg';

export const byId = (id) => document.getElementById(id);

/** `h('li', { class: 'x', onclick }, 'text', child)`: an HTML element. Null, false and undefined children are left out. */
export function h(tag, properties = {}, ...children) {
  return fill(document.createElement(tag), properties, children);
}

/** The same for SVG. */
export function svg(tag, properties = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), properties, children);
}

function fill(element, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith('on')) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? '' : String(value));
  }
  element.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/**
 * Makes `list` show `items` in order, building anew only the entries whose `versionOf` changed: a screen reader hears
 * what is new and nothing else, and what is open or focused stays so.
 */
export function keepInStep(list, items, versionOf, build) {
  const present = new Map([...list.children].map((element) => [element.dataset.id, element]));
  let previous = null;
  for (const item of items) {
    const id = String(item.id);
    const version = JSON.stringify(versionOf(item));
    let element = present.get(id);
    present.delete(id);
    if (element?.version !== version) {
      const fresh = build(item);
      Object.assign(fresh, { version }).dataset.id = id;
      element?.replaceWith(fresh);
      element = fresh;
    }
    const place = previous ? previous.nextElementSibling : list.firstElementChild;
    if (element !== place) list.insertBefore(element, place);
    previous = element;
  }
  for (const gone of present.values()) gone.remove();
}

/** Shows `text` in an element that is hidden while it has none. */
export function showText(element, text) {
  element.textContent = text;
  element.hidden = !text;
}
