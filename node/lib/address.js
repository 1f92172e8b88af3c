'use strict';
// Addresses as programs write them: "10.0.0.5:888" or { host, port }.

const dns = require('node:dns');
const net = require('node:net');
const { invalid, make } = require('./errors.js');

/** Host and port of an address. */
function split(address) {
  if (typeof address === 'object' && address !== null) return check(address.host, address.port, address);
  if (typeof address !== 'string') throw invalid('an address is "host:port" or { host, port }');
  const colon = address.lastIndexOf(':');
  const digits = address.slice(colon + 1);
  if (colon < 0 || !/^[0-9]+$/.test(digits)) throw invalid(`${JSON.stringify(address)} is not "host:port"`);
  return check(address.slice(0, colon).replace(/^\[(.*)\]$/, '$1'), Number(digits), address);
}

function check(host, port, address) {
  if (typeof host !== 'string' || host === '' || !Number.isInteger(port) || port < 0 || port > 65535) {
    throw invalid(`${JSON.stringify(address)} is not an address with a port from 0 to 65535`);
  }
  return { host, port };
}

/** The address with its host in numbers; a name is looked up as everywhere in Node. */
async function resolve(address) {
  const { host, port } = split(address);
  return { host: await resolveHost(host), port };
}

/** A host in numbers. */
async function resolveHost(host) {
  if (net.isIP(host) !== 0) return host;
  try {
    const { address } = await dns.promises.lookup(host, { family: 4 });
    return address;
  } catch (cause) {
    throw make('Io', `the name ${JSON.stringify(host)} could not be looked up: ${cause.message}`, { cause });
  }
}

module.exports = { resolve, resolveHost, split };
