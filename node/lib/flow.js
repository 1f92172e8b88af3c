'use strict';
// One connection.

const { attempt, fromNative, invalid, settle } = require('./errors.js');
const { Loan, bytesOf, roomOf, take, takeMany } = require('./message.js');
const { native } = require('./native.js');
const { FlowStream } = require('./stream.js');
const { Line, milliseconds } = require('./waiting.js');

/** Messages that `receiveMany` takes at most, if it is not told. */
const MANY = 64;

/** The bytes of many messages. */
function listOf(messages) {
  if (typeof messages !== 'object' || typeof messages?.[Symbol.iterator] !== 'function') {
    throw invalid('messages are an array, or something else to iterate over');
  }
  return Array.isArray(messages) && messages.every(isBytes) ? messages : Array.from(messages, bytesOf);
}

const isBytes = (message) => message instanceof Uint8Array;

/** Where small messages lie one behind the other when they are sent: to copy them there costs less than to pass each by itself. */
const packed = Buffer.allocUnsafeSlow(64 * 1024);
const lengths = new Uint32Array(256);
/** Longest message that is packed. */
const PACK = 4 * 1024;

/** Packs small messages, from `from` on; says how many. */
function pack(list, from) {
  const most = Math.min(list.length - from, lengths.length);
  let used = 0;
  let count = 0;
  for (; count < most; count++) {
    const message = list[from + count];
    const { length } = message;
    if (length > PACK || used + length > packed.length) break;
    packed.set(message, used);
    lengths[count] = length;
    used += length;
  }
  return count;
}

/** The promise of a send that found room at once. */
const DONE = Promise.resolve();

function nothing() {}

/** A count that an argument gives. */
function count(value, what) {
  if (!Number.isInteger(value) || value < 0) throw invalid(`${what} is a number from 0`);
  return Math.min(value, 2 ** 31 - 1);
}

/** The messages of a flow until the peer closed. To leave a loop early leaves the flow as it is. */
class Messages {
  #flow;

  constructor(flow) {
    this.#flow = flow;
  }

  next() {
    return this.#flow.receive().then(isNext, isEnd);
  }

  [Symbol.asyncIterator]() {
    return this;
  }
}

const isNext = (value) => ({ value, done: false });

function isEnd(error) {
  if (error.code === 'Closed') return { value: undefined, done: true };
  throw error;
}

class Flow {
  #stream;
  #flow;
  #number;
  #doorbell;
  #mayLend;
  #receiving;
  #sending;
  #takeOne = () => this.#take();

  /** Not public: `Channel.connect` and `Listener.accept` make flows. */
  constructor(flow, doorbell, mayLend) {
    this.#flow = flow;
    this.#number = flow.number;
    this.#doorbell = doorbell;
    this.#mayLend = mayLend;
    this.#receiving = new Line(doorbell);
    this.#sending = new Line(doorbell);
    this.peer = Object.freeze(flow.peer);
    this.local = Object.freeze(flow.local);
    this.maxMessage = flow.maxMessage;
  }

  #take() {
    return take(this.#number, this.#flow, this.#mayLend);
  }

  // ---- sending

  trySend(message) {
    const bytes = message instanceof Uint8Array ? message : bytesOf(message);
    try {
      return native.trySend(this.#number, bytes) === 1;
    } catch (thrown) {
      throw fromNative(thrown);
    }
  }

  send(message, options) {
    try {
      if (options === undefined && this.#sending.mayTry() && this.trySend(message)) return DONE;
    } catch (error) {
      return Promise.reject(error);
    }
    return this.#sending.run(() => (this.trySend(message) ? true : undefined), options).then(nothing);
  }

  trySendMany(messages) {
    return this.#trySendMany(listOf(messages), 0);
  }

  #trySendMany(list, from) {
    let sent = from;
    try {
      while (sent < list.length) {
        const count = pack(list, sent);
        const went =
          count > 0
            ? native.trySendPacked(this.#number, packed, lengths, count)
            : native.trySendMany(this.#number, list.slice(sent, sent + 1), 0);
        sent += went;
        if (went < Math.max(count, 1)) break;
      }
    } catch (thrown) {
      // It comes again at the next call.
      if (sent === from) throw fromNative(thrown);
    }
    return sent - from;
  }

  async sendMany(messages, options) {
    const list = listOf(messages);
    let sent = 0;
    const sendRest = () => {
      sent += this.#trySendMany(list, sent);
      return sent === list.length ? sent : undefined;
    };
    try {
      return await this.#sending.run(sendRest, options);
    } catch (error) {
      if (sent > 0) return sent;
      throw error;
    }
  }

  tryLend(length) {
    const wanted = count(length, 'the length of a loan');
    const loan = attempt(() => this.#flow.tryLend(wanted));
    return loan ? new Loan(loan, wanted, this.#sending) : null;
  }

  lend(length, options) {
    return this.#sending.run(() => this.tryLend(length) ?? undefined, options);
  }

  // ---- receiving

  tryReceive() {
    return this.#take() ?? null;
  }

  receive(options) {
    return this.#receiving.run(this.#takeOne, options);
  }

  tryReceiveMany(most = MANY) {
    const found = [];
    takeMany(this.#number, this.#flow, this.#mayLend, count(most, 'the most messages'), found);
    return found;
  }

  async receiveMany(most = MANY, options) {
    if (count(most, 'the most messages') === 0) return [];
    return this.#receiving.run(() => {
      const found = this.tryReceiveMany(most);
      return found.length > 0 ? found : undefined;
    }, options);
  }

  tryReceiveInto(buffer) {
    return this.#takeInto(roomOf(buffer)) ?? null;
  }

  async receiveInto(buffer, options) {
    const room = roomOf(buffer);
    return this.#receiving.run(() => this.#takeInto(room), options);
  }

  #takeInto(room) {
    try {
      const length = native.tryReceiveInto(this.#number, room);
      return length === 0 ? undefined : length;
    } catch (thrown) {
      throw fromNative(thrown);
    }
  }

  [Symbol.asyncIterator]() {
    return new Messages(this);
  }

  // ---- the rest

  get unacknowledged() {
    return this.#flow.unacknowledged();
  }

  async stats() {
    return settle(attempt(() => this.#flow.stats()));
  }

  duplex(options) {
    if (!this.#receiving.isEmpty || !this.#sending.isEmpty) throw invalid('a call of the flow is under way');
    attempt(() => this.#flow.becomeStream());
    this.#stream = new FlowStream(this, this.#number, this.#receiving, this.#sending, options);
    return this.#stream;
  }

  async close(options) {
    const timeout = milliseconds(options?.timeout);
    // What became a stream is closed with the stream.
    if (this.#stream !== undefined) return;
    try {
      attempt(() => this.#flow.close());
    } finally {
      this.#lookAgain();
    }
    if (timeout !== undefined) await settle(attempt(() => this.#flow.closeWait(timeout)));
  }

  reset() {
    try {
      attempt(() => this.#flow.reset());
    } finally {
      this.#lookAgain();
    }
  }

  /** Those who wait on this side find out what it did. */
  #lookAgain() {
    this.#receiving.look();
    this.#sending.look();
  }

  [Symbol.asyncDispose ?? Symbol.for('nodejs.asyncDispose')]() {
    return this.close();
  }
}


module.exports = { Flow };
