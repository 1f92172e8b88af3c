'use strict';
// Asks an echo server a thousand times: node client.js ADDRESS

const { attach } = require('machnet');

const ROUNDS = 1000;

async function main() {
  const [address] = process.argv.slice(2);
  if (address === undefined) throw new Error('usage: node client.js ADDRESS');
  const times = [];
  const channel = await attach();
  const flow = await channel.connect(address);
  for (let number = 0; number < ROUNDS; number++) {
    const question = `message ${number}`;
    const began = process.hrtime.bigint();
    await flow.send(question);
    const answer = await flow.receive({ timeout: 10_000 });
    times.push(Number(process.hrtime.bigint() - began));
    if (answer.toString() !== question) throw new Error(`sent ${question} and got ${answer}`);
  }
  await channel.close();
  times.sort((a, b) => a - b);
  const half = (times[ROUNDS / 2] / 1000).toFixed(1);
  console.log(`${ROUNDS} messages echoed; half of the answers came within ${half} us`);
}

main().catch((error) => {
  console.error(`${error}`);
  process.exitCode = 1;
});
