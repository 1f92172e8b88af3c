'use strict';
// Byte streams over flows, and HTTP over those.

const assert = require('node:assert/strict');
const http = require('node:http');
const { Readable, Writable } = require('node:stream');
const { buffer, text } = require('node:stream/consumers');
const { once } = require('node:events');
const { pipeline } = require('node:stream/promises');
const { after, before, describe, test } = require('node:test');
const { FlowStream } = require('machnet');
const { LONG, Sidecar, connect, pattern, turn } = require('./support.js');

/** All bytes until the end. Unlike iteration it leaves the other direction open. */
async function readAll(stream) {
  const chunks = [];
  stream.on('data', (chunk) => chunks.push(chunk));
  await once(stream, 'end');
  return Buffer.concat(chunks);
}

describe('stream', { timeout: 6 * LONG }, () => {
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

  async function pair(options) {
    const [ours, theirs] = await connect(channel, distant);
    return [ours.duplex(options), theirs.duplex(options)];
  }

  test('bytes come as they were written, whatever the writes were', async () => {
    const [ours, theirs] = await pair();
    assert.ok(ours instanceof FlowStream);
    const bytes = pattern(3_000_000);
    const reading = readAll(theirs);
    for (let from = 0, size = 1; from < bytes.length; size = (size * 3) % 200_003) {
      if (!ours.write(bytes.subarray(from, from + size))) await once(ours, 'drain');
      from += size;
    }
    ours.end();
    assert.ok((await reading).equals(bytes));
    theirs.end();
    assert.equal((await readAll(ours)).length, 0);
  });

  test('a half-close ends one direction', async () => {
    const [ours, theirs] = await pair();
    ours.end('question');
    assert.equal(String(await readAll(theirs)), 'question');
    // The other direction goes on.
    theirs.write('an answer ');
    await turn();
    theirs.end('in pieces');
    assert.equal(String(await readAll(ours)), 'an answer in pieces');
    for (const stream of [ours, theirs]) if (!stream.destroyed) await once(stream, 'close');
    await assert.rejects(new Promise((resolve, reject) => ours.write('late', (error) => (error ? reject(error) : resolve()))), {
      code: 'ERR_STREAM_WRITE_AFTER_END',
    });
  });

  test('pipelines end at both ends', async () => {
    const [ours, theirs] = await pair();
    const bytes = pattern(1_000_000);
    const echoing = pipeline(theirs, theirs);
    const answer = readAll(ours);
    Readable.from([bytes.subarray(0, 10), bytes.subarray(10)]).pipe(ours);
    assert.ok((await answer).equals(bytes));
    await echoing;
  });

  test('a reader that does not read stops the writer', async () => {
    const [ours, theirs] = await pair();
    const chunk = Buffer.alloc(256 * 1024);
    let written = 0;
    ours.on('error', () => {});
    // What the streams, the flow and the channels hold: then the writer waits.
    const flowing = (async () => {
      for (;;) {
        if (!ours.write(chunk)) await once(ours, 'drain');
        written += chunk.length;
      }
    })();
    flowing.catch(() => {});
    let before = -1;
    for (let quiet = 0; quiet < 20; quiet = written === before ? quiet + 1 : 0) {
      before = written;
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
    assert.ok(written > 0 && written < 256 * 1024 * 1024, `${written} bytes went`);
    assert.ok(ours.writableNeedDrain);
    const most = written;
    let read = 0;
    await pipeline(
      theirs,
      new Writable({
        write(bytes, _, done) {
          read += bytes.length;
          done(read > 2 * most ? new Error('enough') : undefined);
        },
      }),
    ).catch((error) => assert.equal(error.message, 'enough'));
    assert.ok(read > 2 * most, 'it went on when it was read');
    ours.destroy();
  });

  test('destroy closes in order, unless something is cut off', async () => {
    {
      const [ours, theirs] = await pair();
      await new Promise((resolve) => ours.write('last words', resolve));
      ours.destroy();
      assert.equal(await text(theirs), 'last words');
    }
    {
      const [ours, theirs] = await pair();
      ours.on('error', () => {});
      while (ours.write(Buffer.alloc(1_000_000))) await turn();
      await turn();
      ours.write(Buffer.alloc(8_000_000));
      assert.ok(ours.writableLength > 0);
      ours.destroy(new Error('broken'));
      await assert.rejects(buffer(theirs), { code: 'Reset' });
    }
    {
      const [ours, theirs] = await pair();
      ours.resetAndDestroy();
      await assert.rejects(text(theirs), { code: 'Reset' });
    }
  });

  test('a peer that is no stream is an error', async () => {
    const [ours, theirs] = await connect(channel, distant);
    const stream = ours.duplex();
    await theirs.send('not framed');
    await assert.rejects(text(stream), { code: 'NotAStream' });
    await assert.rejects(theirs.receive({ timeout: LONG }), { code: 'Reset' });
  });

  test('the end of the sidecar is an error of the stream', async () => {
    const mortal = await Sidecar.start();
    const own = await mortal.attach();
    const [ours, theirs] = await connect(own, own);
    const [stream, other] = [ours.duplex(), theirs.duplex()];
    const ends = Promise.allSettled([text(stream), text(other)]);
    await turn();
    await mortal.stop();
    for (const { reason } of await ends) assert.equal(reason.code, 'EngineLost');
  });

  test('a flow that became a stream is one', async () => {
    const [ours] = await connect(channel, channel);
    const waiting = ours.receive({ timeout: LONG });
    assert.throws(() => ours.duplex(), { code: 'InvalidArgument' });
    waiting.catch(() => {});
    const [flow] = await connect(channel, channel);
    const stream = flow.duplex();
    assert.throws(() => flow.duplex(), { code: 'InvalidArgument', message: /became a stream/ });
    assert.throws(() => flow.trySend('x'), { code: 'InvalidArgument' });
    await assert.rejects(flow.receive(), { code: 'InvalidArgument' });
    await flow.close();
    assert.equal(stream.destroyed, false);
    assert.equal((await stream.stats()).local, true);
    assert.deepEqual([stream.remoteAddress, stream.remotePort], [flow.peer.host, flow.peer.port]);
    assert.deepEqual([stream.localAddress, stream.localPort], [flow.local.host, flow.local.port]);
    stream.destroy();
    await ours.close();
  });

  test('a silent stream emits timeout', async () => {
    const [ours, theirs] = await pair();
    ours.setTimeout(20);
    await once(ours, 'timeout');
    assert.equal(ours.timeout, 20);
    ours.setTimeout(0);
    ours.destroy();
    theirs.destroy();
  });

  test('HTTP runs over it, with node:http at both ends', async () => {
    const server = http.createServer(async (request, response) => {
      const body = await buffer(request);
      response.setHeader('x-path', request.url);
      response.setHeader('x-from', request.socket.remoteAddress);
      response.end(body.length > 0 ? body : 'nothing');
    });
    const listener = await distant.listen('0.0.0.0:0');
    const serving = (async () => {
      for await (const flow of listener) server.emit('connection', flow.duplex());
    })();
    const agent = new http.Agent({ keepAlive: true });
    let connections = 0;
    agent.createConnection = (_, callback) => {
      connections++;
      channel.connect(listener.address).then((flow) => callback(null, flow.duplex()), callback);
    };
    const ask = (path, body) =>
      new Promise((resolve, reject) => {
        const request = http.request({ agent, path, method: body ? 'POST' : 'GET', timeout: LONG }, async (response) => {
          resolve({ status: response.statusCode, headers: response.headers, body: await buffer(response) });
        });
        request.on('error', reject);
        request.end(body);
      });
    for (let round = 0; round < 20; round++) {
      const { status, headers, body } = await ask(`/${round}`);
      assert.deepEqual([status, headers['x-path'], headers['x-from'], String(body)], [200, `/${round}`, near.host, 'nothing']);
    }
    assert.equal(connections, 1);
    const large = pattern(2_000_000);
    const answers = await Promise.all([1, 2, 3].map((number) => ask(`/large/${number}`, large)));
    for (const { body } of answers) assert.ok(body.equals(large));
    agent.destroy();
    server.closeAllConnections();
    await listener.close();
    await serving;
  });
});
