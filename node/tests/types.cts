// The same declarations for a program that requires.

import machnet = require('machnet');

async function main(): Promise<number> {
  const channel: machnet.Channel = await machnet.attach();
  const flow: machnet.Flow = await channel.connect('10.0.0.5:888');
  const message: machnet.Message = await flow.receive({ timeout: 5 });
  return message.length;
}

export = main;
