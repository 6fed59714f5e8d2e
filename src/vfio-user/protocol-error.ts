// What ends a connection: the client does not speak the protocol. Not here: requests that are refused (they get an errno).

/** The client broke the protocol: its connection ends. The message says how, for the log. */
export class ProtocolError extends Error {
  constructor(message: string) {
    super(message);
    this.name = 'ProtocolError';
  }
}
