'use strict';
// How calls wait: on the channel's doorbell, which the event loop watches while somebody does. No thread takes part, and nothing
// is looked for in turns of the loop.

const { invalid, timedOut } = require('./errors.js');
const { native } = require('./native.js');

/** What `native.watch` is told. */
const NOT = 0;
const FOR_SOMEBODY = 1;
const FOR_NOBODY = 2;
const WITHOUT_KEEPING_ALIVE = 3;

/** So many calls in a row may find something at once; then the loop has its turn, and timers and other sockets theirs. */
const CALLS_PER_TURN = 128;

/** Longest time of Node's timers. */
const MOST_MS = 2 ** 31 - 1;

/** Milliseconds of a timeout, or undefined: for ever. */
function milliseconds(timeout) {
  if (timeout === undefined || timeout === null || timeout === Infinity) return undefined;
  if (typeof timeout !== 'number' || Number.isNaN(timeout)) throw invalid('a timeout is a number of milliseconds');
  return Math.max(timeout, 0);
}

/** One call that waits. */
class Waiter {
  constructor(attempt, resolve, reject) {
    this.attempt = attempt;
    this.resolve = resolve;
    this.reject = reject;
    this.giveUp = undefined;
    this.timer = undefined;
    this.signalled = undefined;
  }

  end() {
    if (this.timer !== undefined) clearTimeout(this.timer);
    this.signalled?.delete(this);
  }
}

/** Those who wait with each signal. It has one listener of ours, however many they are, as long as it lives. */
const signalled = new WeakMap();

function waitersWith(signal) {
  let waiters = signalled.get(signal);
  if (waiters === undefined) {
    waiters = new Set();
    signalled.set(signal, waiters);
    const giveUp = () => {
      for (const waiter of waiters) waiter.giveUp(signal.reason);
    };
    signal.addEventListener('abort', giveUp, { once: true });
  }
  return waiters;
}

/**
 * Calls that wait for one thing, first come first served. `attempt` is what a call does: it returns undefined if it found nothing,
 * and has done nothing then. It runs in the turn in which its promise is settled, so nothing that it takes can be lost.
 */
class Line {
  #doorbell;
  #waiters = new Set();
  #keepsAlive = true;

  constructor(doorbell) {
    this.#doorbell = doorbell;
  }

  get isEmpty() {
    return this.#waiters.size === 0;
  }

  /** Whether calls that wait here keep the program alive. */
  get keepsAlive() {
    return this.#keepsAlive;
  }

  set keepsAlive(value) {
    const isAwaited = this.#waiters.size > 0;
    if (isAwaited) this.#doorbell.forget(this);
    this.#keepsAlive = value;
    if (isAwaited) this.#doorbell.await(this);
  }

  /** Nobody waits here any more, and nobody is told. */
  abandon() {
    for (const waiter of this.#waiters) waiter.end();
    this.#waiters.clear();
    this.#doorbell.forget(this);
  }

  /** Whether a call may try at once: nobody waits for the same, and the loop had its turn. */
  mayTry() {
    return this.#waiters.size === 0 && !this.#doorbell.isTurnOver();
  }

  /** A promise of what the attempt finds. It is made at once, unless others wait for the same. */
  run(attempt, options) {
    try {
      const signal = options?.signal;
      if (signal?.aborted) return Promise.reject(signal.reason);
      const timeout = milliseconds(options?.timeout);
      const isTurnOver = this.#doorbell.isTurnOver() && timeout !== 0;
      if (!isTurnOver && this.#waiters.size === 0) {
        const found = attempt();
        if (found !== undefined) return Promise.resolve(found);
      }
      if (timeout === 0) return Promise.reject(timedOut());
      return this.#join(attempt, timeout, signal ?? undefined, isTurnOver);
    } catch (error) {
      return Promise.reject(error);
    }
  }

  #join(attempt, timeout, signal, isTurnOver) {
    return new Promise((resolve, reject) => {
      const waiter = new Waiter(attempt, resolve, reject);
      if (timeout !== undefined || signal !== undefined) waiter.giveUp = (reason) => this.#giveUp(waiter, reason);
      if (timeout !== undefined && timeout <= MOST_MS) {
        waiter.timer = setTimeout(() => waiter.giveUp(timedOut()), timeout);
        // The channel keeps the program alive while it waits, if it is to.
        waiter.timer.unref();
      }
      if (signal !== undefined) {
        waiter.signalled = waitersWith(signal);
        waiter.signalled.add(waiter);
      }
      this.#waiters.add(waiter);
      this.#doorbell.await(this);
      if (isTurnOver) this.#doorbell.lookSoon(this);
    });
  }

  #giveUp(waiter, reason) {
    if (!this.#waiters.delete(waiter)) return;
    waiter.end();
    if (this.#waiters.size === 0) this.#doorbell.forget(this);
    waiter.reject(reason);
  }

  /** Those who wait try again. */
  look() {
    for (const waiter of this.#waiters) {
      let found;
      try {
        found = waiter.attempt();
      } catch (error) {
        this.#waiters.delete(waiter);
        waiter.end();
        waiter.reject(error);
        continue;
      }
      if (found === undefined) return;
      this.#waiters.delete(waiter);
      waiter.end();
      waiter.resolve(found);
    }
    this.#doorbell.forget(this);
  }
}

/** Who waits on a channel. */
class Doorbell {
  #lines = new Set();
  /** Lines among those that keep the program alive. */
  #alive = 0;
  #watch;
  #number;
  #how = NOT;
  #keepsAlive = true;
  #isOver = false;
  #calls = 0;
  #soon = new Set();
  #immediate;
  // Held here, because the native half holds it only while somebody waits.
  #ring = () => this.ring();

  constructor(channel) {
    this.#watch = channel.openWatch(this.#ring);
    this.#number = this.#watch.number;
  }

  /** Counts calls that found something at once. */
  isTurnOver() {
    return ++this.#calls > CALLS_PER_TURN;
  }

  /** The line has somebody who waits. */
  await(line) {
    if (this.#lines.has(line)) return;
    this.#lines.add(line);
    if (line.keepsAlive) this.#alive++;
    this.#update();
  }

  /** Nobody waits in the line any more. */
  forget(line) {
    if (!this.#lines.delete(line)) return;
    if (line.keepsAlive) this.#alive--;
    this.#update();
  }

  /** Whether calls that wait keep the program alive. */
  set keepsAlive(value) {
    this.#keepsAlive = value;
    this.#update();
  }

  #update() {
    let how = FOR_NOBODY;
    if (this.#isOver) how = NOT;
    else if (this.#lines.size > 0) how = this.#keepsAlive && this.#alive > 0 ? FOR_SOMEBODY : WITHOUT_KEEPING_ALIVE;
    if (how === this.#how) return;
    this.#how = how;
    native.watch(this.#number, how);
  }

  /** The line looks again in the next turn of the event loop. */
  lookSoon(line) {
    this.#soon.add(line);
    this.#immediate ??= setImmediate(() => {
      this.#immediate = undefined;
      this.#calls = 0;
      const lines = [...this.#soon];
      this.#soon.clear();
      for (const waiting of lines) waiting.look();
    });
  }

  /** The doorbell rang, or something happened on this side: all who wait look. */
  ring() {
    this.#calls = 0;
    native.beginRound(this.#number);
    for (const line of this.#lines) line.look();
  }

  /** The channel is over: those who wait find that out. */
  stop() {
    this.ring();
    this.#isOver = true;
    this.#update();
  }
}

module.exports = { Doorbell, Line, milliseconds };
