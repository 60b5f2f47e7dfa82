// The demo page, driven in headless Chromium as three people. How it is started: tests/browser/README.md.
import { strict as assert } from 'node:assert';
import { randomUUID } from 'node:crypto';
import { chromium } from 'playwright-core';
import { finish, promise, requiredEnvironment } from '../clients/js/promise.mjs';
import { Cable } from './cut.mjs';
import { Window } from './window.mjs';

const url = requiredEnvironment('WALCAST_PAGE');
const fresh = (text) => `${text} ${randomUUID().slice(0, 8)}`;

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
  headless: true,
  args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
    '--disable-component-update', '--disable-sync'],
});
const cable = await Cable.to(url);
let ana;
let bruno;
let carla;

await promise('three people sign in, each in a window of their own', async () => {
  [ana, bruno, carla] = await Promise.all([
    Window.of(browser, cable.url, 'Ana'),
    Window.of(browser, url, 'Bruno'),
    Window.of(browser, url, 'Carla'),
  ]);
  await Promise.all([ana.openRoom('Ana y Bruno'), bruno.openRoom('Ana y Bruno'), carla.openRoom('Carla y Bruno')]);
});

if (ana && bruno && carla) await checkThePage();
cable.close();
await browser.close();
finish();

async function checkThePage() {
  await promise('everybody sees who is online', async () => {
    for (const window of [ana, bruno, carla]) {
      for (const name of ['Ana', 'Bruno', 'Carla']) await window.sees('#online .present', name);
    }
  });

  await promise('who writes is seen writing, by members of the room only', async () => {
    await bruno.type('Estoy lle');
    await ana.sees('#typing', 'Bruno está escribiendo…');
    assert.ok(!carla.received.some((frame) => frame.includes('escribiendo')));
  });

  await promise('a message reaches the other member and not the third person', async () => {
    const secret = fresh('Estoy llegando, te aviso');
    await bruno.say(secret);
    await ana.sees('.message', secret);
    // What is said to all comes later in the log: Carla would have got the other message before it.
    const open = fresh('Hoy termino a las ocho');
    await bruno.openRoom('Todos');
    await bruno.say(open);
    await carla.openRoom('Todos');
    await carla.sees('.message', open);
    assert.equal(await carla.knowsOf(secret), false);
    await bruno.openRoom('Ana y Bruno');
  });

  await promise('an edited message changes and a deleted one goes, at the other member too', async () => {
    const [first, second] = [fresh('Toca el timbre'), fresh('Toca el timbre dos veces')];
    await ana.say(first);
    await ana.message(first).getByRole('button', { name: 'Editar' }).click();
    await ana.page.getByLabel('Mensaje corregido').fill(second);
    await ana.page.getByRole('button', { name: 'Guardar' }).click();
    await bruno.sees('.message', second);
    await bruno.seesNoLonger('.message', first);
    assert.equal(await bruno.message(second).getByText('editado').count(), 1);
    await ana.message(second).getByRole('button', { name: 'Borrar' }).click();
    await bruno.seesNoLonger('.message', second);
    await bruno.sees('.message', 'Mensaje borrado');
  });

  const zone = fresh('Palermo');
  await promise('a request goes from the client to the operator and back, past the third person', async () => {
    await ana.page.getByRole('textbox', { name: 'Zona' }).fill(zone);
    await ana.page.getByRole('spinbutton', { name: 'Precio' }).fill('275.50');
    await ana.page.getByRole('button', { name: 'Pedir' }).click();
    await ana.sees('.order .state.abierta', 'abierta');
    await bruno.order(zone).getByRole('button', { name: 'Tomar' }).click();
    await ana.order(zone).locator('.state.tomada').waitFor();
    await ana.sees('.notice.unread', zone);
    assert.equal(await carla.knowsOf(zone), false);
  });

  await promise("the operator's position moves on the client's map", async () => {
    await ana.order(zone).getByRole('button', { name: 'Ver en el mapa' }).click();
    await bruno.order(zone).getByRole('button', { name: 'Ver en el mapa' }).click();
    await bruno.page.getByRole('button', { name: 'Iniciar recorrido' }).click();
    const position = () => ana.page.locator('#map svg').getAttribute('data-position');
    await ana.page.waitForFunction(() => document.querySelectorAll('#map .trail').length === 1
      && document.querySelector('#map .trail').points.numberOfItems >= 6);
    const onTheRoad = await position();
    // Off the road again, one step to the north with the keyboard.
    await bruno.page.getByRole('button', { name: 'Detener recorrido' }).click();
    await bruno.page.locator('#map').press('ArrowUp');
    await ana.page.waitForFunction((before) => document.querySelector('#map svg').dataset.position !== before, onTheRoad);
    assert.ok(!carla.received.some((frame) => frame.includes('coords_update')));
  });

  await promise('a notification is read with one click', async () => {
    const notice = ana.page.locator('.notice').filter({ hasText: zone });
    await notice.getByRole('button', { name: /Marcar como leída/ }).click();
    await ana.page.locator('.notice:not(.unread)').filter({ hasText: zone }).waitFor();
  });

  await promise('the page fits its window, and a narrow one too', async () => {
    assert.ok(await ana.fits());
    const wide = ana.page.viewportSize();
    await ana.page.setViewportSize({ width: 390, height: 844 });
    assert.ok(await ana.fits({ onlyAcross: true }));
    await ana.screenshot('page-narrow');
    await ana.page.setViewportSize(wide);
  });

  await ana.screenshot('page-client');
  await bruno.screenshot('page-operator');

  await promise('markup in a message is text', async () => {
    const mark = fresh('<img src=x onerror="document.title=1">');
    await bruno.say(mark);
    await ana.sees('.body', mark);
    assert.equal(await ana.page.locator('.message img').count(), 0);
  });

  await promise('a lost connection is said at once', async () => {
    cable.cut();
    await ana.sees('#banner', 'Se perdió la conexión');
    await ana.page.locator('#connection[data-state="down"]').waitFor();
    await bruno.sees('#online .absent', 'Ana');
    await ana.screenshot('page-disconnected');
  });

  await promise('after it nothing is missing: what was written here is sent, in order, what came meanwhile is shown', async () => {
    const [first, second, meanwhile] = [fresh('Sin red uno'), fresh('Sin red dos'), fresh('Mientras tanto')];
    await ana.say(first);
    await ana.say(second);
    await ana.sees('.message.waiting', second);
    await bruno.say(meanwhile);
    await bruno.sees('.message:not(.waiting)', meanwhile);
    cable.mend();
    await ana.sees('#banner', 'De nuevo en línea');
    await ana.isConnected();
    await ana.sees('.message', meanwhile);
    await bruno.sees('.message', second);
    const bodies = await bruno.page.locator('.message .body').allTextContents();
    assert.deepEqual(bodies.filter((body) => body === first || body === second), [first, second]);
    await bruno.sees('#online .present', 'Ana');
  });

  await promise('who closes the window is no longer online', async () => {
    await carla.context.close();
    await ana.sees('#online .absent', 'Carla');
  });

  await promise('the browser had nothing to complain about', async () => {
    assert.deepEqual([...bruno.complaints, ...carla.complaints], []);
    // Ana's cable was cut: the failed attempts to connect are the browser's to report.
    assert.deepEqual(ana.complaints.filter((complaint) => !/ERR_|WebSocket connection/.test(complaint)), []);
  });
}
