'use strict';
// Messages over real sidecars.

const assert = require('node:assert/strict');
const { after, before, describe, test } = require('node:test');
const { Message, TimeoutError } = require('machnet');
const { LONG, Sidecar, connect, pattern, turn } = require('./support.js');

const SIZES = [1, 2, 63, 64, 65, 111, 112, 113, 1000, 4095, 4096, 4097, 16_384, 32_768, 65_537, 1_000_003, 8 * 1024 * 1024];
const wait = { timeout: LONG };

describe('flow', { timeout: 10 * LONG }, () => {
  let near;
  let far;
  let channel;
  let distant;

  before(async () => {
    [near, far] = await Promise.all([Sidecar.start(), Sidecar.start()]);
    [channel, distant] = await Promise.all([near.attach(), far.attach()]);
  });
  after(async () => {
    await Promise.all([channel.close(), distant.close()]);
    await Promise.all([near.stop(), far.stop()]);
  });

  /** Over shared memory only, and over UDP. */
  function overBoth(name, body) {
    test(`${name}, on one host`, async () => {
      const [ours, theirs] = await connect(channel, channel);
      await body(ours, theirs);
      await Promise.all([ours.close(), theirs.close()]);
    });
    test(`${name}, between hosts`, async () => {
      const [ours, theirs] = await connect(channel, distant);
      await body(ours, theirs);
      await Promise.all([ours.close(), theirs.close()]);
    });
  }

  overBoth('messages of every size come back as they were sent', async (ours, theirs) => {
    const echo = (async () => {
      for await (const message of theirs) {
        await theirs.send(message, wait);
        message.release();
      }
    })();
    for (const size of SIZES) {
      const message = pattern(size);
      await ours.send(message, wait);
      const answer = await ours.receive(wait);
      assert.equal(answer.length, size);
      assert.ok(answer.equals(message), `${size} bytes`);
    }
    await ours.close();
    await echo;
  });

  overBoth('messages keep their order whatever call carries them', async (ours, theirs) => {
    const count = 20_000;
    const sending = (async () => {
      for (let number = 0; number < count; ) {
        const batch = Array.from({ length: Math.min(100, count - number) }, (_, place) => `${number + place}`);
        if (number % 300 === 0) await ours.send(batch[0], wait);
        number += number % 300 === 0 ? 1 : await ours.sendMany(batch, wait);
      }
    })();
    const room = Buffer.alloc(100);
    for (let expected = 0; expected < count; ) {
      for (const message of await theirs.receiveMany(64, wait)) assert.equal(Number(message.toString()), expected++);
      if (expected < count) assert.equal(Number((await theirs.receive(wait)).toString()), expected++);
      if (expected < count) {
        const length = await theirs.receiveInto(room, wait);
        assert.equal(Number(room.toString('utf8', 0, length)), expected++);
      }
    }
    await sending;
    assert.deepEqual(theirs.tryReceiveMany(), []);
  });

  test('anything with bytes can be sent, and a message is a Buffer', async () => {
    const [ours, theirs] = await connect(channel, channel);
    const numbers = new Float64Array([1.5, 2.5]);
    const bytes = Buffer.from(numbers.buffer);
    const shared = new SharedArrayBuffer(3);
    for (const [sent, expected] of [
      ['grüße', Buffer.from('grüße')],
      [Buffer.from('abc'), 'abc'],
      [new Uint8Array([97, 98]), 'ab'],
      [Buffer.from('0123456789').subarray(3, 5), '34'],
      [numbers, bytes],
      [numbers.subarray(1), bytes.subarray(8)],
      [new DataView(numbers.buffer, 8), bytes.subarray(8)],
      [numbers.buffer, bytes],
      [shared, Buffer.alloc(3)],
      [new Uint8Array(shared), Buffer.alloc(3)],
    ]) {
      await ours.send(sent);
      const message = await theirs.receive(wait);
      assert.ok(message instanceof Message && message instanceof Uint8Array && Buffer.isBuffer(message));
      assert.ok(message.equals(Buffer.from(expected)), String(sent));
    }
    await ours.send('{"a":1}');
    const message = await theirs.receive(wait);
    assert.deepEqual(JSON.parse(message), { a: 1 });
    assert.equal(message.toString('latin1', 2, 3), 'a');
    assert.equal(message.readUInt8(0), 123);
    assert.equal(message.subarray(1, 4).toString(), '"a"');
    assert.equal(message.byteOffset % 8, 0);
    for (const bad of [undefined, null, 5, {}, ['a'], Symbol('a')]) {
      assert.throws(() => ours.trySend(bad), { code: 'InvalidArgument' });
      await assert.rejects(ours.send(bad), { code: 'InvalidArgument' });
      await assert.rejects(ours.sendMany([bad]), { code: 'InvalidArgument' });
    }
    for (const bad of [5, 'text', null, undefined]) assert.throws(() => ours.trySendMany(bad), { code: 'InvalidArgument' });
    await ours.close();
  });

  test('bad messages are refused', async () => {
    const [ours] = await connect(channel, channel);
    assert.equal(ours.maxMessage, 8 * 1024 * 1024);
    await assert.rejects(ours.send(''), { code: 'EmptyMessage' });
    assert.throws(() => ours.trySend(Buffer.alloc(0)), { code: 'EmptyMessage' });
    await assert.rejects(ours.send(Buffer.alloc(ours.maxMessage + 1)), { code: 'MessageTooLarge', limit: ours.maxMessage });
    await ours.close();
  });

  test('large messages are lent, and go back when released or collected', async () => {
    const [ours, theirs] = await connect(channel, channel);
    const bytes = pattern(500_000);
    // More than the pool holds: it only goes on because loans go back, or messages are copied.
    let lent = 0;
    const kept = [];
    for (let number = 0; number < 200; number++) {
      await ours.send(bytes, wait);
      const message = await theirs.receive(wait);
      assert.ok(message.equals(bytes));
      if (message.isLent) lent++;
      if (number < 100) kept.push(message);
      else message.release();
    }
    assert.ok(lent > 0);
    assert.ok(kept.some((message) => !message.isLent), 'not the whole pool is lent');
    for (const message of kept) assert.ok(message.equals(bytes));
    const message = kept.find(({ isLent }) => isLent);
    const view = message.subarray(5);
    message.release();
    message.release();
    assert.deepEqual([message.length, view.length, message.isLent], [0, 0, false]);
    await ours.send(bytes, wait);
    {
      const disposed = await theirs.receive(wait);
      disposed[Symbol.dispose]();
      assert.equal(disposed.length, 0);
    }
    assert.throws(() => structuredClone(kept[0].buffer, { transfer: [kept[0].buffer] }));
    await ours.close();
  });

  test('a lent message outlives its flow and its channel', async () => {
    const own = await near.attach();
    const [ours, theirs] = await connect(own, own);
    const bytes = pattern(100_000);
    await ours.send(bytes);
    const message = await theirs.receive(wait);
    assert.ok(message.isLent);
    await own.close();
    assert.ok(message.equals(bytes));
    message.release();
  });

  test('a channel that may not lend copies', async () => {
    const own = await near.attach({ lend: false });
    const [ours, theirs] = await connect(own, own);
    for (const size of SIZES) {
      const bytes = pattern(size);
      await ours.send(bytes, wait);
      const message = await theirs.receive(wait);
      assert.ok(!message.isLent && message.equals(bytes));
      message.release();
      assert.equal(message.length, size);
    }
    await own.close();
  });

  test('a loan is written in place and sent once', async () => {
    const [ours, theirs] = await connect(channel, channel);
    for (const size of [1, 5, 112, 113, 100_000]) {
      const loan = await ours.lend(size, wait);
      const { buffer } = loan;
      assert.equal(buffer.length, size);
      buffer.set(pattern(size));
      await loan.send();
      assert.equal(buffer.length, 0);
      assert.throws(() => loan.buffer, { code: 'InvalidArgument' });
      await assert.rejects(loan.send(), { code: 'InvalidArgument' });
      loan.release();
      assert.ok((await theirs.receive(wait)).equals(pattern(size)));
    }
    const unsent = ours.tryLend(10);
    unsent[Symbol.dispose]();
    assert.throws(() => unsent.buffer, { code: 'InvalidArgument' });
    await assert.rejects(ours.lend(0), { code: 'EmptyMessage' });
    await assert.rejects(ours.lend(-1), { code: 'InvalidArgument' });
    await assert.rejects(ours.lend(ours.maxMessage + 1), { code: 'MessageTooLarge' });
    assert.equal(theirs.tryReceive(), null);
    await ours.close();
  });

  test('receiveInto fills a buffer and leaves what does not fit', async () => {
    const [ours, theirs] = await connect(channel, channel);
    await ours.send('0123456789');
    await assert.rejects(theirs.receiveInto(Buffer.alloc(9), wait), {
      code: 'BufferTooSmall',
      needed: 10,
      message: 'the next message needs a buffer of 10 bytes',
    });
    const buffer = Buffer.alloc(12);
    assert.equal(await theirs.receiveInto(buffer, wait), 10);
    assert.equal(buffer.toString(), '0123456789\0\0');
    const numbers = new Uint32Array(4);
    await ours.send(new Uint32Array([1, 2, 3]));
    assert.equal(await theirs.receiveInto(numbers, wait), 12);
    assert.deepEqual([...numbers], [1, 2, 3, 0]);
    assert.equal(theirs.tryReceiveInto(numbers.buffer), null);
    await assert.rejects(theirs.receiveInto('text'), { code: 'InvalidArgument' });
    await ours.close();
  });

  test('what finds nothing says so', async () => {
    const [ours, theirs] = await connect(channel, channel);
    assert.equal(theirs.tryReceive(), null);
    assert.deepEqual(theirs.tryReceiveMany(), []);
    for (const call of [
      () => theirs.receive({ timeout: 5 }),
      () => theirs.receive({ timeout: 0 }),
      () => theirs.receive({ timeout: -1 }),
      () => theirs.receiveInto(Buffer.alloc(1), { timeout: 5 }),
      () => theirs.receiveMany(5, { timeout: 5 }),
    ]) {
      await assert.rejects(call(), (error) => error instanceof TimeoutError && error.message === 'timed out');
    }
    for (const timeout of [NaN, '5', {}]) await assert.rejects(theirs.receive({ timeout }), { code: 'InvalidArgument' });
    assert.deepEqual(await theirs.receiveMany(0), []);
    await assert.rejects(theirs.receiveMany(-1), { code: 'InvalidArgument' });
    await ours.send('now');
    assert.equal((await theirs.receive({ timeout: Infinity })).toString(), 'now');
    await ours.close();
  });

  test('a sender without room waits for the reader', async () => {
    const [ours, theirs] = await connect(channel, channel);
    const message = Buffer.alloc(100_000);
    let sent = 0;
    // The sidecar moves what it has room for; full is what stays full.
    await assert.rejects(async () => {
      for (; ; sent++) await ours.send(message, { timeout: 200 });
    }, TimeoutError);
    assert.ok(sent > 0);
    assert.equal(ours.trySend(message), false);
    assert.equal(ours.trySendMany([message, message]), 0);
    assert.equal(ours.tryLend(100_000), null);
    await assert.rejects(ours.sendMany([message], { timeout: 5 }), TimeoutError);
    await assert.rejects(ours.lend(100_000, { timeout: 5 }), TimeoutError);
    const controller = new AbortController();
    const aborted = ours.send(message, { signal: controller.signal });
    const waiting = ours.send(message, wait);
    controller.abort();
    await assert.rejects(aborted, { name: 'AbortError' });
    for (let number = 0; number <= sent; number++) {
      const received = await theirs.receive(wait);
      assert.equal(received.length, message.length);
      received.release();
    }
    await waiting;
    assert.equal(theirs.tryReceive(), null);
    await ours.close();
  });

  test('sendMany says how many went before its time was over', async () => {
    const [ours, theirs] = await connect(channel, channel);
    const messages = Array.from({ length: 2000 }, (_, number) => `${number}`);
    const sent = await ours.sendMany(messages, { timeout: 200 });
    assert.ok(sent > 0 && sent < messages.length);
    for (let number = 0; number < sent; number++) assert.equal((await theirs.receive(wait)).toString(), `${number}`);
    assert.equal(theirs.tryReceive(), null);
    await ours.close();
  });

  test('close ends the peer\'s iteration behind what was sent', async () => {
    const [ours, theirs] = await connect(channel, channel);
    await ours.sendMany(['one', 'two']);
    await ours.close(wait);
    const seen = [];
    for await (const message of theirs) seen.push(message.toString());
    assert.deepEqual(seen, ['one', 'two']);
    await assert.rejects(theirs.receive(wait), { code: 'Closed', message: 'the flow is closed' });
    await assert.rejects(theirs.send('late'), { code: 'Closed' });
    await assert.rejects(ours.send('mine'), { code: 'Closed' });
  });

  test('close answers who waits on this side', async () => {
    const [ours, theirs] = await connect(channel, channel);
    const waiting = [ours.receive(), ours.receiveMany(), ours.receive({ timeout: LONG })];
    const settled = Promise.allSettled(waiting);
    await ours.close();
    for (const { reason } of await settled) assert.equal(reason.code, 'Closed');
    await theirs.close();
  });

  test('leaving a loop early leaves the flow open', async () => {
    const [ours, theirs] = await connect(channel, channel);
    await ours.sendMany(['one', 'two']);
    for await (const message of theirs) {
      assert.equal(message.toString(), 'one');
      break;
    }
    assert.equal((await theirs.receive(wait)).toString(), 'two');
    await ours.close();
  });

  overBoth('a reset comes behind what was received, with its reason', async (ours, theirs) => {
    await ours.sendMany(['one', 'two']);
    while (ours.unacknowledged > 0 || (await theirs.stats()).messagesReceived < 2) await turn();
    ours.reset();
    assert.deepEqual([(await theirs.receive(wait)).toString(), (await theirs.receive(wait)).toString()], ['one', 'two']);
    await assert.rejects(theirs.receive(wait), { code: 'Reset', reason: 'the peer aborted the flow', unacknowledged: 0 });
  });

  test('several calls wait on one flow and are served in turn', async () => {
    const [ours, theirs] = await connect(channel, channel);
    const controller = new AbortController();
    const calls = Array.from({ length: 10 }, (_, number) =>
      theirs.receive(number === 3 ? { signal: controller.signal } : undefined).then(String),
    );
    calls[3].catch(() => {});
    controller.abort();
    await assert.rejects(calls[3], { name: 'AbortError' });
    await ours.sendMany(Array.from({ length: 9 }, (_, number) => `${number}`));
    const received = await Promise.all(calls.filter((_, number) => number !== 3));
    assert.deepEqual(received, ['0', '1', '2', '3', '4', '5', '6', '7', '8']);
    await ours.close();
  });

  test('one signal ends many waits, and one that was aborted before ends them at once', async () => {
    const [ours, theirs] = await connect(channel, channel);
    const controller = new AbortController();
    const { signal } = controller;
    const settled = Promise.allSettled(Array.from({ length: 100 }, () => theirs.receive({ signal })));
    const reason = new Error('the user left');
    controller.abort(reason);
    for (const outcome of await settled) assert.equal(outcome.reason, reason);
    await ours.send('still there');
    await assert.rejects(theirs.receive({ signal }), (error) => error === reason);
    assert.equal((await theirs.receive(wait)).toString(), 'still there');
    await assert.rejects(theirs.receive({ signal: AbortSignal.timeout(5) }), { name: 'TimeoutError' });
    await ours.close();
  });

  test('many flows on one channel, and one that nobody reads', async () => {
    const own = await near.attach();
    const count = 200;
    const listener = await own.listen('0.0.0.0:0', { backlog: count });
    const unread = await own.connect(listener.address);
    const forgotten = await listener.accept(wait);
    for (let number = 0; number < 50; number++) await unread.send(pattern(1000, number), wait);
    const echo = (async () => {
      for (let number = 0; number < count; number++) {
        const flow = await listener.accept(wait);
        (async () => {
          for await (const message of flow) await flow.send(message);
        })();
      }
    })();
    const flows = await Promise.all(Array.from({ length: count }, () => own.connect(listener.address, wait)));
    await echo;
    const asking = async (flow, number) => {
      for (let round = 0; round < 20; round++) {
        await flow.send(`${number} ${round}`);
        assert.equal((await flow.receive(wait)).toString(), `${number} ${round}`);
      }
    };
    await Promise.all(flows.map(asking));
    for (let number = 0; number < 50; number++) assert.ok((await forgotten.receive(wait)).equals(pattern(1000, number)));
    await own.close();
  });

  test('a loop that never has to wait lets timers have their turn', async () => {
    const [ours, theirs] = await connect(channel, channel);
    let isOver = false;
    setTimeout(() => {
      isOver = true;
    }, 20);
    let rounds = 0;
    for (; !isOver; rounds++) {
      assert.ok(ours.trySend('x') || (await ours.send('x', wait)) === undefined);
      await theirs.receive(wait);
    }
    assert.ok(rounds > 0);
    await ours.close();
  });

  overBoth('statistics count', async (ours, theirs) => {
    await ours.sendMany(Array.from({ length: 10 }, () => '12345'));
    for (let number = 0; number < 10; number++) await theirs.receive(wait);
    const stats = await theirs.stats();
    assert.deepEqual([stats.messagesReceived, stats.bytesReceived], [10, 50]);
    assert.ok(stats.local || stats.datagramsReceived > 0);
    for (const value of Object.values(stats)) assert.ok(typeof value === 'boolean' || Number.isSafeInteger(value));
  });
});
