'use strict';
// Sidecars of the tests' own, and flows over them.

const { spawn } = require('node:child_process');
const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');
const { attach } = require('machnet');

/** Milliseconds against hangs; no test passes because time passed. */
const LONG = 20_000;

let started = 0;

/** $MACHNET, else the command of the package of this platform. */
function command() {
  const found = process.env.MACHNET;
  if (found) return found;
  const folders = ['linux-x64-gnu', 'linux-arm64-gnu'].map((name) => {
    try {
      return path.dirname(require.resolve(`@machnet/${name}/package.json`));
    } catch {
      return '';
    }
  });
  return path.join(folders.find((folder) => folder !== ''), 'machnet');
}

/** One host: a sidecar on a loopback address of its own. */
class Sidecar {
  /** Starts one and waits until programs can attach. */
  static async start(...more) {
    const sidecar = new Sidecar();
    const number = ++started;
    sidecar.host = `127.${64 + ((process.pid >> 8) % 128)}.${process.pid & 0xff}.${number}`;
    sidecar.folder = fs.mkdtempSync(path.join(os.tmpdir(), 'machnet-node-'));
    sidecar.socket = path.join(sidecar.folder, 'machnet.sock');
    sidecar.log = path.join(sidecar.folder, 'log');
    const log = fs.openSync(sidecar.log, 'w');
    const port = String(20_000 + (process.pid % 10_000));
    const options = ['up', '--no-config', '--address', sidecar.host, '--udp-port', port, '--socket', sidecar.socket];
    sidecar.process = spawn(command(), [...options, ...more], { stdio: ['ignore', log, log] });
    fs.closeSync(log);
    sidecar.ended = new Promise((resolve) => sidecar.process.once('exit', resolve));
    await sidecar.#untilReady();
    return sidecar;
  }

  async #untilReady() {
    for (;;) {
      try {
        const channel = await this.attach();
        await channel.close();
        return;
      } catch (error) {
        if (error.code !== 'NoSidecar') throw error;
        if (this.process.exitCode !== null) throw new Error(`the sidecar ended: ${fs.readFileSync(this.log)}`);
        await new Promise((resolve) => setTimeout(resolve, 5));
      }
    }
  }

  attach(options) {
    return attach({ socket: this.socket, ...options });
  }

  address(port = 0) {
    return { host: this.host, port };
  }

  /** Ends it at once, as a crash would. */
  async kill() {
    this.process.kill('SIGKILL');
    await this.ended;
  }

  async stop() {
    await this.kill();
    fs.rmSync(this.folder, { recursive: true });
  }
}

/** Both ends of a flow between two channels. */
async function connect(client, server, address = '0.0.0.0:0') {
  const listener = await server.listen(address);
  const [ours, theirs] = await Promise.all([
    client.connect(listener.address, { timeout: LONG }),
    listener.accept({ timeout: LONG }),
  ]);
  await listener.close();
  return [ours, theirs];
}

/** A message of so many bytes that is like no other. */
function pattern(size, seed = 0) {
  const bytes = Buffer.allocUnsafe(size);
  for (let place = 0; place < Math.min(size, 1009); place++) bytes[place] = (7 * place + size + seed) % 251;
  for (let place = 1009; place < size; place *= 2) bytes.copy(bytes, place, 0, Math.min(place, size - place));
  return bytes;
}

/** The next turn of the event loop. */
const turn = () => new Promise((resolve) => setImmediate(resolve));

module.exports = { LONG, Sidecar, command, connect, pattern, turn };
