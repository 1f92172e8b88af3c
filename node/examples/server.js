'use strict';
// Answers every message with itself: node server.js [ADDRESS]

const { attach } = require('machnet');

async function serve(flow) {
  try {
    for await (const message of flow) {
      await flow.send(message);
      message.release();
    }
  } catch (error) {
    console.error(`${flow.peer.host}: ${error.message}`);
  } finally {
    await flow.close();
  }
}

async function main() {
  const channel = await attach();
  const listener = await channel.listen(process.argv[2] ?? '0.0.0.0:888');
  console.log(`listening on ${listener.address.host}:${listener.address.port}`);
  process.once('SIGINT', () => listener.close());
  process.once('SIGTERM', () => listener.close());
  for await (const flow of listener) serve(flow);
  await channel.close();
}

main().catch((error) => {
  console.error(`${error}`);
  process.exitCode = 1;
});
