'use strict';
// Flows to come.

const { attempt } = require('./errors.js');
const { Flow } = require('./flow.js');
const { Line } = require('./waiting.js');

class Listener {
  #listener;
  #doorbell;
  #mayLend;
  #line;
  #acceptOne = () => this.#tryAccept();

  /** Not public: `Channel.listen` makes listeners. */
  constructor(listener, doorbell, mayLend) {
    this.#listener = listener;
    this.#doorbell = doorbell;
    this.#mayLend = mayLend;
    this.#line = new Line(doorbell);
    this.address = Object.freeze(listener.address);
  }

  #tryAccept() {
    const flow = attempt(() => this.#listener.tryAccept());
    return flow ? new Flow(flow, this.#doorbell, this.#mayLend) : undefined;
  }

  tryAccept() {
    return this.#tryAccept() ?? null;
  }

  accept(options) {
    return this.#line.run(this.#acceptOne, options);
  }

  [Symbol.asyncIterator]() {
    return new Flows(this);
  }

  async close() {
    try {
      attempt(() => this.#listener.close());
    } finally {
      this.#line.look();
    }
  }

  [Symbol.asyncDispose ?? Symbol.for('nodejs.asyncDispose')]() {
    return this.close();
  }
}

/** The flows of a listener until it is closed. To leave a loop early leaves the listener as it is. */
class Flows {
  #listener;

  constructor(listener) {
    this.#listener = listener;
  }

  async next() {
    try {
      return { value: await this.#listener.accept(), done: false };
    } catch (error) {
      if (error.code === 'Closed') return { value: undefined, done: true };
      throw error;
    }
  }

  [Symbol.asyncIterator]() {
    return this;
  }
}

module.exports = { Listener };
