'use strict';
// Attaching, listening, connecting, waiting and ending, over real sidecars.

const assert = require('node:assert/strict');
const { after, before, describe, test } = require('node:test');
const { Channel, Flow, MachnetError, TimeoutError, attach, errorCodes } = require('machnet');
const { LONG, Sidecar, connect, turn } = require('./support.js');

describe('channel', { timeout: 6 * LONG }, () => {
  let sidecar;
  let channel;

  before(async () => {
    sidecar = await Sidecar.start();
    channel = await sidecar.attach();
  });
  after(async () => {
    await channel.close();
    await sidecar.stop();
  });

  test('a channel says what it is', async () => {
    const { info } = channel;
    assert.equal(info.sidecarPid, sidecar.process.pid);
    assert.equal(info.local.host, sidecar.host);
    assert.equal(info.sizes.maxFlows, 1024);
    assert.ok(Number.isInteger(channel.eventFd));
    assert.ok(channel instanceof Channel);
  });

  test('engines are chosen by number', async () => {
    const own = await sidecar.attach({ engine: 0 });
    assert.equal(own.info.engine, 0);
    await own.close();
    await assert.rejects(sidecar.attach({ engine: 7 }), {
      code: 'NoEngine',
      errno: errorCodes.NoEngine,
      message: /^the sidecar has no engine7: /,
    });
  });

  test('sizes are chosen by name or one by one', async () => {
    const small = await sidecar.attach({ sizes: 'small' });
    assert.equal(small.info.sizes.sendSlots, 128);
    const own = await sidecar.attach({ sizes: { maxFlows: 5, sendSlots: 64 } });
    assert.equal(own.info.sizes.maxFlows, 5);
    assert.equal(own.info.sizes.sendSlots, 64);
    await Promise.all([small.close(), own.close()]);
    await assert.rejects(sidecar.attach({ sizes: { sendSlots: 3 } }), { code: 'InvalidArgument', message: /power of two/ });
    await assert.rejects(sidecar.attach({ sizes: 'huge' }), { code: 'InvalidArgument', message: /"huge"/ });
    await assert.rejects(sidecar.attach({ sizes: { maxFlows: 1.5 } }), { code: 'InvalidArgument' });
  });

  test('where there is no sidecar, the error says what helps', async () => {
    await assert.rejects(attach({ socket: '/nonexistent/socket' }), (error) => {
      assert.ok(error instanceof MachnetError && error instanceof Error);
      assert.equal(error.name, 'MachnetError');
      assert.equal(error.code, 'NoSidecar');
      assert.equal(error.errno, 1);
      assert.equal(error.message, 'no sidecar at /nonexistent/socket; start one with `machnet up`');
      return true;
    });
    await assert.rejects(attach({ socket: 5 }), { code: 'InvalidArgument' });
    await assert.rejects(attach({ linger: 'long' }), { code: 'InvalidArgument' });
  });

  test('addresses are texts or objects, names are looked up, and nonsense is refused', async () => {
    const listener = await channel.listen({ host: sidecar.host, port: 0 });
    assert.equal(listener.address.host, sidecar.host);
    const flow = await channel.connect(`${listener.address.host}:${listener.address.port}`);
    assert.ok(flow instanceof Flow);
    assert.deepEqual(flow.peer, listener.address);
    for (const nonsense of ['here', ':5', '1.2.3.4', '1.2.3.4:x', '1.2.3.4:70000', 5, null, {}, { host: 'a' }]) {
      await assert.rejects(channel.connect(nonsense), { code: 'InvalidArgument' });
      await assert.rejects(channel.listen(nonsense), { code: 'InvalidArgument' });
    }
    await assert.rejects(channel.connect('name.invalid:5'), { code: 'Io', message: /name\.invalid/ });
    // The name has an address, which is another host's: what is refused is the address.
    await assert.rejects(channel.listen('localhost:0'), { code: 'AddressNotLocal' });
    await assert.rejects(channel.connect(listener.address, { local: '10.9.9.9' }), { code: 'AddressNotLocal' });
    const from = await channel.connect(listener.address, { local: sidecar.host });
    assert.equal(from.local.host, sidecar.host);
    await Promise.all([flow.close(), from.close(), listener.close()]);
  });

  test('a port is one listener\'s, and nobody is where no listener is', async () => {
    const listener = await channel.listen(sidecar.address());
    await assert.rejects(channel.listen(listener.address), { code: 'AddressInUse' });
    await listener.close();
    // The sidecar is told over its socket, which a connect through shared memory may overtake.
    const connectUntilRefused = async () => {
      for (;;) await (await channel.connect(listener.address)).close();
    };
    await assert.rejects(connectUntilRefused(), {
      code: 'Refused',
      message: `${listener.address.host}:${listener.address.port} refused: its sidecar has no listener on port ${listener.address.port}`,
    });
    const again = await channel.listen(listener.address);
    await again.close();
  });

  test('a full backlog is busy', async () => {
    const listener = await channel.listen(sidecar.address(), { backlog: 1 });
    const first = await channel.connect(listener.address);
    await assert.rejects(channel.connect(listener.address), { code: 'Busy' });
    const accepted = listener.tryAccept();
    assert.ok(accepted instanceof Flow);
    assert.equal(listener.tryAccept(), null);
    await Promise.all([first.close(), accepted.close(), listener.close()]);
  });

  test('a connect that nobody answers times out, and one that was aborted is given up', async () => {
    const nobody = `127.${sidecar.host.split('.')[1]}.255.254:5`;
    await assert.rejects(channel.connect(nobody, { timeout: 50 }), (error) => {
      assert.ok(error instanceof TimeoutError);
      assert.equal(error.name, 'TimeoutError');
      assert.equal(error.code, 'ConnectTimedOut');
      assert.match(error.message, /no answer from/);
      return true;
    });
    const controller = new AbortController();
    const connecting = channel.connect(nobody, { timeout: LONG, signal: controller.signal });
    setImmediate(() => controller.abort());
    await assert.rejects(connecting, { name: 'AbortError' });
    await assert.rejects(channel.connect(nobody, { signal: AbortSignal.abort('no') }), (reason) => reason === 'no');
  });

  test('an accept ends by timeout, abort and close, and iteration by close', async () => {
    const listener = await channel.listen(sidecar.address());
    await assert.rejects(listener.accept({ timeout: 5 }), { name: 'TimeoutError', code: 'TimedOut', message: 'timed out' });
    await assert.rejects(listener.accept({ timeout: 0 }), { code: 'TimedOut' });
    const controller = new AbortController();
    const accepting = listener.accept({ signal: controller.signal });
    controller.abort(new Error('enough'));
    await assert.rejects(accepting, { message: 'enough' });
    const peers = [];
    const loop = (async () => {
      for await (const flow of listener) peers.push(flow);
    })();
    const flows = await Promise.all([1, 2, 3].map(() => channel.connect(listener.address)));
    while (peers.length < 3) await turn();
    const waiting = listener.accept();
    await listener.close();
    await loop;
    await assert.rejects(waiting, { code: 'Closed' });
    await assert.rejects(listener.accept(), { code: 'Closed' });
    // Flows that it handed out live on.
    await flows[0].send('still');
    assert.equal((await peers[0].receive({ timeout: LONG })).toString(), 'still');
    await Promise.all([...flows, ...peers].map((flow) => flow.close()));
  });

  test('a closed channel says so to everyone', async () => {
    const own = await sidecar.attach();
    const [ours, theirs] = await connect(own, own);
    const listener = await own.listen('0.0.0.0:0');
    const waiting = [theirs.receive(), listener.accept(), theirs.receiveMany(5), theirs.receiveInto(Buffer.alloc(5))];
    const settled = Promise.allSettled(waiting);
    await Promise.all([own.close(), own.close()]);
    for (const { status, reason } of await settled) {
      assert.equal(status, 'rejected');
      assert.equal(reason.code, 'Closed');
    }
    await assert.rejects(ours.send('x'), { code: 'Closed' });
    assert.throws(() => ours.trySend('x'), { code: 'Closed' });
    assert.throws(() => theirs.tryReceive(), { code: 'Closed' });
    await assert.rejects(theirs.receive(), { code: 'Closed' });
    await assert.rejects(own.listen('0.0.0.0:0'), { code: 'Closed' });
    await assert.rejects(own.connect('127.0.0.1:5'), { code: 'Closed' });
    await assert.rejects(ours.stats(), { code: 'Closed' });
    await ours.close();
    await listener.close();
  });

  test('what is disposed of is closed', async () => {
    const own = await sidecar.attach();
    const listener = await own.listen('0.0.0.0:0');
    const [ours, theirs] = await connect(own, own);
    await ours[Symbol.asyncDispose]();
    await assert.rejects(theirs.receive({ timeout: LONG }), { code: 'Closed' });
    await listener[Symbol.asyncDispose]();
    await assert.rejects(listener.accept(), { code: 'Closed' });
    await own[Symbol.asyncDispose]();
    await assert.rejects(own.listen('0.0.0.0:0'), { code: 'Closed' });
  });

  test('a sidecar that dies rejects all at once, and attaching again works', async () => {
    const mortal = await Sidecar.start();
    const own = await mortal.attach();
    const [ours, theirs] = await connect(own, own);
    const listener = await own.listen('0.0.0.0:0');
    await ours.send('before');
    while ((await theirs.stats()).messagesReceived < 1) await turn();
    const waiting = [ours.receive(), ours.receive(), listener.accept(), ours.receiveMany()];
    const settled = Promise.allSettled(waiting);
    await mortal.kill();
    for (const { reason } of await settled) {
      assert.equal(reason.code, 'EngineLost');
      assert.equal(reason.message, 'the sidecar is gone; attach again when it is back');
    }
    // What came before is received first.
    assert.equal((await theirs.receive()).toString(), 'before');
    await assert.rejects(theirs.receive(), { code: 'EngineLost' });
    await assert.rejects(ours.send('x'), { code: 'EngineLost' });
    await assert.rejects(own.close(), { code: 'EngineLost' });
    const other = await sidecar.attach();
    const [again, peer] = await connect(other, other);
    await again.send('after');
    assert.equal((await peer.receive({ timeout: LONG })).toString(), 'after');
    await other.close();
    await mortal.stop();
  });
});
