// A program that uses everything that is declared; it is compiled with --strict, not run.

import machnet, { attach, Channel, Flow, FlowStream, Listener, Loan, MachnetError, Message, TimeoutError } from 'machnet';
import type { Address, AttachOptions, ChannelSizes, ErrorCode, FlowStats, WaitOptions } from 'machnet';
import type { Duplex } from 'node:stream';

async function everything(signal: AbortSignal): Promise<void> {
  const sizes: Partial<ChannelSizes> = { maxFlows: 5 };
  const options: AttachOptions = { socket: '/s', engine: 0, name: 'n', linger: 5, sizes, lend: false, signal };
  await using channel: Channel = await attach(options);
  await machnet.attach({ socket: new URL('file:///s'), sizes: 'small' });
  const fd: number = channel.eventFd;
  const { engine, local }: { engine: number; local: Address } = channel.info;
  await using listener: Listener = await channel.listen({ host: local.host, port: fd + engine }, { backlog: 5 });
  await using flow: Flow = await channel.connect(listener.address, { timeout: 5, signal, local: '10.0.0.1' });
  const wait: WaitOptions = { timeout: 5, signal };
  const accepted: Flow | null = listener.tryAccept() ?? (await listener.accept(wait));
  for await (const next of listener) await next.close({ timeout: 5 });

  const sent: boolean = accepted?.trySend('x') ?? false;
  await flow.send(new Float64Array(5), wait);
  await flow.send(new SharedArrayBuffer(5));
  let count: number = await flow.sendMany(['a', Buffer.from('b')], wait);
  count += flow.trySendMany(new Set(['a']));
  {
    using message: Message = await flow.receive(wait);
    const bytes: Uint8Array = message;
    const text: string = message.toString('utf8') + bytes.length + message.isLent;
    message.release();
    console.log(text, sent, count);
  }
  const maybe: Message | null = flow.tryReceive();
  const many: Message[] = [...flow.tryReceiveMany(5), ...(await flow.receiveMany(5, wait))];
  const length: number | null = flow.tryReceiveInto(Buffer.alloc(5)) ?? (await flow.receiveInto(new ArrayBuffer(5), wait));
  for await (const message of flow) console.log(message.readUInt8(0), maybe, many, length);
  using loan: Loan | null = flow.tryLend(5) ?? (await flow.lend(5, wait));
  loan.buffer.fill(0);
  await loan.send(wait);
  const stats: FlowStats = await flow.stats();
  const rtt: number = stats.smoothedRttNs + flow.unacknowledged + flow.maxMessage + flow.peer.port;
  const stream: FlowStream = flow.duplex({ highWaterMark: rtt });
  const duplex: Duplex = stream.setNoDelay().setKeepAlive().setTimeout(5).ref().unref();
  duplex.end();
  stream.resetAndDestroy();
  flow.reset();
  channel.unref().ref();
}

function explain(error: unknown): ErrorCode | undefined {
  if (error instanceof TimeoutError) return error.code;
  if (error instanceof MachnetError) {
    const details: (string | number | undefined)[] = [error.reason, error.unacknowledged, error.needed, error.limit, error.systemErrno];
    console.log(error.errno, details, machnet.errorCodes[error.code], machnet.version);
    return error.code;
  }
  return undefined;
}

// @ts-expect-error channels are made by attach
new Channel();
// @ts-expect-error a number is no message
void ((flow: Flow) => flow.send(5));
// @ts-expect-error no such error
const code: ErrorCode = 'Nonsense';

export { code, everything, explain };
