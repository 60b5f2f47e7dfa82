// Timestamps as Postgres writes them, shown and compared.

const clock = new Intl.DateTimeFormat('es', { hour: '2-digit', minute: '2-digit' });

export function timeOf(timestamp) {
  const time = new Date(timestamp);
  return Number.isNaN(time.getTime()) ? '' : clock.format(time);
}

/** For `sort`: the older row first. Rows of one millisecond keep an order of their own. */
export function olderFirst(a, b) {
  return Date.parse(a.creado_en) - Date.parse(b.creado_en) || (a.creado_en < b.creado_en ? -1 : 1);
}
