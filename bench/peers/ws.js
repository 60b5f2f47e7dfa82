// Node.js with `ws`: a loop over the members of a topic, as its documentation shows. Speaks the protocol `plain` of
// `walcast bench`.
import { WebSocketServer } from 'ws';

const topics = new Map();
const server = new WebSocketServer({ host: '127.0.0.1', port: Number(process.env.PORT), perMessageDeflate: false, backlog: 4096 });

server.on('connection', (socket) => {
  const joined = [];
  socket.on('message', (data) => {
    const message = data.toString();
    const rest = message.slice(1);
    if (message[0] === 's') {
      if (!topics.has(rest)) topics.set(rest, new Set());
      topics.get(rest).add(socket);
      joined.push(rest);
      socket.send('ok');
    } else {
      const end = rest.indexOf(' ');
      const payload = rest.slice(end + 1);
      for (const member of topics.get(rest.slice(0, end)) ?? []) member.send(payload);
    }
  });
  socket.on('close', () => joined.forEach((topic) => topics.get(topic).delete(socket)));
});
