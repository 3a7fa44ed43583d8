/** Waiting for whoever wants the program to end. */

/** Told once, by a signal or by the program. */
export class ShutdownController {
  /** Settles when it is told; with the signal's name, or whatever it was told. */
  readonly promise: Promise<string>;
  #resolve!: (reason: string) => void;
  #reason: string | undefined;

  constructor() {
    this.promise = new Promise((resolve) => {
      this.#resolve = resolve;
    });
  }

  /** Whether it was told. */
  get isRequested(): boolean {
    return this.#reason !== undefined;
  }

  /** Why; undefined before. */
  get reason(): string | undefined {
    return this.#reason;
  }

  /** Tells it. Later reasons change nothing. */
  trigger(reason = "shutdown"): void {
    this.#reason ??= reason;
    this.#resolve(this.#reason);
  }

  /** Is told by SIGTERM and SIGINT; a second one ends the process at once, with status 130. Answers how to end it. */
  listen(): () => void {
    const heard = (signal: NodeJS.Signals) => {
      if (this.isRequested) {
        process.exit(130);
      }
      this.trigger(signal);
    };
    const signals = ["SIGTERM", "SIGINT"] as const;
    for (const signal of signals) {
      process.on(signal, heard);
    }
    return () => {
      for (const signal of signals) {
        process.off(signal, heard);
      }
    };
  }
}
