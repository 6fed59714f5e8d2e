// Many clients one after the other, quiet and hostile, in a process of its own; prints what they left behind as JSON.
//   tsx test/vfio-user/connections.ts CLIENTS
import { closeSync, readdirSync, readlinkSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { EventCounter } from '../../src/host/event-counter.ts';
import { GuestRam } from '../../src/host/guest-ram.ts';
import { VfioUserServer } from '../../src/vfio-user.ts';
import { Command, IrqSetFlag } from '../../src/vfio-user/abi.ts';
import { GuestMemory } from '../../src/virtio/memory.ts';
import { Client, message } from './client.ts';
import * as p from './payloads.ts';
import { NotedFunction } from './talk.ts';

/** Open descriptors by what they name. */
function openDescriptors(): string[] {
  return readdirSync('/proc/self/fd')
    .flatMap((fd) => {
      try {
        return [readlinkSync(`/proc/self/fd/${fd}`).replace(/\d+/g, 'N')];
      } catch {
        return [];
      }
    })
    .sort();
}

async function turns(count: number): Promise<void> {
  for (let i = 0; i < count; i++) await new Promise((resolve) => setImmediate(resolve));
}

const clients = Number(process.argv[2]);
const path = join(tmpdir(), `viommu-${process.pid}.sock`);
rmSync(path, { force: true });
const memory = new GuestMemory();
const server = new VfioUserServer({ path, memory });
await server.serve(new NotedFunction());
const ram = GuestRam.create({ size: 0x10000n });
const event = new EventCounter();
const fd = ram.duplicateFd();
const events = [event.fd, event.fd, event.fd];
const wire = p.setIrqs(IrqSetFlag.eventfd | IrqSetFlag.trigger, 2, 0, 3);
const map = p.dmaMap(0n, 0x10000n);
await turns(4);
const before = openDescriptors();
for (let i = 0; i < clients; i++) {
  const client = new Client(path);
  const send = (command: number, payload: Uint8Array, fds: readonly number[] = []): void =>
    client.send(message({ id: i & 0xffff, command, payload }), fds);
  send(Command.version, p.version(0, 0, p.QEMU_CAPABILITIES), i % 7 === 6 ? [fd] : []);
  send(Command.dmaMap, map, [fd]);
  send(Command.setIrqs, wire, events);
  if (i % 7 === 0) send(Command.dmaMap, map, [fd]);
  if (i % 7 === 1) send(Command.dmaMap, p.dmaMap(0x10000n, 0x10000n), [fd, fd]);
  if (i % 7 === 2) send(Command.getInfo, p.info(16), new Array<number>(40).fill(event.fd));
  if (i % 7 === 3) client.send(message({ id: 1, command: Command.dmaMap, size: 1000 }), [fd, fd, fd]);
  if (i % 7 === 4) send(Command.setIrqs, wire, [fd, fd]);
  if (i % 7 === 5) send(99, p.info(16), [fd, event.fd]);
  if (i % 2 === 0) await turns(1);
  client.close();
}
while (server.stats().connected) await turns(1);
await turns(10);
const after = openDescriptors();
const left = after.filter((name) => {
  const at = before.indexOf(name);
  if (at >= 0) before.splice(at, 1);
  return at < 0;
});
console.log(JSON.stringify({ connections: server.stats().connections, regions: memory.regions.length, left }));
closeSync(fd);
event.close();
ram.close();
await server.close();
