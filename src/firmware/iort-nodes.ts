// Nodes and id mappings of the ACPI IORT table (Arm DEN 0049), as much as RMR nodes need.
// Offsets are bytes from the start of the table; id ranges have INCLUSIVE ends (the table stores the count minus one).
import type { OpenTable } from './acpi-table.ts';
import type { WarningList } from './warnings.ts';

/** IORT node types. */
export const IortNodeType = { its: 0, named: 1, root: 2, smmu: 3, smmuV3: 4, pmcg: 5, rmr: 6, last: 7 } as const;

/** Header of one node. */
export interface IortNode {
  readonly offset: number;
  readonly type: number;
  readonly length: number;
  readonly revision: number;
  readonly mappingCount: number;
  /** From the start of the node. */
  readonly mappingOffset: number;
}

/** One id mapping: input ids to stream ids of the node at `reference`. */
export interface IdMapping {
  readonly input: number;
  /** Number of ids minus one. */
  readonly span: number;
  readonly output: number;
  readonly reference: number;
  readonly offset: number;
}

const IORT = { count: 36, first: 40, SIZE: 48 };
const NODE = { type: 0, length: 1, revision: 3, mappingCount: 8, mappingOffset: 12, SIZE: 16 };
const MAPPING = { input: 0, span: 4, output: 8, reference: 12, flags: 16, SIZE: 20 };

/** Bytes before the first node can be. */
export const IORT_HEADER_SIZE = IORT.SIZE;

/** Reads the node headers; a node that cannot be skipped ends the list. */
export function readNodes(table: OpenTable, warnings: WarningList): IortNode[] {
  const { view, end } = table;
  const count = view.getUint32(IORT.count, true);
  const nodes: IortNode[] = [];
  let offset = view.getUint32(IORT.first, true);
  if (offset < IORT.SIZE || offset > end) {
    warnings.at(IORT.first, `the first node cannot be at 0x${offset.toString(16)}`);
    return nodes;
  }
  while (nodes.length < count) {
    const length = offset + NODE.SIZE <= end ? view.getUint16(offset + NODE.length, true) : 0;
    if (length < NODE.SIZE || offset + length > end) {
      warnings.at(offset, `node of ${length} bytes does not fit; ${nodes.length} of ${count} nodes are read`);
      return nodes;
    }
    const type = view.getUint8(offset + NODE.type);
    if (type > IortNodeType.last) warnings.at(offset, `node type ${type} is not known and skipped`);
    nodes.push({
      offset,
      type,
      length,
      revision: view.getUint8(offset + NODE.revision),
      mappingCount: view.getUint32(offset + NODE.mappingCount, true),
      mappingOffset: view.getUint32(offset + NODE.mappingOffset, true),
    });
    offset += length;
  }
  if (offset < end) warnings.at(offset, `${end - offset} bytes behind the last of ${count} nodes are not read`);
  return nodes;
}

/** Reads a node's id mappings that lie inside it. */
export function readMappings(table: OpenTable, node: IortNode, warnings: WarningList): IdMapping[] {
  const { view } = table;
  const room = Math.max(0, Math.floor((node.length - node.mappingOffset) / MAPPING.SIZE));
  if (node.mappingCount > 0 && (node.mappingOffset < NODE.SIZE || node.mappingCount > room)) {
    warnings.at(node.offset, `${node.mappingCount} id mappings do not fit into their node`);
    if (node.mappingOffset < NODE.SIZE) return [];
  }
  const mappings: IdMapping[] = [];
  for (let i = 0; i < Math.min(node.mappingCount, room); i++) {
    const offset = node.offset + node.mappingOffset + i * MAPPING.SIZE;
    mappings.push({
      input: view.getUint32(offset + MAPPING.input, true),
      span: view.getUint32(offset + MAPPING.span, true),
      output: view.getUint32(offset + MAPPING.output, true),
      reference: view.getUint32(offset + MAPPING.reference, true),
      offset,
    });
  }
  return mappings;
}
