// uWebSockets through Bun: its own publish does the fan-out, in C++. Speaks the protocol `plain` of `walcast bench`.
const server = Bun.serve({
  hostname: '127.0.0.1',
  port: Number(process.env.PORT),
  fetch(request, server) {
    return server.upgrade(request) ? undefined : new Response('WebSockets only', { status: 400 });
  },
  websocket: {
    idleTimeout: 0,
    perMessageDeflate: false,
    message(socket, message) {
      const rest = message.slice(1);
      if (message[0] === 's') {
        socket.subscribe(rest);
        socket.send('ok');
      } else {
        const end = rest.indexOf(' ');
        server.publish(rest.slice(0, end), rest.slice(end + 1));
      }
    },
  },
});
