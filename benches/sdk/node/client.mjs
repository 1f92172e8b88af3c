// The Node.js client of `ci/bench.sh sdk`; what it has to do is said in ../README.md.
import fs from 'node:fs';
import net from 'node:net';

// What build.sh made of node/; beside this file in its folder of programs.
const machnet = async () => import('machnet');

const NOT_HERE = 3;

/** The API or the measure does not exist in this language. */
class NotHere extends Error {}

const now = () => process.hrtime.bigint();
const since = (before) => Number(now() - before);

/** Messages with growing numbers, and whether the answers are theirs. */
class Numbered {
  #sent = 0;
  #answered = 0;

  constructor(length) {
    this.message = Buffer.alloc(length, 7);
  }

  next() {
    // The upper half of the number stays 0: so many messages are never sent.
    this.message.writeUInt32LE(this.#sent++, 0);
    this.message.writeUInt32LE(0, 4);
    return this.message;
  }

  check(answer, isWarmUp) {
    if (answer.length !== this.message.length) throw new Error(`an answer has ${answer.length} bytes`);
    if (isWarmUp && answer.readUInt32LE(0) !== this.#answered) throw new Error('an answer is not that of its question');
    this.#answered++;
  }
}

function quantiles(times) {
  times.sort((a, b) => a - b);
  const at = (share) => times[Math.min(Math.floor(times.length * share), times.length - 1)];
  return { p50_ns: at(0.5), p99_ns: at(0.99), mean_ns: times.reduce((a, b) => a + b, 0) / times.length };
}

async function latency(link, chosen) {
  const numbered = new Numbered(chosen.bytes);
  const times = [];
  for (let round = 0; round < chosen.warmUp + chosen.count; round++) {
    const message = numbered.next();
    const before = now();
    let waits = link.send(message);
    if (waits !== undefined) await waits;
    waits = link.receive();
    const answer = waits instanceof Promise ? await waits : waits;
    if (round >= chosen.warmUp) times.push(since(before));
    numbered.check(answer, round < chosen.warmUp);
  }
  return quantiles(times);
}

async function window(link, chosen) {
  const numbered = new Numbered(chosen.bytes);
  const send = async () => {
    const waits = link.send(numbered.next());
    if (waits !== undefined) await waits;
  };
  for (let i = 0; i < chosen.window; i++) await send();
  let began = now();
  for (let round = 0; round < chosen.warmUp + chosen.count; round++) {
    if (round === chosen.warmUp) began = now();
    const waits = link.receive();
    numbered.check(waits instanceof Promise ? await waits : waits, round < chosen.warmUp);
    const sends = link.send(numbered.next());
    if (sends !== undefined) await sends;
  }
  return { messages_per_second: chosen.count / (since(began) / 1e9) };
}

// ---- The calls alone

function pause(us) {
  const until = now() + BigInt(Math.round(us * 1e3));
  while (now() < until);
}

/** Nanoseconds a message; negative if an answer was late. */
function singleRound(flow, message, chosen) {
  let isLate = false;
  let began = now();
  for (let i = 0; i < chosen.window; i++) if (!flow.trySend(message)) throw new Error('there is no credit');
  let spent = since(began);
  pause(chosen.pauseUs);
  began = now();
  for (let i = 0; i < chosen.window; i++) {
    let answer = flow.tryReceive();
    while (answer === null) {
      isLate = true;
      answer = flow.tryReceive();
    }
    if (answer.length !== message.length) throw new Error('an answer has another length');
  }
  spent += since(began);
  return isLate ? -1 : spent / chosen.window;
}

function batchedRound(flow, messages, chosen) {
  let isLate = false;
  let began = now();
  let sent = 0;
  while (sent < messages.length) sent += flow.trySendMany(sent === 0 ? messages : messages.slice(sent));
  let spent = since(began);
  pause(chosen.pauseUs);
  began = now();
  for (let taken = 0; taken < chosen.window; ) {
    const answers = flow.tryReceiveMany(chosen.window - taken);
    isLate ||= answers.length === 0;
    for (const answer of answers) if (answer.length !== messages[0].length) throw new Error('an answer has another length');
    taken += answers.length;
  }
  spent += since(began);
  return isLate ? -1 : spent / chosen.window;
}

async function calls(flow, chosen) {
  const message = new Numbered(chosen.bytes).next();
  const messages = Array.from({ length: chosen.window }, () => Buffer.from(message));
  const found = { single: [], batched: [] };
  let late = 0;
  for (let round = 0; round < chosen.warmUp + chosen.count; round++) {
    for (const [times, took] of [
      [found.single, singleRound(flow, message, chosen)],
      [found.batched, batchedRound(flow, messages, chosen)],
    ]) {
      if (took < 0) late++;
      else if (round >= chosen.warmUp) times.push(took);
    }
    // What was received is given back to the garbage collector's hands between rounds, as in a program with a loop of events.
    if (round % 16 === 15) await new Promise(setImmediate);
  }
  return { single_ns: quantiles(found.single).p50_ns, batched_ns: quantiles(found.batched).p50_ns, late, rounds: chosen.count };
}

/** Its calls cannot tell that they waited, so nothing is counted as late here; the pause is the same. */
async function callsAsync(flow, chosen) {
  const message = new Numbered(chosen.bytes).next();
  const messages = Array.from({ length: chosen.window }, () => Buffer.from(message));
  const single = [];
  const batched = [];
  for (let round = 0; round < chosen.warmUp + chosen.count; round++) {
    let began = now();
    for (let i = 0; i < chosen.window; i++) await flow.send(message);
    let spent = since(began);
    pause(chosen.pauseUs);
    began = now();
    for (let i = 0; i < chosen.window; i++) {
      if ((await flow.receive()).length !== message.length) throw new Error('an answer has another length');
    }
    spent += since(began);
    if (round >= chosen.warmUp) single.push(spent / chosen.window);
    began = now();
    await flow.sendMany(messages);
    spent = since(began);
    pause(chosen.pauseUs);
    began = now();
    for (let taken = 0; taken < chosen.window; ) taken += (await flow.receiveMany(chosen.window - taken)).length;
    spent += since(began);
    if (round >= chosen.warmUp) batched.push(spent / chosen.window);
  }
  return { single_ns: quantiles(single).p50_ns, batched_ns: quantiles(batched).p50_ns, late: 0, rounds: chosen.count };
}

// ---- Wake-ups

async function wakeup(flow, chosen) {
  const asked = Buffer.alloc(16);
  asked.writeBigUInt64LE(BigInt(chosen.count), 0);
  asked.writeBigUInt64LE(BigInt(Math.round(chosen.pauseUs)), 8);
  await flow.send(asked);
  const times = [];
  for (let i = 0; i < chosen.count; i++) {
    const stamp = await flow.receive();
    times.push(Number(now() - stamp.readBigUInt64LE(0)));
  }
  return quantiles(times.slice(chosen.warmUp));
}

/** The least that Node can do: libuv reads the pipe, and calls back with what was there. */
async function wakeupOfPipe(chosen) {
  // Opened for writing as well, it has no end while nobody else has done so yet.
  const fd = fs.openSync(chosen.pipe, fs.constants.O_RDWR | fs.constants.O_NONBLOCK);
  const pipe = new net.Socket({ fd, readable: true, writable: false });
  const times = [];
  await new Promise((resolve, reject) => {
    pipe.on('error', reject);
    pipe.on('data', (stamps) => {
      const heard = now();
      for (let at = 0; at + 8 <= stamps.length; at += 8) times.push(Number(heard - stamps.readBigUInt64LE(at)));
      if (times.length >= chosen.count) resolve();
    });
  });
  pipe.destroy();
  return quantiles(times.slice(chosen.warmUp));
}

// ---- The APIs

/** The calls that never wait, again and again: all that a program without an event loop can do. */
function spinning(flow) {
  return {
    send(message) {
      while (!flow.trySend(message));
    },
    receive() {
      for (;;) {
        const answer = flow.tryReceive();
        if (answer !== null) return answer;
      }
    },
  };
}

async function overMachnet(measures, measure, chosen, linkOf) {
  if (!(measure in measures)) throw new NotHere(measure);
  const { attach } = await machnet();
  const channel = await attach({ socket: chosen.socket });
  const flow = await channel.connect(chosen.at);
  const found = await measures[measure](linkOf(flow), chosen);
  await flow.close();
  await channel.close();
  return found;
}

const sync = (measure, chosen) => {
  const measures = { latency, window };
  // The calls alone need the flow itself.
  if (measure === 'calls') return overMachnet({ calls }, measure, chosen, (flow) => flow);
  return overMachnet(measures, measure, chosen, spinning);
};

const asynchronous = (measure, chosen) => {
  if (measure === 'wakeup' && chosen.pipe !== undefined) return wakeupOfPipe(chosen);
  return overMachnet({ latency, window, calls: callsAsync, wakeup }, measure, chosen, (flow) => flow);
};

/** A TCP connection by the stream's events, which is the quickest way that Node has. */
async function overTcp(measure, chosen) {
  const measures = { latency, window };
  if (!(measure in measures)) throw new NotHere(measure);
  const colon = chosen.at.lastIndexOf(':');
  const socket = net.connect({ host: chosen.at.slice(0, colon), port: Number(chosen.at.slice(colon + 1)), noDelay: true });
  await new Promise((resolve, reject) => socket.once('connect', resolve).once('error', reject));
  const pieces = [];
  let there = 0;
  let waiting;
  const answer = () => {
    let message = pieces[0];
    if (pieces.length > 1) message = Buffer.concat(pieces);
    pieces.length = 0;
    there -= chosen.bytes;
    if (there > 0) pieces.push(message.subarray(chosen.bytes));
    return message.subarray(0, chosen.bytes);
  };
  socket.on('data', (piece) => {
    pieces.push(piece);
    there += piece.length;
    if (there >= chosen.bytes && waiting !== undefined) {
      const resolve = waiting;
      waiting = undefined;
      resolve(answer());
    }
  });
  const link = {
    send(message) {
      // Kept by the socket until it is written.
      socket.write(Buffer.from(message));
    },
    receive: () => (there >= chosen.bytes ? answer() : new Promise((resolve) => (waiting = resolve))),
  };
  const found = await measures[measure](link, chosen);
  socket.destroy();
  return found;
}

const APIS = { sync, async: asynchronous, net: overTcp };

function options(list) {
  const chosen = { bytes: 64, window: 32, warmUp: 1000, count: 10_000, pauseUs: 100 };
  const numbers = { '--bytes': 'bytes', '--window': 'window', '--warm-up': 'warmUp', '--count': 'count', '--pause-us': 'pauseUs' };
  const texts = { '--socket': 'socket', '--at': 'at', '--pipe': 'pipe' };
  for (let i = 0; i + 1 < list.length; i += 2) {
    if (list[i] in numbers) chosen[numbers[list[i]]] = Number(list[i + 1]);
    if (list[i] in texts) chosen[texts[list[i]]] = list[i + 1];
  }
  return chosen;
}

const [api, measure, ...rest] = process.argv.slice(2);
try {
  if (!(api in APIS)) throw new NotHere(api);
  console.log(JSON.stringify(await APIS[api](measure, options(rest))));
} catch (error) {
  if (error instanceof NotHere) {
    console.error(`Node has no ${error.message} for ${api}`);
    process.exitCode = NOT_HERE;
  } else {
    console.error(error);
    process.exitCode = 1;
  }
}
