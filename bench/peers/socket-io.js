// Socket.IO with its in-memory adapter. Speaks the protocol `socket-io` of `walcast bench`.
import { Server } from 'socket.io';
import { createServer } from 'node:http';

const http = createServer();
const server = new Server(http, { transports: ['websocket'], perMessageDeflate: false, pingInterval: 120_000 });

server.on('connection', (socket) => {
  socket.on('subscribe', (topic, acknowledge) => {
    socket.join(topic);
    acknowledge();
  });
  socket.on('publish', (topic, payload) => server.to(topic).emit('message', payload));
});
http.listen({ host: '127.0.0.1', port: Number(process.env.PORT), backlog: 4096 });
