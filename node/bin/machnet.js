#!/usr/bin/env node
'use strict';
// `npx machnet up`: becomes the sidecar's command that came with the package of this platform.

const { native, failure, command } = require('../lib/native.js');

const path = command();
if (native === undefined || path === undefined) {
  console.error(`machnet: ${failure ?? 'the package of this platform has no machnet command'}`);
  process.exit(1);
}
const error = native.becomeProgram(path, process.argv.slice(2));
console.error(`machnet: ${path} could not be run: ${error}`);
process.exit(1);
