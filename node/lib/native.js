'use strict';
// The native half, from the package of this platform. Loading this file never fails: what is missing is told when it is needed.

const { existsSync } = require('node:fs');
const path = require('node:path');

/** Platforms that there are packages for. */
const PLATFORMS = ['linux-x64-gnu', 'linux-arm64-gnu'];

/** What is loaded instead, for tests and for builds of one's own. */
const OVERRIDE = 'MACHNET_NODE_PLATFORM';

function isGlibc() {
  const report = process.report?.getReport?.();
  return report === undefined || report.header.glibcVersionRuntime !== undefined;
}

/** The name of this platform, such as "linux-x64-gnu". */
function platform() {
  const override = process.env[OVERRIDE];
  if (override !== undefined && override !== '') return override;
  const name = `${process.platform}-${process.arch}`;
  if (process.platform !== 'linux') return name;
  return `${name}-${isGlibc() ? 'gnu' : 'musl'}`;
}

/** Why the native half is not there, in words that help. */
function whyMissing(name, cause) {
  if (!name.startsWith('linux-')) {
    return (
      `machnet runs on Linux: its sidecar shares memory with programs, and there is none for ${name}. ` +
      'Here the package can be imported and type-checked; run what attaches on Linux, in a container or a virtual machine'
    );
  }
  if (!PLATFORMS.includes(name)) {
    return `machnet has no package for ${name}, only for ${PLATFORMS.join(' and ')}; it can be built from its sources`;
  }
  if (process.versions.bun !== undefined) return 'machnet needs Node.js: it waits with functions of libuv, which Bun has not';
  const detail = cause === undefined ? '' : ` (${cause.message.split('\n')[0]})`;
  return (
    `machnet's package for this platform, @machnet/${name}, is not installed or cannot be loaded${detail}; ` +
    'install machnet again, with optional dependencies'
  );
}

/** The folder of this platform's package. */
function folder() {
  return path.dirname(require.resolve(`@machnet/${platform()}/package.json`));
}

let loaded;
let failure;

function load() {
  const name = platform();
  if (!PLATFORMS.includes(name) || process.versions.bun !== undefined) {
    failure = whyMissing(name);
    return;
  }
  try {
    loaded = require(path.join(folder(), 'machnet.node'));
  } catch (cause) {
    failure = whyMissing(name, cause);
  }
}

load();

/** The `machnet` command of this platform's package, if it is there. */
function command() {
  try {
    const found = path.join(folder(), 'machnet');
    return existsSync(found) ? found : undefined;
  } catch {
    return undefined;
  }
}

module.exports = { native: loaded, failure, command };
