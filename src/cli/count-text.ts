// Numbers as the tables print them.

/** `65,535`. */
export function count(value: number): string {
  return value.toLocaleString('en-US');
}

/** `90.0 %`; nothing and all without a digit behind the point, so that they are seen to be exact. */
export function percent(share: number): string {
  return `${share === 0 || share === 1 ? share * 100 : (share * 100).toFixed(1)} %`;
}
