'use strict';
// HTTP over Machnet, with node:http at both ends: node http.js

const http = require('node:http');
const { attach } = require('machnet');

async function main() {
  const channel = await attach();

  // The server: each flow is a connection.
  const server = http.createServer((request, response) => {
    response.end(`you asked for ${request.url}\n`);
  });
  const listener = await channel.listen('0.0.0.0:0');
  (async () => {
    for await (const flow of listener) server.emit('connection', flow.duplex());
  })();

  // The client: an agent whose connections are flows.
  const agent = new http.Agent({ keepAlive: true });
  agent.createConnection = (_options, callback) => {
    channel.connect(listener.address).then((flow) => callback(null, flow.duplex()), callback);
  };
  for (const path of ['/one', '/two']) {
    await new Promise((resolve, reject) => {
      http.get({ agent, path }, (response) => response.on('end', resolve).pipe(process.stdout, { end: false })).on('error', reject);
    });
  }

  agent.destroy();
  await channel.close();
}

main().catch((error) => {
  console.error(`${error}`);
  process.exitCode = 1;
});
