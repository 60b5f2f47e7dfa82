// The dev-only endpoints of the demo. Each runs under the role and claims of the token that is sent along, so the
// database decides what may be read and written.

export class ApiError extends Error {
  constructor(message, status) {
    super(message);
    /** HTTP status, or 0 when the server could not be reached. */
    this.status = status;
  }
}

/** What the codes of the endpoints mean to the person in front of the page. */
const SENTENCES = {
  no_token: 'Falta el token: elige de nuevo quién eres.',
  token_refused: 'El token ya no vale: elige de nuevo quién eres.',
  unknown_person: 'Esa persona no existe en la demostración.',
  not_permitted: 'Las reglas de la base de datos no te lo permiten.',
  no_such_row: 'Ya no está, o no puedes cambiarlo.',
  invalid: 'Ese valor no sirve.',
  unavailable: 'La base de datos no responde ahora mismo.',
};

async function call(method, path, { token, body } = {}) {
  let response;
  try {
    response = await fetch(`/demo${path}`, {
      method,
      headers: {
        ...(token && { authorization: `Bearer ${token}` }),
        ...(body && { 'content-type': 'application/json' }),
      },
      body: body && JSON.stringify(body),
    });
  } catch {
    throw new ApiError('No se pudo llegar al servidor.', 0);
  }
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new ApiError(SENTENCES[answer.error] ?? `El servidor respondió ${response.status}.`, response.status);
  return answer;
}

export const people = () => call('GET', '/people');
export const signIn = (person) => call('POST', '/token', { body: { person } });

/** The endpoints as one person; `token` is asked anew for each call, so that a refreshed one is used. */
export function apiOf(token) {
  const as = async (method, path, body) => call(method, path, { token: await token(), body });
  return {
    state: () => as('GET', '/state'),
    sendMessage: (message) => as('POST', '/mensajes', message),
    editMessage: (id, cuerpo) => as('PATCH', `/mensajes/${encodeURIComponent(id)}`, { cuerpo }),
    deleteMessage: (id) => as('DELETE', `/mensajes/${encodeURIComponent(id)}`),
    createOrder: (order) => as('POST', '/solicitudes', order),
    moveOrder: (id, step) => as('POST', `/solicitudes/${encodeURIComponent(id)}/${step}`),
    readNotice: (id) => as('POST', `/notificaciones/${encodeURIComponent(id)}/read`),
  };
}
