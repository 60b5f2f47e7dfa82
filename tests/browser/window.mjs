// One person in front of the demo page: what they do, and what they are waited upon to see.
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';

const DEADLINE_MS = 15_000;

export class Window {
  /** Everything that came over this person's WebSocket, as text. */
  received = [];
  /** What the browser complained about: script errors, refused resources, console errors. */
  complaints = [];

  /** Opens the page in a context of its own and chooses a person on the first screen. */
  static async of(browser, url, name) {
    const context = await browser.newContext({ viewport: { width: 1560, height: 940 }, locale: 'es' });
    const page = await context.newPage();
    page.setDefaultTimeout(DEADLINE_MS);
    const window = Object.assign(new Window(), { page, context, name });
    page.on('websocket', (socket) => socket.on('framereceived', ({ payload }) => window.received.push(String(payload))));
    page.on('pageerror', (error) => window.complaints.push(String(error)));
    page.on('console', (message) => {
      if (message.type() === 'error') window.complaints.push(message.text());
    });
    await page.goto(url);
    await page.getByRole('button', { name }).click();
    await window.isConnected();
    return window;
  }

  isConnected() {
    return this.page.locator('#connection[data-state="up"]').waitFor();
  }

  /** Waits until an element that matches `selector` and contains `text` is seen. */
  sees(selector, text) {
    return this.page.locator(selector).filter({ hasText: text }).first().waitFor();
  }

  /** Waits until no element that matches `selector` and contains `text` is seen. */
  async seesNoLonger(selector, text) {
    await this.page.waitForFunction(([where, what]) => ![...document.querySelectorAll(where)]
      .some((element) => element.textContent.includes(what) && element.checkVisibility()), [selector, text]);
  }

  async openRoom(name) {
    await this.page.locator('#rooms').getByRole('button', { name }).click();
    await this.page.getByRole('heading', { name }).waitFor();
  }

  async type(text) {
    await this.page.getByLabel('Mensaje', { exact: true }).pressSequentially(text);
  }

  async say(text) {
    await this.page.getByLabel('Mensaje', { exact: true }).fill(text);
    await this.page.getByRole('button', { name: 'Enviar' }).click();
  }

  message(text) {
    return this.page.locator('.message').filter({ hasText: text });
  }

  order(zone) {
    return this.page.locator('.order').filter({ hasText: zone });
  }

  /** Whether anything of `text` was ever sent to this person or stands on their page. */
  async knowsOf(text) {
    return this.received.some((frame) => frame.includes(text)) || (await this.page.content()).includes(text);
  }

  /** Whether nothing sticks out of the window, across and (on a wide one) down. */
  fits({ onlyAcross = false } = {}) {
    return this.page.evaluate((across) => {
      const { scrollWidth, scrollHeight } = document.documentElement;
      return scrollWidth <= innerWidth && (across || scrollHeight <= innerHeight);
    }, onlyAcross);
  }

  async screenshot(name) {
    const folder = process.env.WALCAST_ARTIFACTS;
    if (!folder) return;
    await mkdir(folder, { recursive: true });
    await this.page.screenshot({ path: join(folder, `${name}.png`) });
  }
}
