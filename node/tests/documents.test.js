'use strict';
// The README's lines and the examples, as they stand there; and that what is declared is what there is, each with its comment.

const assert = require('node:assert/strict');
const { execFile, spawn } = require('node:child_process');
const fs = require('node:fs');
const path = require('node:path');
const { once } = require('node:events');
const { after, before, describe, test } = require('node:test');
const { promisify } = require('node:util');
const machnet = require('machnet');
const { LONG, Sidecar, connect } = require('./support.js');

const run = promisify(execFile);
const home = path.dirname(__dirname);
const installed = path.dirname(require.resolve('machnet/package.json'));

describe('documents', { timeout: 10 * LONG }, () => {
  let sidecar;
  let environment;

  before(async () => {
    sidecar = await Sidecar.start();
    environment = { ...process.env, MACHNET_SOCKET: sidecar.socket };
  });
  after(() => sidecar.stop());

  const node = (...args) => run(process.execPath, args, { env: environment, cwd: __dirname, timeout: 6 * LONG });

  test('the lines of both READMEs run, imported and required', async () => {
    // ci/node.sh copies the project's own page there.
    for (const page of ['README.md', 'README.project.md']) {
      const [, lines] = /```js[^\n]*\n(import .*?)```/s.exec(fs.readFileSync(path.join(home, page), 'utf8'));
      const expected = `question from ${sidecar.host}\nanswer to question\n`;
      assert.equal((await node('--input-type=module', '-e', lines)).stdout, expected);
      const required = lines.replace(/^import \{ attach \} from 'machnet';/, "const { attach } = require('machnet'); (async () => {");
      assert.equal((await node('-e', `${required}})();`)).stdout, expected);
    }
  });

  test('the examples talk to each other', async () => {
    const server = spawn(process.execPath, [path.join(home, 'examples/server.js'), '0.0.0.0:0'], {
      env: environment,
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    const [line] = await once(server.stdout, 'data');
    const address = /^listening on (.*)$/m.exec(line)[1];
    const { stdout } = await node(path.join(home, 'examples/client.js'), address);
    assert.match(stdout, /^1000 messages echoed; half of the answers came within [0-9.]+ us\n$/);
    server.kill('SIGTERM');
    assert.deepEqual(await once(server, 'exit'), [0, null]);
  });

  test('the HTTP example asks and answers', async () => {
    const { stdout } = await node(path.join(home, 'examples/http.js'));
    assert.equal(stdout, 'you asked for /one\nyou asked for /two\n');
  });

  test('import and require give the same', async () => {
    const imported = await import('machnet');
    const { default: whole, ...names } = imported;
    assert.equal(whole, machnet);
    assert.deepEqual(Object.keys(names).sort(), Object.keys(machnet).sort());
    for (const [name, value] of Object.entries(machnet)) assert.equal(names[name], value);
  });

  test('one version everywhere', () => {
    const { version, optionalDependencies } = JSON.parse(fs.readFileSync(path.join(installed, 'package.json'), 'utf8'));
    const { native } = require(path.join(installed, 'lib/native.js'));
    assert.equal(machnet.version, version);
    assert.equal(native.version(), version);
    for (const wanted of Object.values(optionalDependencies)) assert.equal(wanted, version);
  });

  test('the errors are those of all languages', () => {
    assert.equal(machnet.errorCodes.NoSidecar, 1);
    const numbers = Object.values(machnet.errorCodes);
    assert.deepEqual(numbers, Array.from({ length: numbers.length }, (_, place) => place + 1));
    const declared = fs.readFileSync(path.join(installed, 'lib/index.d.ts'), 'utf8');
    const [, union] = /export type ErrorCode =\n(.*?);/s.exec(declared);
    const names = [...union.matchAll(/'(\w+)'/g)].map(([, name]) => name);
    assert.deepEqual(names, [...Object.keys(machnet.errorCodes), 'Unsupported']);
  });

  /** The public members of a class and of one that it made, as JavaScript has them. */
  function membersOf(type, made) {
    const ours = new Set([...Object.getOwnPropertyNames(type.prototype), ...Object.getOwnPropertySymbols(type.prototype)]);
    for (const name of Object.keys(made ?? {})) ours.add(name);
    const inherited = ['constructor', 'name', ...['_read', '_write', '_writev', '_final', '_destroy']];
    return [...ours].filter((name) => !inherited.includes(name)).map((name) => (typeof name === 'symbol' ? `[${name.description.replace('nodejs.', 'Symbol.')}]` : name));
  }

  test('what is declared is what there is, and says what it is', async () => {
    const ts = require('typescript');
    const file = path.join(installed, 'lib/index.d.ts');
    const source = ts.createSourceFile(file, fs.readFileSync(file, 'utf8'), ts.ScriptTarget.Latest, true);
    const declared = new Map();
    const silent = [];
    const hasComment = (thing) => (thing.jsDoc ?? []).some(({ comment }) => comment?.length > 0);
    for (const statement of source.statements) {
      if (!statement.modifiers?.some(({ kind }) => kind === ts.SyntaxKind.ExportKeyword)) continue;
      const [single] = statement.declarationList?.declarations ?? [statement];
      const name = single.name.text;
      if (!hasComment(statement)) silent.push(name);
      const members = (statement.members ?? []).filter((member) => member.name !== undefined);
      for (const member of members) if (!hasComment(member)) silent.push(`${name}.${member.name.getText()}`);
      const isType = ts.isInterfaceDeclaration(statement) || ts.isTypeAliasDeclaration(statement);
      if (!isType) declared.set(name, members.map(({ name: member }) => member.getText()));
    }
    assert.deepEqual(silent, []);
    assert.deepEqual([...declared.keys()].sort(), Object.keys(machnet).sort());

    const channel = await sidecar.attach();
    const listener = await channel.listen('0.0.0.0:0');
    const [flow, other] = await connect(channel, channel);
    const made = { Channel: channel, Listener: listener, Flow: flow };
    for (const type of ['Channel', 'Listener', 'Flow', 'Message', 'Loan', 'FlowStream']) {
      assert.deepEqual([...new Set(declared.get(type))].sort(), membersOf(machnet[type], made[type]).sort(), type);
    }
    await other.close();
    await channel.close();
  });

  test('the declarations serve a strict program', async () => {
    const compiler = require.resolve('typescript/lib/tsc.js');
    const options = ['--strict', '--noEmit', '--target', 'esnext', '--module', 'nodenext', '--exactOptionalPropertyTypes'];
    const files = ['types.cts', 'types.mts'].map((name) => path.join(__dirname, name));
    await assert.doesNotReject(node(compiler, ...options, '--types', 'node', ...files).catch((error) => {
      throw new Error(error.stdout);
    }));
  });
});
