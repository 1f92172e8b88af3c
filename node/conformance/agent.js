'use strict';
// The agent of the conformance suite: commands and answers as ci/conformance/README.md has them.

const { once } = require('node:events');
const readline = require('node:readline');
const machnet = require('machnet');

const { MachnetError } = machnet;

/** What is sent, and compared, is made of this. */
const TABLE = (() => {
  const table = Buffer.alloc(65_521);
  let x = 2_463_534_242;
  for (let place = 0; place < table.length; place++) {
    x = (x ^ (x << 13)) >>> 0;
    x = (x ^ (x >>> 17)) >>> 0;
    x = (x ^ (x << 5)) >>> 0;
    table[place] = x >>> 24;
  }
  return table;
})();

function content(seed, length, offset = 0) {
  const made = Buffer.allocUnsafe(length);
  let from = (((seed % TABLE.length) * 7919) % TABLE.length + offset) % TABLE.length;
  for (let place = 0; place < length; from = 0) place += TABLE.copy(made, place, from, Math.min(TABLE.length, from + length - place));
  return made;
}

function numbered(seed, number, length) {
  const made = Buffer.allocUnsafe(length);
  made.writeUInt32LE(number, 0);
  content(seed + number, length - 4).copy(made, 4);
  return made;
}

const lengthOf = (lengths, number) => lengths[number % lengths.length];
const of = ({ seed, lengths }, number) => numbered(seed, number, lengthOf(lengths, number));

/** Handles, by the names that the runner chose. */
const handles = new Map();
const tasks = new Map();

class Fault extends Error {}

function find(name, ...types) {
  const handle = handles.get(name);
  if (handle === undefined) throw new Fault(`no handle ${name}`);
  if (types.length > 0 && !types.some((type) => handle instanceof type)) throw new Fault(`${name} is another kind of handle`);
  return handle;
}

const flowOf = (command) => find(command.flow, machnet.Flow);
const show = ({ host, port }) => `${host}:${port}`;
const options = (command, signal) => ({ timeout: command.timeout_ms, signal });

/** An error with what was done before it. */
class Behind extends Error {
  constructor(error, more) {
    super(error.message);
    this.error = error;
    this.more = more;
  }
}

async function counting(more, body) {
  try {
    return await body();
  } catch (error) {
    throw new Behind(error, more());
  }
}

// ---- channels, listeners, flows

function opened(command, flow) {
  handles.set(command.as, flow);
  return { local: show(flow.local), peer: show(flow.peer), max_message: flow.maxMessage };
}

const commands = {
  features() {
    return {
      agent: 'node',
      version: machnet.version,
      protocol: 1,
      lacks: {
        fork: 'Node.js does not fork: its child processes are other programs',
        event_fd: 'an event loop in JavaScript cannot poll a descriptor; the package does it',
        threads: 'tasks are promises of one event loop',
      },
    };
  },

  async attach({ as, socket, engine, name, linger_ms }) {
    const channel = await machnet.attach({ socket, engine, name, linger: linger_ms });
    handles.set(as, channel);
    const { info } = channel;
    return { engine: info.engine, sidecar_pid: info.sidecarPid, local: info.local.host };
  },

  async listen({ channel, as, address, backlog }) {
    const listener = await find(channel, machnet.Channel).listen(address, { backlog });
    handles.set(as, listener);
    return { address: show(listener.address) };
  },

  async connect(command, signal) {
    return opened(command, await find(command.channel, machnet.Channel).connect(command.address, options(command, signal)));
  },

  async accept(command, signal) {
    return opened(command, await find(command.listener, machnet.Listener).accept(options(command, signal)));
  },

  try_accept(command) {
    const flow = find(command.listener, machnet.Listener).tryAccept();
    return flow === null ? { none: true } : opened(command, flow);
  },

  async close({ handle, wait_ms }) {
    const found = find(handle);
    if (found instanceof machnet.FlowStream) {
      found.end();
      found.destroy();
    } else {
      await found.close(wait_ms === undefined ? undefined : { timeout: wait_ms });
    }
    return {};
  },

  reset({ handle }) {
    const found = find(handle);
    if (found instanceof machnet.FlowStream) found.resetAndDestroy();
    else found.reset();
    return {};
  },

  async stats({ handle }) {
    const stats = await find(handle).stats();
    const named = ([name, value]) => [name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`), value];
    return Object.fromEntries(Object.entries(stats).map(named));
  },

  // ---- messages

  async send(command, signal) {
    const { length, seed, how = 'copy' } = command;
    await sendBytes(flowOf(command), content(seed, length), how, options(command, signal));
    return {};
  },

  try_send(command) {
    return flowOf(command).trySend(content(command.seed, command.length)) ? {} : { none: true };
  },

  async recv(command, signal) {
    const { how = 'copy', capacity, as } = command;
    const flow = flowOf(command);
    if (how === 'into') {
      const room = Buffer.alloc(capacity);
      const length = await flow.receiveInto(room, options(command, signal));
      return compared(room.subarray(0, length), command.seed);
    }
    const message = await flow.receive(options(command, signal));
    const answer = compared(message, command.seed);
    if (how === 'loan' && as !== undefined) handles.set(as, message);
    else message.release();
    return answer;
  },

  try_recv(command) {
    const message = flowOf(command).tryReceive();
    return message === null ? { none: true } : compared(message, command.seed);
  },

  release({ message, seed }) {
    const lent = find(message, machnet.Message);
    const answer = compared(lent, seed);
    lent.release();
    handles.delete(message);
    return answer;
  },

  async send_series(command, signal) {
    const { count, first = 0, how = 'copy' } = command;
    const flow = flowOf(command);
    let sent = 0;
    const send = async () => {
      while (sent < count) {
        if (how === 'batch') {
          const batch = Array.from({ length: Math.min(32, count - sent) }, (_, more) => of(command, first + sent + more));
          sent += await flow.sendMany(batch, options(command, signal));
        } else if (how === 'try') {
          if (!flow.trySend(of(command, first + sent))) break;
          sent++;
        } else {
          await sendBytes(flow, of(command, first + sent), how, options(command, signal));
          sent++;
        }
      }
      return { sent };
    };
    return counting(() => ({ sent }), send);
  },

  async recv_series(command, signal) {
    const { count, first = 0, lengths, how = 'copy' } = command;
    const flow = flowOf(command);
    const room = Buffer.alloc(how === 'into' ? Math.max(...lengths) : 0);
    const iterator = flow[Symbol.asyncIterator]();
    let received = 0;
    const receive = async () => {
      while (received < count) {
        for (const message of await some(flow, how, count - received, room, iterator, options(command, signal))) {
          const isRight = received < count && of(command, first + received).equals(message);
          if (message instanceof machnet.Message) message.release();
          if (!isRight) return { received, ok: false, number: first + received };
          received++;
        }
      }
      return { received, ok: true };
    };
    return counting(() => ({ received }), receive);
  },

  async drain(command, signal) {
    const flow = flowOf(command);
    let [count, sum, squares, ok] = [0, 0, 0, true];
    const drain = async () => {
      for (;;) {
        let message;
        try {
          message = await flow.receive(options(command, signal));
        } catch (error) {
          if (error.code === 'Closed') return { count, sum, squares, ok };
          throw error;
        }
        const number = message.length >= 4 ? message.readUInt32LE(0) : 0;
        ok &&= message.length >= 4 && of(command, number).equals(message);
        count++;
        sum += number;
        squares += number * number;
        message.release();
      }
    };
    return counting(() => ({ count }), drain);
  },

  async ping(command, signal) {
    const flow = flowOf(command);
    let received = 0;
    const ping = async () => {
      for (; received < command.count; received++) {
        const asked = of(command, received);
        await flow.send(asked, options(command, signal));
        const answer = await flow.receive(options(command, signal));
        const isRight = asked.equals(answer);
        answer.release();
        if (!isRight) return { received, ok: false };
      }
      return { received, ok: true };
    };
    return counting(() => ({ received }), ping);
  },

  async echo(command, signal) {
    const flow = flowOf(command);
    let [messages, bytes] = [0, 0];
    for (;;) {
      let message;
      try {
        message = await flow.receive(options(command, signal));
      } catch (error) {
        if (error.code === 'Closed') return { messages, bytes };
        throw error;
      }
      messages++;
      bytes += message.length;
      await flow.send(message, options(command, signal));
      message.release();
    }
  },

  async supply(command, signal) {
    const flow = flowOf(command);
    for (let sent = 0; sent < command.count; sent++) {
      (await flow.receive(options(command, signal))).release();
      await flow.send(of(command, sent), options(command, signal));
    }
    return { sent: command.count };
  },

  async cancel_storm(command, signal) {
    const flow = flowOf(command);
    let [received, cancelled, won] = [0, 0, 0];
    const aborted = async (atOnce) => {
      const controller = new AbortController();
      const receiving = flow.receive({ signal: controller.signal });
      if (!atOnce) await null;
      controller.abort();
      try {
        return await receiving;
      } catch (error) {
        if (error !== controller.signal.reason) throw error;
        cancelled++;
        return undefined;
      }
    };
    const storm = async () => {
      for (let number = 0; number < command.count; number++) {
        if ((await aborted(false)) !== undefined) return { received, cancelled, won, ok: false };
        await flow.send(content(0, 1), options(command, signal));
        let message = await aborted(true);
        if (message !== undefined) won++;
        else message = await flow.receive(options(command, signal));
        if (!of(command, number).equals(message)) return { received, cancelled, won, ok: false };
        received++;
      }
      return { received, cancelled, won, ok: true };
    };
    return counting(() => ({ received, cancelled, won }), storm);
  },

  // ---- streams

  stream(command) {
    const stream = flowOf(command).duplex();
    // What goes wrong is told by the next read or write.
    stream.on('error', () => {});
    handles.delete(command.flow);
    handles.set(command.as, stream);
    return {};
  },

  async write(command, signal) {
    const { seed, length, chunk = length } = command;
    const stream = find(command.stream, machnet.FlowStream);
    const bytes = content(seed, length);
    for (let written = 0; written < length; written += chunk) {
      await within(command, signal, stream, (done) => stream.write(bytes.subarray(written, written + chunk), done));
    }
    return { written: length };
  },

  async read(command, signal) {
    const { seed, length, offset = 0 } = command;
    const stream = find(command.stream, machnet.FlowStream);
    let got = 0;
    let ok = true;
    const read = async () => {
      while (got < length) {
        const piece = stream.read(Math.min(length - got, Math.max(stream.readableLength, 1)));
        if (piece !== null) {
          ok &&= content(seed, piece.length, offset + got).equals(piece);
          got += piece.length;
        } else if (stream.readableEnded) {
          return { length: got, ok, end: true };
        } else {
          await within(command, signal, stream, (done) => {
            const settle = () => {
              for (const event of ['readable', 'end', 'error', 'close']) stream.off(event, settle);
              done(stream.errored);
            };
            for (const event of ['readable', 'end', 'error', 'close']) stream.on(event, settle);
            if (stream.destroyed) settle();
            return settle;
          });
        }
      }
      return { length: got, ok, end: stream.readableEnded };
    };
    return counting(() => ({ length: got }), read);
  },

  async end(command, signal) {
    const stream = find(command.stream, machnet.FlowStream);
    await within(command, signal, stream, (done) => stream.end(done));
    return {};
  },

  async stream_echo(command) {
    const stream = find(command.stream, machnet.FlowStream);
    let bytes = 0;
    for await (const piece of stream.iterator({ destroyOnReturn: false })) {
      bytes += piece.length;
      if (!stream.write(piece)) await once(stream, 'drain');
    }
    await within(command, undefined, stream, (done) => stream.end(done));
    return { bytes };
  },

  fork() {
    return { unsupported: 'Node.js does not fork' };
  },
};

async function sendBytes(flow, bytes, how, waiting) {
  if (how === 'copy') return flow.send(bytes, waiting);
  const loan = await flow.lend(bytes.length, waiting);
  loan.buffer.set(bytes);
  return how === 'dropped' ? loan.release() : loan.send();
}

function compared(message, seed) {
  const { length } = message;
  return seed === undefined ? { length } : { length, ok: content(seed, length).equals(message) };
}

/** The next messages, at most `most`, by the call that is to be used. */
async function some(flow, how, most, room, iterator, waiting) {
  switch (how) {
    case 'into':
      return [room.subarray(0, await flow.receiveInto(room, waiting))];
    case 'batch':
      return flow.receiveMany(Math.min(most, 32), waiting);
    case 'iterator': {
      const { value, done } = await iterator.next();
      if (done) await flow.receive({ timeout: 0 });
      return [value];
    }
    default:
      return [await flow.receive(waiting)];
  }
}

/** What a callback of a stream answers, within the command's time. */
function within(command, signal, stream, begin) {
  return new Promise((resolve, reject) => {
    let timer;
    let undo;
    const settle = (error) => {
      clearTimeout(timer);
      signal?.removeEventListener('abort', onAbort);
      if (error) reject(error);
      else resolve();
    };
    const onAbort = () => {
      settle(signal.reason);
      if (typeof undo === 'function') undo();
    };
    if (stream.errored) return settle(stream.errored);
    if (signal?.aborted) return settle(signal.reason);
    signal?.addEventListener('abort', onAbort);
    if (command.timeout_ms !== undefined) {
      timer = setTimeout(() => {
        settle(new machnet.TimeoutError('TimedOut', 'timed out'));
        if (typeof undo === 'function') undo();
      }, command.timeout_ms);
    }
    undo = begin(settle);
  });
}

// ---- tasks, and the answers

const AGENT = {
  start({ task, command }) {
    const controller = new AbortController();
    const running = { controller, answer: undefined };
    running.done = work(command, controller.signal).then((answer) => {
      running.answer = answer;
    });
    tasks.set(task, running);
    return {};
  },

  async join({ task, timeout_ms }) {
    const running = tasks.get(task);
    if (running === undefined) throw new Fault(`no task ${task}`);
    let timer;
    const late = new Promise((resolve) => {
      if (timeout_ms !== undefined) timer = setTimeout(resolve, timeout_ms);
    });
    await Promise.race([running.done, late]);
    clearTimeout(timer);
    if (running.answer === undefined) return { running: true };
    tasks.delete(task);
    return running.answer;
  },

  cancel({ task }) {
    const running = tasks.get(task);
    if (running === undefined) throw new Fault(`no task ${task}`);
    running.controller.abort();
    return {};
  },

  async clear() {
    for (const { controller } of tasks.values()) controller.abort();
    const all = [...handles.values()];
    for (const handle of all) if (handle instanceof machnet.FlowStream) handle.resetAndDestroy();
    for (const handle of all) if (handle instanceof machnet.Message) handle.release();
    await Promise.allSettled(all.filter((handle) => handle instanceof machnet.Flow).map(async (flow) => flow.reset()));
    await Promise.allSettled(all.filter((handle) => handle instanceof machnet.Listener).map((listener) => listener.close()));
    await Promise.allSettled(all.filter((handle) => handle instanceof machnet.Channel).map((channel) => channel.close()));
    await Promise.allSettled([...tasks.values()].map(({ done }) => done));
    tasks.clear();
    handles.clear();
    return {};
  },

  exit() {
    return {};
  },
};

/** The answer to a command that may run as a task. */
async function work(command, signal) {
  try {
    const call = commands[command.op];
    if (call === undefined) throw new Fault(`no command ${command.op}`);
    return await call(command, signal);
  } catch (thrown) {
    const { error, more } = thrown instanceof Behind ? thrown : { error: thrown, more: {} };
    if (signal?.aborted && error === signal.reason) return { cancelled: true };
    return { ...explain(error), ...more };
  }
}

function explain(error) {
  if (error instanceof MachnetError) {
    return { error: { name: error.code, code: error.errno, text: error.message } };
  }
  return { fault: `${error?.stack ?? error}` };
}

async function main() {
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const command = JSON.parse(line);
    const own = AGENT[command.op];
    let answer;
    try {
      answer = own === undefined ? await work(command) : await own(command);
    } catch (error) {
      answer = explain(error);
    }
    process.stdout.write(`${JSON.stringify(answer)}\n`);
    if (command.op === 'exit') break;
  }
  process.exit(0);
}

if (require.main === module) main();
module.exports = { content, numbered };
