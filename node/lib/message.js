'use strict';
// Received messages. Small ones are copied into memory that many share, as Node's own small buffers are; large ones are lent.

const { markAsUntransferable } = require('node:worker_threads');
const { fromNative, invalid } = require('./errors.js');
const { native } = require('./native.js');

/** Bytes that small messages share. */
const SLAB = 64 * 1024;
/** Longest message that is copied there. */
const SMALL = 4 * 1024;
/** From so many bytes on, lending a message costs less than copying it. */
const LEND = 16 * 1024;

/** Of a message that is lent: its array and its number. */
const kLoan = Symbol('loan');

class Message extends Uint8Array {
  get isLent() {
    return this[kLoan] !== undefined;
  }

  release() {
    const loan = this[kLoan];
    if (loan === undefined) return;
    this[kLoan] = undefined;
    native.giveBack(loan.number, loan.array);
  }

  [Symbol.dispose ?? Symbol.for('nodejs.dispose')]() {
    this.release();
  }
}

// A message is a Buffer, with all of its methods.
Object.setPrototypeOf(Message.prototype, Buffer.prototype);

let slab = Buffer.allocUnsafeSlow(0);
let shared = slab.buffer;
let used = 0;

function renewSlab() {
  slab = Buffer.allocUnsafeSlow(SLAB);
  shared = slab.buffer;
  markAsUntransferable(shared);
  used = 0;
}

/** Where the next message begins: aligned, so that any typed array can be made over it. */
const behind = (length) => (used + length + 7) & ~7;

/** The next message of the flow that has this number; undefined if none is there. */
function take(number, owner, mayLend) {
  if (SLAB - used < SMALL || slab.length === 0) renewSlab();
  let length;
  try {
    length = native.tryReceive(number, slab, used, used + SMALL);
  } catch (thrown) {
    throw fromNative(thrown);
  }
  if (length > 0) {
    const message = new Message(shared, used, length);
    used = behind(length);
    return message;
  }
  return length === 0 ? undefined : takeLarge(number, owner, mayLend, ~length);
}

function takeLarge(number, owner, mayLend, length) {
  try {
    if (mayLend && length >= LEND) {
      const lent = owner.tryReceiveLent(length);
      if (lent) return lentMessage(lent);
    }
    const bytes = Buffer.allocUnsafeSlow(length);
    const received = native.tryReceiveInto(number, bytes);
    return received === 0 ? undefined : new Message(bytes.buffer, 0, received);
  } catch (thrown) {
    throw fromNative(thrown);
  }
}

function lentMessage({ bytes, number }) {
  // Where lending is forbidden it is a copy.
  if (number === undefined) return new Message(bytes.buffer, bytes.byteOffset, bytes.length);
  markAsUntransferable(bytes);
  const message = new Message(bytes);
  message[kLoan] = { array: bytes, number };
  return message;
}

/** Most messages that one call of the native half takes. */
const MOST = 256;
const lengths = new Uint32Array(MOST);

/** Appends messages that are there, at most `most`, to `found`. */
function takeMany(number, owner, mayLend, most, found) {
  while (found.length < most) {
    if (SLAB - used < SMALL || slab.length === 0) renewSlab();
    let count;
    try {
      count = native.tryReceiveMany(number, slab, used, lengths, most - found.length);
      if (count < 0) {
        const large = takeLarge(number, owner, mayLend, ~count);
        if (large === undefined) return;
        found.push(large);
        continue;
      }
    } catch (thrown) {
      // It comes again at the next call, when nothing is before it.
      if (found.length > 0) return;
      throw fromNative(thrown);
    }
    if (count === 0) return;
    for (let place = 0; place < count; place++) {
      const length = lengths[place];
      found.push(new Message(shared, used, length));
      used = behind(length);
    }
  }
}

/** The bytes of what a program wants to send. */
function bytesOf(message) {
  if (message instanceof Uint8Array) return message;
  if (typeof message === 'string') return Buffer.from(message);
  if (ArrayBuffer.isView(message)) return new Uint8Array(message.buffer, message.byteOffset, message.byteLength);
  if (message instanceof ArrayBuffer || message instanceof SharedArrayBuffer) return new Uint8Array(message);
  throw invalid('a message is a Buffer, another view of memory, an ArrayBuffer or a string');
}

/** The bytes of what a program wants to be filled. */
function roomOf(buffer) {
  if (buffer instanceof Uint8Array) return buffer;
  if (ArrayBuffer.isView(buffer)) return new Uint8Array(buffer.buffer, buffer.byteOffset, buffer.byteLength);
  if (buffer instanceof ArrayBuffer || buffer instanceof SharedArrayBuffer) return new Uint8Array(buffer);
  throw invalid('a buffer to fill is a Buffer, another view of memory or an ArrayBuffer');
}

class Loan {
  #loan;
  #array;
  #line;
  #buffer;

  constructor(loan, length, line) {
    this.#loan = loan;
    this.#line = line;
    this.#array = loan.open() ?? undefined;
    if (this.#array === undefined) {
      this.#buffer = Buffer.alloc(length);
    } else {
      markAsUntransferable(this.#array);
      this.#buffer = Buffer.from(this.#array, 0, length);
    }
  }

  get buffer() {
    if (this.#loan === undefined) throw invalid('the loan was sent or given back');
    return this.#buffer;
  }

  send(options) {
    let loan;
    try {
      loan = this.#takeBack();
    } catch (error) {
      return Promise.reject(error);
    }
    const attempt = () => {
      try {
        return loan.trySend() ? true : undefined;
      } catch (thrown) {
        throw fromNative(thrown);
      }
    };
    return this.#line.run(attempt, options).then(
      () => undefined,
      (error) => {
        loan.giveUp();
        throw error;
      },
    );
  }

  release() {
    if (this.#loan !== undefined) this.#takeBack().giveUp();
  }

  [Symbol.dispose ?? Symbol.for('nodejs.dispose')]() {
    this.release();
  }

  #takeBack() {
    const loan = this.#loan;
    if (loan === undefined) throw invalid('the loan was sent or given back');
    this.#loan = undefined;
    try {
      if (this.#array === undefined) loan.fill(this.#buffer);
      else loan.close(this.#array);
    } catch (thrown) {
      throw fromNative(thrown);
    }
    return loan;
  }
}

module.exports = { Loan, Message, bytesOf, roomOf, take, takeMany };
