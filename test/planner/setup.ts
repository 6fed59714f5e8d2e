// What a planner run is made of: a small machine, and a list of steps with concrete values. Not here: making them
// (generate.ts), running them (trial.ts). Unit: 4 KiB page numbers; ranges are {page, pages}, ends exclusive.

/** Guest-physical memory that comes and goes; RAM lies in a file of its own unless it is anonymous. */
export interface RegionSetup {
  readonly page: number;
  readonly pages: number;
  readonly kind: 'memfd' | 'hugetlb' | 'anonymous' | 'mmio';
  readonly readOnly: boolean;
  /** The host's physical pages are not consecutive. */
  readonly scattered: boolean;
  /** Its virtual addresses follow those of the region before it, if that is there. */
  readonly follows: boolean;
  /** Whether the file can no longer be mapped for writing, and whether the device was told so. */
  readonly sealed: 'no' | 'told' | 'untold';
  /** There from the start. */
  readonly present: boolean;
}

export interface ContextSetup {
  readonly flavour: 'type1' | 'iommufd';
  /** Of iommufd: whether the host cuts entries. */
  readonly mode: 'large' | 'cut';
  /** Of iommufd: whether its address space can be shared with that of others. */
  readonly share: boolean;
  readonly endpoints: readonly number[];
  readonly entryLimit: number;
  /** Added to what the host says of entries left. */
  readonly lie: number;
  readonly mediated: boolean;
  /** Most pieces of windows at a time; -1: the default. */
  readonly windowPieces: number;
  readonly writeOnlyReadable: boolean;
  /** Usable pages, in order. */
  readonly usable: readonly (readonly [first: number, end: number])[];
}

export interface EndpointSetup {
  readonly id: number;
  /** What the device knows of its bus-master bit at the start; undefined: never told, and on. */
  readonly busMaster: boolean | undefined;
  /** Reserved pages. */
  readonly reserved: readonly (readonly [first: number, end: number])[];
}

export interface Setup {
  readonly contexts: readonly ContextSetup[];
  readonly endpoints: readonly EndpointSetup[];
  readonly regions: readonly RegionSetup[];
  readonly policy: string;
  readonly gather: string;
  /** Pages; 0: the default. */
  readonly maxEntryPages: number;
  /** -1: the default. */
  readonly lowWater: number;
  /** Whether the embedder can pause devices, and then what it answers. */
  readonly pause: 'none' | 'yes' | 'no';
  readonly bypass: boolean;
  /** RAM that a context may hold, as a multiple of guest RAM. */
  readonly cap: number;
  readonly maxMapCount: number;
  /** RLIMIT_MEMLOCK in pages. */
  readonly memlock: number;
  /** First I/O virtual page near which mappings are made. */
  readonly iova: number;
  /** Length of the stretch of I/O virtual pages that is used. */
  readonly span: number;
}

export type Request =
  | {
      readonly op: 'map';
      readonly domain: number;
      readonly page: number;
      readonly pages: number;
      readonly target: number;
      readonly flags: number;
    }
  | { readonly op: 'unmap'; readonly domain: number; readonly page: number; readonly pages: number }
  | { readonly op: 'attach'; readonly domain: number; readonly endpoint: number; readonly flags: number }
  | { readonly op: 'detach'; readonly domain: number; readonly endpoint: number };

export type Step =
  | { readonly do: 'kick'; readonly requests: readonly Request[] }
  | { readonly do: 'master'; readonly endpoint: number; readonly on: boolean }
  | { readonly do: 'bypass'; readonly value: number }
  | { readonly do: 'reset'; readonly system: boolean }
  /** Adds the region when it is not there, removes it when it is. */
  | { readonly do: 'region'; readonly index: number }
  | { readonly do: 'move'; readonly index: number; readonly page: number }
  | { readonly do: 'policy'; readonly policy: string };

/** Host operations that fail: number from 1 on, errno, how many in a row. */
export interface Failure {
  readonly at: number;
  readonly errno: number;
  readonly times: number;
}

/** First guest-physical page of the arena, and its length: all regions lie in it. */
export const GPA_FIRST = 0x100;
export const GPA_PAGES = 4096;

/** Requests and other steps in a list. */
export function countOperations(steps: readonly Step[]): number {
  let count = 0;
  for (const step of steps) count += step.do === 'kick' ? step.requests.length : 1;
  return count;
}

const hex = (page: number): string => `0x${page.toString(16)}`;
const range = (page: number, pages: number): string => `${hex(page)}+${pages}`;

export function formatRequest(request: Request): string {
  switch (request.op) {
    case 'map':
      return `MAP d${request.domain} ${range(request.page, request.pages)} -> ${hex(request.target)} flags ${request.flags}`;
    case 'unmap':
      return `UNMAP d${request.domain} ${range(request.page, request.pages)}`;
    case 'attach':
      return `ATTACH e${request.endpoint} to d${request.domain}${request.flags === 0 ? '' : ' (bypass)'}`;
    case 'detach':
      return `DETACH e${request.endpoint} from d${request.domain}`;
  }
}

export function formatStep(step: Step, setup: Setup): string {
  switch (step.do) {
    case 'kick':
      return `kick: ${step.requests.map(formatRequest).join('; ')}`;
    case 'master':
      return `bus master of e${step.endpoint} ${step.on ? 'on' : 'off'}`;
    case 'bypass':
      return `config.bypass = ${step.value}`;
    case 'reset':
      return `${step.system ? 'system' : 'device'} reset`;
    case 'region':
      return `toggle region ${step.index} (${range(setup.regions[step.index]!.page, setup.regions[step.index]!.pages)})`;
    case 'move':
      return `move region ${step.index} to ${hex(step.page)}`;
    case 'policy':
      return `policy ${step.policy}`;
  }
}

export function formatSetup(setup: Setup): string[] {
  const lines = [
    `policy ${setup.policy}, gather ${setup.gather}, maxEntry ${setup.maxEntryPages || 'default'} pages, ` +
      `lowWater ${setup.lowWater < 0 ? 'default' : setup.lowWater}, pause ${setup.pause}, initial bypass ${String(setup.bypass)}, ` +
      `cap ${setup.cap}, max_map_count ${setup.maxMapCount}, memlock ${setup.memlock}`,
  ];
  setup.contexts.forEach((context, i) => {
    const odd = [
      context.lie === 0 ? '' : `, lies by ${context.lie}`,
      context.mode === 'cut' ? ', cuts' : '',
      context.share ? ', shares' : '',
      context.mediated ? ', mediated' : '',
      context.windowPieces < 0 ? '' : `, ${context.windowPieces} window pieces`,
      context.writeOnlyReadable ? ', write-only readable' : '',
    ].join('');
    const usable = context.usable.map(([first, end]) => `${hex(first)}-${hex(end)}`).join(' ');
    lines.push(
      `context ${i}: ${context.flavour}, endpoints ${context.endpoints.join(' ')}, limit ${context.entryLimit}${odd}, usable ${usable}`,
    );
  });
  for (const { id, busMaster, reserved } of setup.endpoints) {
    const master = busMaster === undefined ? 'unknown' : busMaster ? 'on' : 'off';
    lines.push(
      `e${id}: bus master ${master}${reserved.map(([first, end]) => `, reserved ${hex(first)}-${hex(end)}`).join('')}`,
    );
  }
  setup.regions.forEach((region, i) => {
    const odd = [
      region.readOnly ? ', read-only' : '',
      region.scattered ? ', scattered' : '',
      region.follows ? ', va follows' : '',
      region.sealed === 'no' ? '' : `, sealed (${region.sealed})`,
      region.present ? '' : ', absent',
    ].join('');
    lines.push(`region ${i}: ${region.kind} ${range(region.page, region.pages)}${odd}`);
  });
  return lines;
}
