// The state of `virtio-iommu serve` in the Prometheus text format (version 0.0.4). Not here: the state (serve-report.ts).
import type { FunctionReport, ServeReport } from './serve-report.ts';

/** A metric: its name without the common prefix, its help text, and its samples as labels and value. */
interface Metric {
  readonly name: string;
  readonly help: string;
  readonly samples: readonly Sample[];
}

type Sample = readonly [labels: string, value: number | undefined];

/** Figures of each function: name, help, and where the figure is; undefined where a function has none. */
const PER_FUNCTION: readonly (readonly [string, string, (row: FunctionReport) => number | undefined])[] = [
  ['function_connected', 'A client is connected', (row) => Number(row.server.connected)],
  ['function_messages_total', 'Messages of clients', (row) => row.server.messages],
  ['function_bad_messages_total', 'Messages that ended a connection', (row) => row.server.badMessages],
  ['function_mapped_bytes', 'Guest memory that the client has mapped', (row) => Number(row.server.mappedBytes)],
  ['endpoint_accesses_total', 'Accesses that the IOMMU let through', (row) => row.dma?.accesses],
  ['endpoint_refused_total', 'Accesses that were refused', (row) => row.dma?.refused],
  ['endpoint_mappings', "Mappings of the endpoint's domain", (row) => row.translation?.mappings],
  ['host_entries', "Entries of the host's IOMMU in the context of the endpoint", (row) => row.host?.entries],
];

/** The text; a metric without samples is left out. */
export function toPrometheus(report: ServeReport): string {
  const perFunction = PER_FUNCTION.map(([name, help, value]): Metric => {
    const samples = report.functions.map((row): Sample => [functionLabels(row), value(row)]);
    return { name, help, samples };
  });
  return [...deviceMetrics(report), ...perFunction].map(metricText).join('');
}

function deviceMetrics({ iommu }: ServeReport): Metric[] {
  const { counters } = iommu;
  const single = (name: string, help: string, value: number | undefined): Metric => ({
    name,
    help,
    samples: [['', value]],
  });
  return [
    { name: 'requests_total', help: 'Requests by type', samples: labelled('type', iommu.requests) },
    { name: 'answers_total', help: 'Answers by status', samples: labelled('status', iommu.statuses) },
    single('kicks_total', 'Notifications of the request queue', counters['kicks']),
    single('faults_total', 'Refused accesses of endpoints', counters['faults']),
    single('faults_reported_total', 'Of these told to the guest', counters['faultsReported']),
    single('host_refusals_total', 'Operations that a host refused', counters['hostRefusals']),
    single('device_resets_total', 'Resets by the driver', counters['deviceResets']),
    single('system_resets_total', 'Resets of the machine', counters['systemResets']),
    single('mappings', 'Live mappings of all domains', iommu.mappings),
    single('domains', 'Live domains', iommu.domains),
    single('bypass', 'config.bypass', iommu.bypass),
  ];
}

function metricText({ name, help, samples }: Metric): string {
  const known = samples.filter(([, value]) => value !== undefined);
  if (known.length === 0) return '';
  const full = `virtio_iommu_${name}`;
  const type = name.endsWith('_total') ? 'counter' : 'gauge';
  const lines = known.map(([labels, value]) => `${full}${labels === '' ? '' : `{${labels}}`} ${value!}\n`);
  return `# HELP ${full} ${help}\n# TYPE ${full} ${type}\n${lines.join('')}`;
}

function functionLabels({ name, addr }: FunctionReport): string {
  return `function=${quoted(name)},addr=${quoted(addr)}`;
}

function labelled(label: string, values: Readonly<Record<string, number>>): Sample[] {
  return Object.entries(values).map(([name, value]) => [`${label}=${quoted(name)}`, value]);
}

function quoted(text: string): string {
  return `"${text.replaceAll('\\', '\\\\').replaceAll('"', '\\"').replaceAll('\n', '\\n')}"`;
}
