'use strict';
// The channel of a program with its sidecar.

const path = require('node:path');
const { resolve, resolveHost } = require('./address.js');
const { attempt, invalid, settle, unsupported } = require('./errors.js');
const { Flow } = require('./flow.js');
const { Listener } = require('./listener.js');
const { native } = require('./native.js');
const { Doorbell, Line, milliseconds } = require('./waiting.js');

/** The names of a channel's sizes. */
const SIZES = ['sendSlots', 'receiveSlots', 'txBuffers', 'rxBuffers', 'bufferBytes', 'maxFlows', 'flowCredit'];

async function attach(options = {}) {
  if (native === undefined) throw unsupported();
  const { socket, engine, name, linger, sizes, lend = true, signal } = options;
  signal?.throwIfAborted();
  const chosen = {
    socket: text(socket, 'socket'),
    engine: engine ?? undefined,
    name: text(name, 'name') ?? path.basename(process.argv[1] ?? 'node'),
    lingerMs: milliseconds(linger),
    sizes: typeof sizes === 'string' ? { base: sizes } : sizes,
  };
  if (chosen.engine !== undefined) integer(chosen.engine, 'engine');
  for (const size of SIZES) if (sizes?.[size] !== undefined) integer(sizes[size], size);
  const channel = await settle(attempt(() => native.attach(chosen)));
  return new Channel(channel, Boolean(lend));
}

function text(value, what) {
  if (value === undefined || value === null) return undefined;
  if (typeof value === 'string') return value;
  if (value instanceof URL && value.protocol === 'file:') return value.pathname;
  throw invalid(`${what} is a string`);
}

function integer(value, what) {
  if (!Number.isInteger(value) || value < 0 || value > 0xffffffff) throw invalid(`${what} is a number from 0`);
}

class Channel {
  #channel;
  #doorbell;
  #mayLend;
  #connecting;
  #closing;

  /** Not public: `attach` makes channels. */
  constructor(channel, mayLend) {
    this.#channel = channel;
    this.#mayLend = mayLend;
    this.#doorbell = new Doorbell(channel);
    this.#connecting = new Line(this.#doorbell);
  }

  get info() {
    const { sizes, ...info } = this.#channel.info();
    return { ...info, sizes: Object.fromEntries(SIZES.map((size) => [size, sizes[size]])) };
  }

  get eventFd() {
    return attempt(() => this.#channel.eventFd());
  }

  async listen(address, options) {
    const backlog = options?.backlog ?? 0;
    integer(backlog, 'backlog');
    const { host, port } = await resolve(address);
    const listener = await settle(attempt(() => this.#channel.listen(host, port, backlog)));
    return new Listener(listener, this.#doorbell, this.#mayLend);
  }

  async connect(address, options) {
    const { signal, local } = options ?? {};
    const timeout = milliseconds(options?.timeout);
    signal?.throwIfAborted();
    const { host, port } = await resolve(address);
    const from = local === undefined || local === null ? undefined : await resolveHost(local);
    // The ring to the sidecar may be full of what was sent: then this waits for a place in it.
    const begin = () => attempt(() => this.#channel.startConnect(host, port, timeout, from)) ?? undefined;
    const pending = await this.#connecting.run(begin, { signal });
    const line = new Line(this.#doorbell);
    try {
      // The sidecar keeps the time, and answers.
      const flow = await line.run(() => attempt(() => pending.tryFinish()) ?? undefined, { signal });
      return new Flow(flow, this.#doorbell, this.#mayLend);
    } catch (error) {
      pending.abandon();
      throw error;
    }
  }

  ref() {
    this.#doorbell.keepsAlive = true;
    return this;
  }

  unref() {
    this.#doorbell.keepsAlive = false;
    return this;
  }

  close() {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close() {
    try {
      const closing = settle(this.#channel.close());
      await closing;
    } finally {
      this.#doorbell.stop();
    }
  }

  [Symbol.asyncDispose ?? Symbol.for('nodejs.asyncDispose')]() {
    return this.close();
  }
}

module.exports = { Channel, attach };
