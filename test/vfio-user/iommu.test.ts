// A virtio-iommu whose driver sits behind the vfio-user socket: rings in a memfd that the client passes, kicks as messages.
import { afterEach, expect, it } from 'vitest';
import { EventCounter } from '../../src/host/event-counter.ts';
import { Command, IrqSetFlag } from '../../src/vfio-user/abi.ts';
import { collectUntil, descriptors, describeNative, maps } from '../native/addon.ts';
import { dmaUnmap, setIrqs } from './payloads.ts';
import { ENDPOINT, IommuRig } from './rig.ts';

const RAM = 1n << 26n;
const MSI = { kind: 'msi', start: 0xfee0_0000n, end: 0xfeef_ffffn } as const;

let rig: IommuRig | undefined;
afterEach(() => {
  rig?.close();
  rig = undefined;
});

describeNative('a virtio-iommu behind vfio-user', () => {
  it('is probed, attached, mapped and unmapped', () => {
    rig = new IommuRig([{ id: ENDPOINT, reserved: [MSI] }]);
    const driver = rig.driver();
    expect(driver.probe(ENDPOINT).properties.regions).toMatchObject([MSI]);
    expect(driver.attach(0, ENDPOINT).status).toBe(0);
    expect(driver.map(0, 0x1000n, 0x2fffn, 0x5000n).status).toBe(0);
    rig.guest.write(0x5ffc, Uint8Array.of(1, 2, 3, 4, 5, 6, 7, 8), 0, 8);
    const view = rig.iommu.core.dmaView(ENDPOINT);
    const bytes = new Uint8Array(8);
    expect(view.read(0x1ffcn, bytes)).toBe('ok');
    expect([...bytes]).toEqual([1, 2, 3, 4, 5, 6, 7, 8]);
    expect(view.write(0x2000n, Uint8Array.of(9))).toBe('ok');
    expect(rig.guest.read(0x6000, bytes, 0, 1) && bytes[0]).toBe(9);
    expect(driver.unmap(0, 0x1000n, 0x2fffn).status).toBe(0);
    expect(view.read(0x1ffcn, bytes)).toBe('fault');
    expect(driver.events()).toMatchObject([{ endpoint: ENDPOINT }]);
    expect(rig.ended).toEqual([]);
  });

  it('signals the eventfd of the event queue', () => {
    rig = new IommuRig();
    const events = new EventCounter();
    const flags = IrqSetFlag.eventfd | IrqSetFlag.trigger;
    rig.client.request(Command.setIrqs, setIrqs(flags, 2, 0, 3), [events.fd, events.fd, events.fd]);
    const driver = rig.driver();
    driver.attach(0, ENDPOINT);
    events.take();
    expect(rig.iommu.core.dmaView(ENDPOINT).read(0x1000n, new Uint8Array(1))).toBe('fault');
    expect(events.take()).toBe(1n);
    expect(driver.events()).toHaveLength(1);
    expect(rig.client.errno(Command.setIrqs, setIrqs(IrqSetFlag.none | IrqSetFlag.trigger, 2, 0, 0))).toBe(0);
    const { lost } = rig.signals.msix;
    rig.iommu.core.dmaView(ENDPOINT).read(0x1000n, new Uint8Array(1));
    expect([events.take(), rig.signals.msix.lost - lost]).toEqual([0n, 1]);
    events.close();
  });

  it('follows RAM that is split and joined, as firmware does it', () => {
    rig = new IommuRig();
    const driver = rig.driver();
    driver.attach(0, ENDPOINT);
    driver.map(0, 0xc_0000n, 0xc_0fffn, 0xc_0000n);
    const view = rig.iommu.core.dmaView(ENDPOINT);
    const byte = new Uint8Array(1);
    rig.guest.write(0xc_0000, Uint8Array.of(42), 0, 1);
    expect([view.read(0xc_0000n, byte), byte[0]]).toEqual(['ok', 42]);
    expect(rig.client.request(Command.dmaUnmap, dmaUnmap(0n, RAM))).toHaveLength(24);
    expect(rig.memory.regions).toEqual([]);
    expect(view.read(0xc_0000n, byte)).toBe('unbacked');
    expect(rig.map(0n, 0xc_0000n, 0n)).toBe(0);
    expect(rig.map(0xc_0000n, 0x8000n, 0xc_0000n, 1)).toBe(0);
    expect(rig.map(0x10_0000n, RAM - 0x10_0000n, 0x10_0000n)).toBe(0);
    expect(rig.memory.regions.map(({ gpa, readOnly }) => [gpa, readOnly])).toEqual([
      [0n, false],
      [0xc_0000n, true],
      [0x10_0000n, false],
    ]);
    expect([view.read(0xc_0000n, byte), byte[0], view.write(0xc_0000n, byte)]).toEqual(['ok', 42, 'unbacked']);
    expect(driver.map(0, 0x5000n, 0x5fffn, 0x20_0000n).status).toBe(0);
  });

  it('answers DMA_UNMAP when observers have let go, and with an errno when one does not', () => {
    rig = new IommuRig();
    const { memory } = rig;
    const told: string[] = [];
    let veto = false;
    const end = memory.observe({
      added: ({ gpa }) => void told.push(`added ${gpa}`),
      removing: ({ gpa }) => {
        if (veto && gpa === 0x2000n) throw new Error('still in use');
        told.push(`removing ${gpa}`);
      },
    });
    rig.client.request(Command.dmaUnmap, dmaUnmap(0n, RAM));
    expect(told).toEqual(['removing 0']);
    for (const page of [0x1000n, 0x2000n, 0x4000n]) expect(rig.map(page, 0x1000n, page)).toBe(0);
    veto = true;
    const { regions } = memory;
    expect(rig.client.errno(Command.dmaUnmap, dmaUnmap(0n, 0x10000n))).toBe(16);
    expect(memory.regions.map(({ gpa, hva }) => [gpa, hva])).toEqual(regions.map(({ gpa, hva }) => [gpa, hva]));
    veto = false;
    expect(rig.client.errno(Command.dmaUnmap, dmaUnmap(0n, 0x10000n))).toBe(0);
    expect(memory.regions).toEqual([]);
    end();
    expect(rig.ended).toEqual(['removing memory was refused: still in use']);
  });

  it('keeps neither a mapping nor a descriptor of what is unmapped', async () => {
    rig = new IommuRig();
    const file = `memfd:${rig.name}`;
    const now = (): number[] => [maps(file).length, descriptors(file).length];
    const own = now();
    // One of the guest and one of the server.
    expect(own).toEqual([2, 2]);
    for (let i = 0; i < 50; i++) {
      expect(rig.map(RAM, RAM, 0n)).toBe(0);
      expect(rig.client.errno(Command.dmaUnmap, dmaUnmap(RAM, RAM))).toBe(0);
    }
    await collectUntil(() => now().every((count, i) => count <= own[i]!));
    expect(now()).toEqual(own);
  });
});
