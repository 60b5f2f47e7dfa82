// Who this window is: one person, kept in the URL (`#ana`) and for this tab, with a token that is renewed before it
// runs out. Two windows can be two people.
import { signIn } from './api.js';

const KEPT = 'walcast.demo.person';
const RENEW_BEFORE_MS = 120_000;

/** The handle in the URL, or the one this tab had before. */
export function chosenPerson() {
  return decodeURIComponent(location.hash.slice(1)) || sessionStorage.getItem(KEPT) || null;
}

/** Keeps the person for this tab and shows them in the address, so that it can be copied. */
export function keepPerson(handle) {
  sessionStorage.setItem(KEPT, handle);
  history.replaceState(null, '', `#${encodeURIComponent(handle)}`);
}

export function forgetPerson() {
  sessionStorage.removeItem(KEPT);
  history.replaceState(null, '', location.pathname);
}

/**
 * Signs in as one person: `{ me, apiKey, token }`, where `token()` always resolves to a token that lives a while
 * longer and `apiKey` opens the socket for as long as the window is open.
 */
export async function identify(handle) {
  let held = await signIn(handle);
  let renewal = null;
  const token = async () => {
    const left = held.expires_at * 1000 - Date.now();
    if (left > RENEW_BEFORE_MS) return held.token;
    // While the server is away the old token serves as long as it lives.
    renewal ??= signIn(handle)
      .then((renewed) => { held = renewed; }, (error) => { if (left <= 0) throw error; })
      .finally(() => { renewal = null; });
    await renewal;
    return held.token;
  };
  return { me: held.person, apiKey: held.api_key, token };
}
