'use strict';
// 100,000 receives that are aborted, interleaved with 100,000 messages: none is lost, none comes twice.

const assert = require('node:assert/strict');
const { test } = require('node:test');
const { LONG, Sidecar, connect, turn } = require('./support.js');

const COUNT = Number(process.env.MACHNET_STORM ?? 100_000);

test(`${COUNT} aborted receives lose none of ${COUNT} messages`, { timeout: 10 * LONG }, async () => {
  const [near, far] = await Promise.all([Sidecar.start(), Sidecar.start()]);
  const [client, server] = await Promise.all([near.attach(), far.attach()]);
  const [ours, theirs] = await connect(client, server);
  const sending = (async () => {
    for (let number = 0; number < COUNT; number++) await ours.send(`${number}`, { timeout: LONG });
  })();

  const seen = new Uint8Array(COUNT);
  let received = 0;
  let aborted = 0;
  const note = (message) => {
    seen[Number(message.toString())]++;
    received++;
  };
  const storm = (number) => {
    const controller = new AbortController();
    const { signal } = controller;
    const call = number % 3 === 0 ? theirs.receiveMany(5, { signal }) : theirs.receive({ signal });
    // Every kind of moment: at once, in this turn, in the next turn.
    if (number % 2 === 0) controller.abort();
    else if (number % 5 === 0) setImmediate(() => controller.abort());
    else queueMicrotask(() => controller.abort());
    return call.then(
      (found) => {
        (Array.isArray(found) ? found : [found]).forEach(note);
      },
      (error) => {
        assert.equal(error.name, 'AbortError');
        aborted++;
      },
    );
  };
  for (let number = 0; aborted < COUNT; ) {
    const batch = [];
    for (let more = 0; more < 50; more++) batch.push(storm(number++));
    await Promise.all(batch);
    if (number % 1000 === 0) await turn();
  }
  while (received < COUNT) note(await theirs.receive({ timeout: LONG }));
  await sending;
  assert.equal(theirs.tryReceive(), null);
  assert.equal(received, COUNT);
  assert.ok(seen.every((times) => times === 1));
  assert.ok(aborted >= COUNT);
  await Promise.all([client.close(), server.close()]);
  await Promise.all([near.stop(), far.stop()]);
});
