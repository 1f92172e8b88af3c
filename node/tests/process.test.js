'use strict';
// Processes and threads: what keeps a program alive, what a child inherits, and what a worker that is ended leaves.

const assert = require('node:assert/strict');
const { execFile, spawn } = require('node:child_process');
const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');
const { once } = require('node:events');
const { after, before, describe, test } = require('node:test');
const { promisify } = require('node:util');
const { Worker } = require('node:worker_threads');
const { LONG, Sidecar, connect, turn } = require('./support.js');

const run = promisify(execFile);

describe('process', { timeout: 8 * LONG }, () => {
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

  /** Runs a script that can say `attach`, `connect` and `socket`; says what it wrote. */
  async function script(text, options = {}) {
    const { environment, flags = [] } = options;
    const begin = `const { attach } = require('machnet'); const { connect } = require('./support.js');
      const socket = ${JSON.stringify(sidecar.socket)};`;
    const { stdout } = await run(process.execPath, [...flags, '-e', `${begin} (async () => { ${text} })();`], {
      cwd: __dirname,
      env: { ...process.env, ...environment },
      timeout: LONG,
    });
    return stdout;
  }

  test('a program with idle channels ends', async () => {
    const output = await script(`
      const channel = await attach({ socket });
      const listener = await channel.listen('0.0.0.0:0');
      const [ours, theirs] = await connect(channel, channel);
      await ours.send('x');
      await theirs.receive();
      await theirs.receive({ timeout: 5 }).catch(() => {});
      console.log('idle');`);
    assert.equal(output, 'idle\n');
  });

  test('a call that waits keeps the program alive until its channel is told not to', async () => {
    const text = (more) => `
      const channel = await attach({ socket });
      const listener = await channel.listen('0.0.0.0:0');
      const [ours, theirs] = await connect(channel, channel);
      ${more}
      theirs.receive().then(() => console.log('received'));
      setTimeout(() => ours.send('x'), 50).unref();`;
    assert.equal(await script(text('')), 'received\n');
    assert.equal(await script(text('channel.unref();')), '');
    assert.equal(await script(text('channel.unref().ref();')), 'received\n');
  });

  test('an unref\'d stream lets the program end', async () => {
    const text = (more) => `
      const channel = await attach({ socket });
      const [ours, theirs] = await connect(channel, channel);
      const [stream, peer] = [ours.duplex(), theirs.duplex()];
      stream.resume();
      stream.on('end', () => { console.log('end'); channel.close(); });
      setTimeout(() => peer.end(), 50).unref();
      ${more}`;
    assert.equal(await script(text('')), 'end\n');
    assert.equal(await script(text('stream.unref();')), '');
  });

  test('what was sent before a program ended arrives', async () => {
    const listener = await channel.listen('0.0.0.0:0');
    const { host, port } = listener.address;
    const sending = script(`
      const channel = await attach({ socket });
      const flow = await channel.connect({ host: ${JSON.stringify(host)}, port: ${port} });
      for (let number = 0; number < 100; number++) await flow.send(String(number));
      await flow.close();
      process.exit();`);
    const flow = await listener.accept({ timeout: LONG });
    const seen = [];
    for await (const message of flow) seen.push(Number(message.toString()));
    assert.deepEqual(seen, Array.from({ length: 100 }, (_, number) => number));
    await sending;
    await listener.close();
  });

  test('a child process inherits no descriptor', async () => {
    const own = await sidecar.attach();
    const [ours, theirs] = await connect(own, own);
    theirs.receive().catch(() => {});
    await turn();
    const before = fs.readlinkSync(`/proc/self/fd/${own.eventFd}`);
    // What a child is to get, it gets by number; anything else must close by itself.
    const { stdout } = await run('ls', ['-l', '/proc/self/fd'], { encoding: 'utf8' });
    assert.ok(before.startsWith('pipe:') && !stdout.includes(before));
    const child = spawn('sleep', ['20']);
    const held = fs.readdirSync(`/proc/${child.pid}/fd`).map((fd) => {
      try {
        return fs.readlinkSync(`/proc/${child.pid}/fd/${fd}`);
      } catch {
        return '';
      }
    });
    assert.ok(held.every((link) => link !== before && !link.includes('memfd')), held.join(' '));
    child.kill();
    await ours.close();
    await own.close();
  });

  const WORKER = `
    const { parentPort, workerData } = require('node:worker_threads');
    const { attach } = require('machnet');
    (async () => {
      const channel = await attach({ socket: workerData.socket });
      const flow = await channel.connect(workerData.address);
      parentPort.postMessage('connected');
      if (workerData.waits) await flow.receive();
      for (let number = 0; number < workerData.rounds; number++) {
        await flow.send(String(number));
        const answer = await flow.receive();
        if (answer.toString() !== String(number)) throw new Error('another answer');
      }
      await channel.close();
    })();`;

  function work(data) {
    const filename = path.join(__dirname, 'worker');
    return new Worker(`require('node:module').createRequire(${JSON.stringify(filename)});${WORKER.replaceAll(
      "require('machnet')",
      `require('node:module').createRequire(${JSON.stringify(filename)})('machnet')`,
    )}`, { eval: true, workerData: { socket: sidecar.socket, ...data } });
  }

  test('worker threads attach for themselves and talk at the same time', async () => {
    const listener = await channel.listen('0.0.0.0:0');
    const serving = (async () => {
      for await (const flow of listener) {
        (async () => {
          for await (const message of flow) await flow.send(message);
        })();
      }
    })();
    const workers = Array.from({ length: 4 }, () => work({ address: listener.address, rounds: 500 }));
    for (const [code] of await Promise.all(workers.map((worker) => once(worker, 'exit')))) assert.equal(code, 0);
    await listener.close();
    await serving;
  });

  test('a worker that is ended in the middle of anything takes nothing with it', async () => {
    const listener = await channel.listen('0.0.0.0:0');
    const flows = [];
    const serving = (async () => {
      for await (const flow of listener) {
        flows.push(flow);
        (async () => {
          for await (const message of flow) await flow.send(message);
        })().catch(() => {});
      }
    })();
    for (let round = 0; round < 12; round++) {
      const worker = work({ address: listener.address, rounds: 1e9, waits: round % 3 === 0 });
      // While it loads, while it attaches, while it waits, and while it is busy.
      if (round % 4 !== 1) await once(worker, 'message');
      for (let turns = 0; turns < round; turns++) await turn();
      await worker.terminate();
    }
    await listener.close();
    await serving;
    await Promise.allSettled(flows.map((flow) => flow.close()));
  });

  test('where external memory is forbidden everything is copied', async () => {
    const output = await script(`
      const { native } = require(require('node:path').join(require.resolve('machnet/package.json'), '../lib/native.js'));
      native.forbidLending();
      const channel = await attach({ socket });
      const [ours, theirs] = await connect(channel, channel);
      for (const size of [1, 5000, 20000, 1000000]) {
        const loan = await ours.lend(size);
        loan.buffer.fill(size % 251);
        await loan.send();
        const message = await theirs.receive();
        console.log(message.length, message.isLent, message.every((byte) => byte === size % 251));
        message.release();
        console.log(message.length);
      }
      await channel.close();`);
    const expected = [1, 5000, 20000, 1000000].map((size) => `${size} false true\n${size}\n`);
    assert.equal(output, expected.join(''));
  });

  test('what nobody refers to is collected, and closed', async () => {
    const output = await script(
      `
      const own = await attach({ socket });
      const listener = await own.listen('0.0.0.0:0');
      const other = await attach({ socket });
      let flow = await other.connect(listener.address);
      const peer = await listener.accept();
      const ended = peer.receive().then(() => 'a message', (error) => error.code);
      await flow.send('x');
      flow = undefined;
      const over = ended.then(() => true);
      for (let rounds = 0; rounds < 500; rounds++) {
        globalThis.gc();
        if (await Promise.race([over, new Promise((resolve) => setTimeout(resolve, 5))])) break;
      }
      console.log(await ended);
      for (let rounds = 0; rounds < 500; rounds++) {
        globalThis.gc();
        const outcome = await peer.receive({ timeout: 5 }).catch((error) => error.code);
        if (outcome === 'Closed') break;
      }
      console.log(await peer.receive({ timeout: 100 }).catch((error) => error.code));
      await Promise.all([own.close(), other.close()]);`,
      { flags: ['--expose-gc'] },
    );
    assert.equal(output, 'a message\nClosed\n');
  });

  test('on other platforms the package can be imported, and attach says what is possible', async () => {
    const text = `
      const machnet = require('machnet');
      console.log(typeof machnet.Channel, machnet.version.length > 0);
      await attach({ socket }).catch((error) => console.log(error.name, error.code, error instanceof machnet.MachnetError, error.message));`;
    for (const [platform, expected] of [
      ['darwin-arm64', /machnet runs on Linux.*darwin-arm64.*container/],
      ['win32-x64', /machnet runs on Linux.*win32-x64/],
      ['linux-x64-musl', /no package for linux-x64-musl/],
      ['linux-riscv64-gnu', /no package for linux-riscv64-gnu/],
    ]) {
      const output = await script(text, { environment: { MACHNET_NODE_PLATFORM: platform } });
      assert.match(output, /^function true\nMachnetError Unsupported true /);
      assert.match(output, expected);
    }
    const missing = process.arch === 'x64' ? 'linux-arm64-gnu' : 'linux-x64-gnu';
    const output = await script(text, { environment: { MACHNET_NODE_PLATFORM: missing } });
    assert.match(output, /is not installed or cannot be loaded.*optional dependencies/);
  });

  test('the command becomes the sidecar: signals reach it and its exit codes come back', async () => {
    const bin = path.join(require.resolve('machnet/package.json'), '../bin/machnet.js');
    const { stdout } = await run(process.execPath, [bin, '--version']);
    assert.match(stdout, /^machnet \d+\.\d+\.\d+/);
    await assert.rejects(run(process.execPath, [bin, 'no-such-command']), ({ code, stderr }) => code === 2 && /no-such-command/.test(stderr));
    const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'machnet-node-'));
    const socket = path.join(folder, 'socket');
    const host = sidecar.host.replace(/\d+$/, '200');
    const port = String(30_000 + (process.pid % 1000));
    const options = ['up', '--no-config', '--address', host, '--udp-port', port, '--socket', socket];
    const child = spawn(process.execPath, [bin, ...options], { stdio: 'ignore' });
    while (!fs.existsSync(socket) && child.exitCode === null) await new Promise((resolve) => setTimeout(resolve, 5));
    const own = await sidecar.attach({ socket });
    assert.equal(own.info.sidecarPid, child.pid);
    await own.close();
    child.kill('SIGTERM');
    assert.deepEqual(await once(child, 'exit'), [0, null]);
    fs.rmSync(folder, { recursive: true });
    const nowhere = run(process.execPath, [bin, 'up'], { env: { ...process.env, MACHNET_NODE_PLATFORM: 'darwin-arm64' } });
    await assert.rejects(nowhere, ({ code, stderr }) => code === 1 && /^machnet: machnet runs on Linux/.test(stderr));
  });
});
