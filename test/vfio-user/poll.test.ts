// Waiting for descriptors on Node's event loop, from JavaScript: eventfds and sockets; and the parts of files that a page of
// the file does not begin or end with.
import { execFile } from 'node:child_process';
import { closeSync, openSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { expect, it } from 'vitest';
import { EventCounter } from '../../src/host/event-counter.ts';
import { loadNative } from '../../src/host/native.ts';
import { cutWindows } from '../../src/vfio-user/adopted-file.ts';
import { describeNative, turns } from '../native/addon.ts';

const NATIVE = join(import.meta.dirname, '../../native/index.js');

/** Runs a script in a process of its own; what it prints. */
async function run(script: string): Promise<string> {
  const text = `const native = require(${JSON.stringify(NATIVE)}); ${script}`;
  return (await promisify(execFile)(process.execPath, ['-e', text], { timeout: 10_000 })).stdout.trim();
}

describeNative('a poll', () => {
  it('tells when an event counter counts, until it is stopped', async () => {
    const counter = new EventCounter();
    const seen: [number, bigint][] = [];
    const poll = loadNative().NativePoll.create(counter.fd, (events) => seen.push([events, counter.take()]));
    counter.signal(3n);
    await turns();
    expect(seen).toEqual([]);
    poll.start(1);
    await turns();
    expect(seen).toEqual([[1, 3n]]);
    counter.signal();
    await turns();
    poll.stop();
    counter.signal();
    await turns();
    expect(seen).toEqual([
      [1, 3n],
      [1, 1n],
    ]);
    poll.start(1);
    await turns();
    expect(seen).toHaveLength(3);
    poll.close();
    poll.close();
    expect(() => poll.start(1)).toThrow(/uv_poll_start 9/);
    counter.close();
  });

  it('may be closed from inside, and outlives the descriptor that it was given', async () => {
    const counter = new EventCounter();
    let calls = 0;
    const poll = loadNative().NativePoll.create(counter.fd, () => {
      calls++;
      poll.close();
    });
    poll.start(1);
    counter.signal();
    counter.close();
    await turns();
    expect(calls).toBe(1);
  });

  it('tells of room, and of the other side hanging up', async () => {
    const { NativeSocket, NativePoll } = loadNative();
    const [a, b] = NativeSocket.pair();
    const seen: number[] = [];
    const poll = NativePoll.create(a!.fd(), (events) => {
      seen.push(events);
      poll.start(1);
    });
    poll.start(3);
    await turns();
    expect(seen).toEqual([2]);
    b!.close();
    await turns(1);
    expect(seen[1]! & 1).toBe(1);
    poll.close();
    a!.close();
  });

  it('takes functions, and descriptors that can be waited for', () => {
    const { NativePoll } = loadNative();
    const counter = new EventCounter();
    expect(() => NativePoll.create(counter.fd, undefined as never)).toThrow(/napi_create_reference 22/);
    expect(() => NativePoll.create(-1, () => undefined)).toThrow(/fcntl 9/);
    const file = openSync(import.meta.filename, 'r');
    expect(() => NativePoll.create(file, () => undefined)).toThrow(/uv_poll_init 1/);
    closeSync(file);
    counter.close();
  });

  it('keeps the process running only where it should', async () => {
    const begin = 'const poll = native.NativePoll.create(native.NativeEvents.create().fd(), () => {}); poll.start(1);';
    expect(await run(`${begin} poll.keepAlive(false); process.on('exit', () => console.log('over'))`)).toBe('over');
    const kept = `${begin} setTimeout(() => { console.log('still here'); poll.close(); }, 50).unref();`;
    expect(await run(kept)).toBe('still here');
  });

  it('has exceptions be uncaught ones', async () => {
    const script = `
      const events = native.NativeEvents.create();
      const poll = native.NativePoll.create(events.fd(), () => { poll.close(); throw new Error('thrown'); });
      process.on('uncaughtException', (error) => console.log('uncaught', error.message));
      poll.start(1);
      events.signal(1n);`;
    expect(await run(script)).toBe('uncaught thrown');
  });

  it('goes with its thread', async () => {
    const script = `
      const { Worker, isMainThread } = require('node:worker_threads');
      const text = \`const native = require(${JSON.stringify(NATIVE)});
        const events = native.NativeEvents.create();
        for (let i = 0; i < 3; i++) native.NativePoll.create(events.fd(), () => undefined).start(1);
        require('node:worker_threads').parentPort.postMessage('up');\`;
      const once = async () => {
        const worker = new Worker(text, { eval: true });
        await new Promise((resolve) => worker.once('message', resolve));
        return worker.terminate();
      };
      (async () => { for (let i = 0; i < 5; i++) await once(); console.log('gone'); })();`;
    expect(await run(script)).toBe('gone');
  });
});

describeNative('a socket', () => {
  it('is not used beyond the buffer, or after it was closed', () => {
    const [a, b] = loadNative().NativeSocket.pair();
    const bytes = new Uint8Array(8);
    for (const [start, end] of [
      [0, 9],
      [9, 9],
      [5, 4],
    ] as const) {
      expect(() => a!.send(bytes, start, end)).toThrow(/22/);
      expect(() => b!.receive(bytes, start, end, 0)).toThrow(/22/);
    }
    expect([b!.receive(bytes, 0, 8, 0), a!.send(bytes, 2, 5), b!.receive(bytes, 1, 8, 0)]).toEqual([-1, 3, 3]);
    expect(() => b!.descriptor(0)).toThrow(/recvmsg 2/);
    a!.close();
    a!.close();
    expect(() => a!.send(bytes, 0, 1)).toThrow(/close 9/);
    expect(b!.receive(bytes, 0, 8, 0)).toBe(0);
    b!.close();
  });
});

describeNative('parts of a file', () => {
  it('are cut out of windows without copying', () => {
    const windows = [new ArrayBuffer(0x4000), new ArrayBuffer(0x4000), new ArrayBuffer(0x1000)];
    const cut = (start: number, length: number): [number, number, number][] =>
      cutWindows(windows, start, length).map((part) => [
        windows.indexOf(part.buffer as ArrayBuffer),
        part.byteOffset,
        part.byteLength,
      ]);
    expect(cut(0, 0x9000)).toEqual([
      [0, 0, 0x4000],
      [1, 0, 0x4000],
      [2, 0, 0x1000],
    ]);
    expect(cut(0x1000, 0x1000)).toEqual([[0, 0x1000, 0x1000]]);
    expect(cut(0x3000, 0x2000)).toEqual([
      [0, 0x3000, 0x1000],
      [1, 0, 0x1000],
    ]);
    expect(cut(0x4000, 0x4000)).toEqual([[1, 0, 0x4000]]);
    expect(cut(0x8000, 0x1000)).toEqual([[2, 0, 0x1000]]);
  });
});
