// An option that takes several values, separated by commas or given more than once.
import { InvalidArgumentError, Option } from 'commander';

/** `--flag a,b` and `--flag a --flag b`; each value goes through `parse`, and counts once. */
export function listOption(flags: string, description: string, parse: (text: string) => unknown): Option {
  return new Option(flags, description).argParser((text: string, before: readonly unknown[] | undefined): unknown[] => {
    const values = text.split(',').map((part) => parse(part.trim()));
    return [...new Set([...(before ?? []), ...values])];
  });
}

/** Accepts one of `names`. */
export function oneOf<T extends string>(names: readonly T[]): (text: string) => T {
  return (text) => {
    const found = names.find((name) => name === text);
    if (found === undefined) throw new InvalidArgumentError(`"${text}" is none of ${names.join(', ')}`);
    return found;
  };
}
