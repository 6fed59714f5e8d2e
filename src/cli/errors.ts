// The error that a command ends with: one line for stderr and an exit status. Not for bugs, which stay ordinary errors.

/** A usage error, or a file that cannot be read or understood. */
export class CliError extends Error {
  /** Exit status; 2 for usage and input errors. */
  readonly exitCode: number;

  constructor(message: string, exitCode = 2) {
    super(message);
    this.name = 'CliError';
    this.exitCode = exitCode;
  }
}
