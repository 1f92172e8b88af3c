'use strict';
// What can go wrong. The names, numbers and texts are the same in every language of Machnet.

const { native, failure } = require('./native.js');

/** The number of each error, by its name. */
const errorCodes = Object.freeze(native === undefined ? {} : native.errorCodes());

/** The errors that a time limit made. */
const TIMEOUTS = new Set(['TimedOut', 'ConnectTimedOut']);

class MachnetError extends Error {
  constructor(code, message, details) {
    super(message);
    this.code = code;
    this.errno = errorCodes[code] ?? 0;
    if (details !== undefined) Object.assign(this, details);
  }

  static {
    // On the prototype, as Node's own errors have it.
    Object.defineProperty(this.prototype, 'name', { value: 'MachnetError', writable: true, configurable: true });
  }
}

class TimeoutError extends MachnetError {
  static {
    Object.defineProperty(this.prototype, 'name', { value: 'TimeoutError', writable: true, configurable: true });
  }
}

/** An error of this code. */
function make(code, message, details) {
  return new (TIMEOUTS.has(code) ? TimeoutError : MachnetError)(code, message, details);
}

/** What the native half threw, as the program is to see it. */
function fromNative(thrown) {
  const { code, errno, message, ...details } = thrown;
  return errno === undefined ? thrown : make(code, message, details);
}

/** A call of the native half. */
function attempt(call) {
  try {
    return call();
  } catch (thrown) {
    throw fromNative(thrown);
  }
}

/** A promise of the native half. */
function settle(promise) {
  return promise.catch((thrown) => {
    throw fromNative(thrown);
  });
}

const invalid = (what) => make('InvalidArgument', `invalid argument: ${what}`);
const closed = () => make('Closed', 'the flow is closed');
const timedOut = () => make('TimedOut', 'timed out');
const unsupported = () => make('Unsupported', failure);

module.exports = {
  MachnetError,
  TimeoutError,
  attempt,
  closed,
  errorCodes,
  fromNative,
  invalid,
  make,
  settle,
  timedOut,
  unsupported,
};
