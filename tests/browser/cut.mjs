// A TCP relay in front of the server that can be cut like a cable and mended again.
import { connect, createServer } from 'node:net';
import { once } from 'node:events';

export class Cable {
  #pairs = new Set();
  #server;
  #connected = true;

  /** Lays a cable to the server at `target`, a URL; `url` is where its near end is. */
  static async to(target) {
    const cable = new Cable();
    const { hostname, port } = new URL(target);
    cable.#server = createServer((near) => cable.#relay(near, hostname, Number(port || 80)));
    cable.#server.listen(0, '127.0.0.1');
    await once(cable.#server, 'listening');
    cable.url = `http://127.0.0.1:${cable.#server.address().port}/`;
    return cable;
  }

  cut() {
    this.#connected = false;
    for (const socket of this.#pairs) socket.destroy();
    this.#pairs.clear();
  }

  mend() {
    this.#connected = true;
  }

  close() {
    this.cut();
    this.#server.close();
  }

  #relay(near, hostname, port) {
    if (!this.#connected) {
      near.destroy();
      return;
    }
    const far = connect(port, hostname);
    for (const [from, to] of [[near, far], [far, near]]) {
      this.#pairs.add(from);
      from.pipe(to);
      from.on('error', () => to.destroy());
      from.on('close', () => {
        this.#pairs.delete(from);
        to.destroy();
      });
    }
  }
}
