// What happens when standard output or standard error cannot be written. Not here: what is written.
import process from 'node:process';

type Handler = (error: NodeJS.ErrnoException) => void;

/** A closed pipe (`| head`) is no error of ours: the command ends. */
function byDefault(error: NodeJS.ErrnoException): void {
  if (error.code === 'EPIPE') process.exit(0);
  throw error;
}

let handler: Handler = byDefault;

/** Handles errors of both streams from now on. */
export function watchOutput(): void {
  for (const stream of [process.stdout, process.stderr]) {
    stream.on('error', (error: NodeJS.ErrnoException) => handler(error));
  }
}

/** Has `next` handle them, for a command that outlives its reader; returns what ends that. */
export function takeOutputErrors(next: Handler): () => void {
  handler = next;
  return () => (handler = byDefault);
}
