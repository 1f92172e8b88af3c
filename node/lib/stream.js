'use strict';
// A byte stream over a flow, in the framing that all languages of Machnet share.

const { Duplex } = require('node:stream');
const { fromNative } = require('./errors.js');
const { native } = require('./native.js');

/** Bytes that are read at once at most, and the least room that is left for them before there is new. */
const CHUNK = 64 * 1024;
const LEAST = 4 * 1024;

class FlowStream extends Duplex {
  #flow;
  #number;
  #reading;
  #writing;
  #room = Buffer.alloc(0);
  #idle;
  #idleMs = 0;
  #readOnce = () => this.#tryRead();

  /** Not public: `Flow.duplex` makes streams. */
  constructor(flow, number, reading, writing, options) {
    super({ allowHalfOpen: true, ...options, objectMode: false, decodeStrings: true, autoDestroy: true });
    this.#flow = flow;
    this.#number = number;
    this.#reading = reading;
    this.#writing = writing;
  }

  #call(call) {
    try {
      return call();
    } catch (thrown) {
      throw fromNative(thrown);
    }
  }

  // ---- reading

  /** The next bytes; null at the end of the stream. */
  #tryRead() {
    if (this.#room.length < LEAST) this.#room = Buffer.allocUnsafeSlow(CHUNK);
    const count = this.#call(() => native.tryRead(this.#number, this.#room));
    if (count < 0) return undefined;
    if (count === 0) return null;
    const bytes = this.#room.subarray(0, count);
    this.#room = this.#room.subarray(count);
    return bytes;
  }

  _read() {
    this.#reading.run(this.#readOnce).then(
      (bytes) => {
        this.#moved();
        if (!this.destroyed) this.push(bytes);
      },
      (error) => this.destroy(error),
    );
  }

  // ---- writing

  _write(chunk, _encoding, done) {
    let rest = chunk;
    const writeRest = () => {
      while (rest.length > 0) {
        const count = this.#call(() => native.tryWrite(this.#number, rest));
        if (count < 0) return undefined;
        rest = rest.subarray(count);
      }
      return true;
    };
    this.#finish(writeRest, done);
  }

  _writev(chunks, done) {
    // Small writes that had to wait go together: a message costs more than a copy.
    this._write(Buffer.concat(chunks.map(({ chunk }) => chunk)), 'buffer', done);
  }

  _final(done) {
    this.#finish(() => (this.#call(() => native.tryEnd(this.#number)) === 1 ? true : undefined), done);
  }

  /** Does at once what can be done at once, and the rest when there is room. */
  #finish(attempt, done) {
    this.#moved();
    try {
      if (this.#writing.isEmpty && attempt() !== undefined) {
        done();
        return;
      }
    } catch (error) {
      done(error);
      return;
    }
    this.#writing.run(attempt).then(() => done(), done);
  }

  // ---- the end

  _destroy(error, done) {
    clearTimeout(this.#idle);
    this.#reading.abandon();
    this.#writing.abandon();
    let failed = error;
    // As net.Socket it closes in order. But a peer must not take what is cut off for the whole.
    const isCutOff = this.writableLength > 0;
    try {
      this.#call(() => (isCutOff ? native.resetStream(this.#number) : native.closeStream(this.#number)));
    } catch (closing) {
      failed ??= closing;
    }
    done(failed);
  }

  resetAndDestroy() {
    try {
      this.#call(() => native.resetStream(this.#number));
    } catch {
      // It is over already.
    }
    return this.destroy();
  }

  // ---- as net.Socket has it, for those who were written for one

  get peer() {
    return this.#flow.peer;
  }

  get local() {
    return this.#flow.local;
  }

  get remoteAddress() {
    return this.#flow.peer.host;
  }

  get remotePort() {
    return this.#flow.peer.port;
  }

  get localAddress() {
    return this.#flow.local.host;
  }

  get localPort() {
    return this.#flow.local.port;
  }

  stats() {
    return this.#flow.stats();
  }

  setTimeout(timeout, listener) {
    this.#idleMs = timeout;
    clearTimeout(this.#idle);
    this.#idle = undefined;
    if (timeout > 0 && !this.destroyed) {
      this.#idle = setTimeout(() => this.emit('timeout'), timeout);
      this.#idle.unref();
      if (listener) this.once('timeout', listener);
    } else if (listener) {
      this.removeListener('timeout', listener);
    }
    return this;
  }

  get timeout() {
    return this.#idleMs;
  }

  #moved() {
    this.#idle?.refresh();
  }

  setNoDelay() {
    return this;
  }

  setKeepAlive() {
    return this;
  }

  ref() {
    this.#reading.keepsAlive = this.#writing.keepsAlive = true;
    return this;
  }

  unref() {
    this.#reading.keepsAlive = this.#writing.keepsAlive = false;
    return this;
  }
}

module.exports = { FlowStream };
