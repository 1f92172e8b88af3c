/**
 * Whole messages between programs, through the Machnet sidecar of each host.
 *
 * ```js
 * await using channel = await attach();
 * const flow = await channel.connect('10.0.0.6:888');
 * await flow.send('question');
 * const answer = await flow.receive({ timeout: 1000 });
 * ```
 *
 * Calls that begin with `try` never wait. Those that wait return promises, take a `timeout` in milliseconds and an `AbortSignal`,
 * and never block the event loop; one that is rejected has done nothing and lost nothing. Everything belongs to the thread that
 * attached: worker threads attach for themselves.
 *
 * @packageDocumentation
 */

import { Duplex, DuplexOptions } from 'node:stream';

/** How long a call may wait, and what may end the wait. */
export interface WaitOptions {
  /** Milliseconds; then the call is rejected with a {@link TimeoutError}. By default it waits for ever. */
  timeout?: number | undefined;
  /** Aborted, the call is rejected with the signal's reason: an `AbortError`, unless another was given. */
  signal?: AbortSignal | undefined;
}

/** Host and port. */
export interface Address {
  /** In numbers, such as "10.0.0.5"; where an address is asked for, a name that can be looked up as well. */
  readonly host: string;
  /** From 0 to 65535. */
  readonly port: number;
}

/** What can be sent: any view of memory, an `ArrayBuffer`, or a string, which is sent as UTF-8. */
export type Sendable = NodeJS.ArrayBufferView | ArrayBuffer | SharedArrayBuffer | string;

/** What can be filled. */
export type Fillable = NodeJS.ArrayBufferView | ArrayBuffer | SharedArrayBuffer;

/** The sizes of a channel. */
export interface ChannelSizes {
  /** Slots of the send ring: a power of two. */
  sendSlots: number;
  /** Slots of the receive ring: a power of two. So many messages at most wait in the program's queues. */
  receiveSlots: number;
  /** Buffers to send. */
  txBuffers: number;
  /** Buffers to receive. */
  rxBuffers: number;
  /** Bytes of a buffer: a power of two. */
  bufferBytes: number;
  /** Most flows at a time, accepted and connected together. */
  maxFlows: number;
  /** Messages of one flow that may be sent and not yet acknowledged. */
  flowCredit: number;
}

/** How to attach. */
export interface AttachOptions {
  /** The sidecar's control socket; else `$MACHNET_SOCKET`, else the user's if it exists, else the system's. */
  socket?: string | URL | undefined;
  /** The engine that shall serve the channel; else the sidecar chooses. */
  engine?: number | undefined;
  /** What `machnet status` shows; else the name of the script. */
  name?: string | undefined;
  /** Milliseconds that {@link Channel.close} waits for what was sent to be acknowledged; 1000 by default. */
  linger?: number | undefined;
  /** The channel's sizes; what is not given is as by default. "small" is for a process among thousands, "large" for bulk. */
  sizes?: 'default' | 'small' | 'large' | Partial<ChannelSizes> | undefined;
  /** Whether large messages may be lent; else all are copied. True by default. */
  lend?: boolean | undefined;
  /** Aborted before the call, it is rejected with the signal's reason. */
  signal?: AbortSignal | undefined;
}

/**
 * Attaches to the sidecar of this host.
 *
 * Rejected with a {@link MachnetError} of code `NoSidecar`, `SocketPermission`, `Version`, `AttachRefused`, `NoEngine`,
 * `InvalidArgument`, or `Unsupported` where Machnet does not run.
 */
export function attach(options?: AttachOptions): Promise<Channel>;

/** What a channel is. */
export interface ChannelInfo {
  /** Number of the channel, unique for the sidecar's life. */
  readonly channel: number;
  /** The engine that serves it. */
  readonly engine: number;
  /** The sidecar's process. */
  readonly sidecarPid: number;
  /** The address that the sidecar owns. */
  readonly local: Address;
  /** The sizes that were granted. */
  readonly sizes: ChannelSizes;
}

/** How to listen. */
export interface ListenOptions {
  /** Flows that may wait to be accepted; 128 by default. */
  backlog?: number | undefined;
}

/** How to connect. */
export interface ConnectOptions extends WaitOptions {
  /** Milliseconds that the sidecar tries for; 3000 by default. */
  timeout?: number | undefined;
  /** The host to connect from, one of the sidecar's. */
  local?: string | undefined;
}

/**
 * A channel with a sidecar, from {@link attach}. It is closed in order by `close`, at the end of an `await using` block, or when it
 * and everything that came from it were collected as garbage.
 *
 * A program ends when only channels are left on which nobody waits.
 */
export class Channel {
  private constructor();
  /** What the channel is. */
  get info(): ChannelInfo;
  /**
   * A descriptor for other event loops, level-triggered: when a `try` call found nothing, either it is readable or nothing has come
   * since. Never read it, and never close it: the calls read it.
   */
  get eventFd(): number;
  /** Listens on an address of the sidecar ("0.0.0.0:888": its own); port 0: any free one. */
  listen(address: string | Address, options?: ListenOptions): Promise<Listener>;
  /** Connects to a listener. */
  connect(address: string | Address, options?: ConnectOptions): Promise<Flow>;
  /** Calls that wait on the channel keep the program alive: so it is by default. */
  ref(): this;
  /** Calls that wait on the channel do not keep the program alive. */
  unref(): this;
  /** Closes all flows in order, waits for their ends ({@link AttachOptions.linger} at most), and detaches. */
  close(): Promise<void>;
  /** Closes. */
  [Symbol.asyncDispose](): Promise<void>;
}

/** Waits for flows, from {@link Channel.listen}. `for await` accepts them until the listener is closed. Flows that it handed out live on. */
export class Listener implements AsyncIterable<Flow> {
  private constructor();
  /** Where it listens, the port filled in. */
  readonly address: Address;
  /** Waits for a flow. */
  accept(options?: WaitOptions): Promise<Flow>;
  /** The next flow, or null if none is there. */
  tryAccept(): Flow | null;
  /** Stops listening. Flows not accepted yet are refused; who waits in `accept` gets `Closed`. */
  close(): Promise<void>;
  /** Accepts until the listener is closed. */
  [Symbol.asyncIterator](): AsyncIterableIterator<Flow>;
  /** Closes. */
  [Symbol.asyncDispose](): Promise<void>;
}

/** How to close a flow. */
export interface CloseOptions {
  /** Milliseconds to wait until the peer's sidecar has everything; then the call is rejected, and the close goes on. */
  timeout?: number | undefined;
}

/**
 * One connection: whole messages of 1 byte to 8 MiB, in order, both ways. `for await` receives until the peer closed.
 *
 * After the peer closed, the messages that came before are received first, then calls are rejected with `Closed`; after a reset
 * likewise, then with `Reset`. Several calls may wait at a time; they are served in the order in which they came.
 */
export class Flow implements AsyncIterable<Message> {
  private constructor();
  /** The peer: of a connected flow the listener that it reached, of an accepted one where it came from. */
  readonly peer: Address;
  /** Our end. */
  readonly local: Address;
  /** Largest message in bytes that can be sent. */
  readonly maxMessage: number;
  /** Messages sent that the peer's sidecar has not acknowledged; after the flow's end those that it never did. */
  get unacknowledged(): number;
  /**
   * Sends a message; waits for room. Its bytes must not change before. Rejected, nothing was sent. A send says that the sidecar has the
   * message, not that the peer has.
   */
  send(message: Sendable, options?: WaitOptions): Promise<void>;
  /** Sends if there is room now; says whether. */
  trySend(message: Sendable): boolean;
  /**
   * Sends messages in order; says how many. Fewer than all if a timeout, an abort or the flow's end came behind them; rejected only
   * if none was sent.
   */
  sendMany(messages: Iterable<Sendable>, options?: WaitOptions): Promise<number>;
  /** Sends as many as there is room for now; says how many. */
  trySendMany(messages: Iterable<Sendable>): number;
  /** Lends room of `length` bytes to write a message in place; waits for room. */
  lend(length: number, options?: WaitOptions): Promise<Loan>;
  /** Lends room to write a message in place, or says null if there is none now. */
  tryLend(length: number): Loan | null;
  /** Waits for the next message. Rejected, the message stays for the next call. */
  receive(options?: WaitOptions): Promise<Message>;
  /** The next message, or null if none is there. */
  tryReceive(): Message | null;
  /** Waits for a message, and takes it and those behind it that are there, at most `most` (64). */
  receiveMany(most?: number, options?: WaitOptions): Promise<Message[]>;
  /** The messages that are there, at most `most` (64); perhaps none. */
  tryReceiveMany(most?: number): Message[];
  /** Waits for the next message and copies it into `buffer`; says its length. Rejected with `BufferTooSmall`, the message stays. */
  receiveInto(buffer: Fillable, options?: WaitOptions): Promise<number>;
  /** Copies the next message into `buffer` and says its length, or null if none is there. */
  tryReceiveInto(buffer: Fillable): number | null;
  /** What the sidecar knows of the flow. A rare call: the sidecar is asked, which takes tens of microseconds. */
  stats(): Promise<FlowStats>;
  /**
   * A byte stream over the flow, for peers of any language that agree on it, as on a port. Nothing may have been received yet; the flow
   * is the stream's from then on.
   */
  duplex(options?: DuplexOptions): FlowStream;
  /** Closes in order: what was sent is delivered first. Calls that wait get `Closed`. */
  close(options?: CloseOptions): Promise<void>;
  /** Ends the flow at once; what was not acknowledged may be lost. The peer gets `Reset`. */
  reset(): void;
  /** Receives until the peer closed. To leave the loop early leaves the flow open. */
  [Symbol.asyncIterator](): AsyncIterableIterator<Message>;
  /** Closes. */
  [Symbol.asyncDispose](): Promise<void>;
}

/**
 * A received message: a `Buffer`, with all of its methods.
 *
 * A small one shares memory with others, as Node's own small buffers do. A large one may lie in the sidecar's memory until it is
 * collected as garbage, or released before.
 */
export class Message extends Buffer {
  private constructor();
  /** Whether the bytes lie in the sidecar's memory. */
  get isLent(): boolean;
  /** Gives lent memory back now. The message, and all views of the same memory, are empty from then on. */
  release(): void;
  /** Releases. */
  [Symbol.dispose](): void;
}

/** Room to write a message in place, from {@link Flow.lend}. Its bytes are arbitrary until written. */
export class Loan {
  private constructor();
  /** The room. It is empty after the loan was sent or given back. */
  get buffer(): Buffer;
  /** Sends the message. It waits only, and rarely, for a slot of the ring. */
  send(options?: WaitOptions): Promise<void>;
  /** Gives the room back unsent. */
  release(): void;
  /** Gives the room back, unless it was sent. */
  [Symbol.dispose](): void;
}

/**
 * A byte stream over a flow, from {@link Flow.duplex}, with half-close: `end()` ends one direction. `destroy` closes in order, unless that
 * cuts off what was written: then it resets the flow. It has those members of `net.Socket` that HTTP clients and servers use.
 */
export class FlowStream extends Duplex {
  private constructor();
  /** The peer. */
  get peer(): Address;
  /** Our end. */
  get local(): Address;
  /** The peer's host, as of a `net.Socket`. */
  get remoteAddress(): string;
  /** The peer's port, as of a `net.Socket`. */
  get remotePort(): number;
  /** Our host, as of a `net.Socket`. */
  get localAddress(): string;
  /** Our port, as of a `net.Socket`. */
  get localPort(): number;
  /** What the sidecar knows of the flow. */
  stats(): Promise<FlowStats>;
  /** Resets the flow and destroys the stream. */
  resetAndDestroy(): this;
  /** Emits 'timeout' after so many milliseconds in which nothing was read or written; 0: never. */
  setTimeout(timeout: number, listener?: () => void): this;
  /** What `setTimeout` was told. */
  get timeout(): number;
  /** Does nothing: what is written goes at once. */
  setNoDelay(noDelay?: boolean): this;
  /** Does nothing: the sidecar watches its peers by itself. */
  setKeepAlive(enable?: boolean, initialDelay?: number): this;
  /** Reads and writes that wait keep the program alive: so it is by default. */
  ref(): this;
  /** Reads and writes that wait do not keep the program alive. */
  unref(): this;
}

/**
 * What the sidecar knew of a flow when it was asked. Messages and bytes count from the opening of the flow; what belongs to the network
 * path is 0 between two programs of one host and after the flow's end.
 */
export interface FlowStats {
  /** The peer is a program of the same sidecar. */
  readonly local: boolean;
  /** Smoothed round-trip time between the sidecars in nanoseconds, 0 before the first sample. */
  readonly smoothedRttNs: number;
  /** Least round-trip time of the last 10 to 20 seconds in nanoseconds. */
  readonly minRttNs: number;
  /** Messages taken from the program. */
  readonly messagesSent: number;
  /** Bytes of those. */
  readonly bytesSent: number;
  /** Messages of those that the peer's sidecar has. */
  readonly messagesAcknowledged: number;
  /** Bytes of those. */
  readonly bytesAcknowledged: number;
  /** Messages put into the program's memory, read or not. */
  readonly messagesReceived: number;
  /** Bytes of those. */
  readonly bytesReceived: number;
  /** Segments sent again. */
  readonly retransmissions: number;
  /** Datagrams sent. */
  readonly datagramsSent: number;
  /** Datagrams received. */
  readonly datagramsReceived: number;
  /** UDP payload bytes sent, headers and repeats included. */
  readonly wireBytesSent: number;
  /** UDP payload bytes received. */
  readonly wireBytesReceived: number;
  /** Congestion window in bytes. */
  readonly congestionWindowBytes: number;
  /** UDP payload bytes on their way. */
  readonly bytesInFlight: number;
  /** Largest UDP payload in bytes that was proved to reach the peer. */
  readonly pathDatagramBytes: number;
}

/** The names of the errors: the same in every language of Machnet. `Unsupported` is of this package: Machnet does not run here. */
export type ErrorCode =
  | 'NoSidecar'
  | 'SocketPermission'
  | 'Version'
  | 'AttachRefused'
  | 'NoEngine'
  | 'EngineLost'
  | 'WouldBlock'
  | 'TimedOut'
  | 'AddressNotLocal'
  | 'AddressInUse'
  | 'ListenRefused'
  | 'ConnectTimedOut'
  | 'Refused'
  | 'Busy'
  | 'ConnectFailed'
  | 'UnknownFlow'
  | 'Closed'
  | 'Reset'
  | 'MessageTooLarge'
  | 'EmptyMessage'
  | 'BufferTooSmall'
  | 'WrongMode'
  | 'Forked'
  | 'InvalidArgument'
  | 'TooManyFlows'
  | 'SidecarBroken'
  | 'Io'
  | 'Cancelled'
  | 'NotAStream'
  | 'Unsupported';

/** The number of each error, by its name; empty where Machnet does not run. */
export const errorCodes: Readonly<Partial<Record<ErrorCode, number>>>;

/** What went wrong. `message` says what failed, where, and what helps. */
export class MachnetError extends Error {
  /** Not for programs: the package makes its errors. */
  constructor(code: ErrorCode, message: string, details?: object);
  /** The error's name in every language of Machnet, such as "NoSidecar". */
  readonly code: ErrorCode;
  /** The error's number, the same in every language and every release; 0 for `Unsupported`. */
  readonly errno: number;
  /** Of `Reset`: why, in words. */
  readonly reason?: string;
  /** Of `Reset`: messages sent that the peer's sidecar may not have. */
  readonly unacknowledged?: number;
  /** Of `BufferTooSmall`: the message's length in bytes. */
  readonly needed?: number;
  /** Of `MessageTooLarge`: the largest in bytes. */
  readonly limit?: number;
  /** Of `Io`: the number that the operating system gave. */
  readonly systemErrno?: number;
}

/** A `MachnetError` that a time limit made: `TimedOut` and `ConnectTimedOut`. Its `name` is "TimeoutError". */
export class TimeoutError extends MachnetError {}

/** The version of the package. */
export const version: string;
