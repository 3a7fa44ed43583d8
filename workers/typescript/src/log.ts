/** What the package has to say goes to stderr, one line a fact; a program may send it elsewhere. */

/** What a line may carry beside its text. */
export type LogFields = Record<string, unknown>;

/** Where lines go. `console` is one. */
export interface Logger {
  error(message: string): void;
  warn(message: string): void;
  info(message: string): void;
  debug(message: string): void;
}

export const LEVELS = ["error", "warn", "info", "debug"] as const;

/** How much is said. */
export type Level = (typeof LEVELS)[number];

let level: Level = "info";
let sink: Logger = lines();

/** The log of this package. */
export const log: Logger = {
  error: (message) => tell("error", message),
  warn: (message) => tell("warn", message),
  info: (message) => tell("info", message),
  debug: (message) => tell("debug", message),
};

/** Says less or more; `info` at first. */
export function setLogLevel(wanted: Level): void {
  level = wanted;
}

/** Sends the log elsewhere. */
export function setLogger(logger: Logger): void {
  sink = logger;
}

function tell(at: Level, message: string): void {
  if (LEVELS.indexOf(at) <= LEVELS.indexOf(level)) {
    sink[at](message);
  }
}

function lines(): Logger {
  const line = (name: string) => (message: string) => {
    console.error(`${new Date().toISOString()} ${name} tasker: ${message}`);
  };
  return { error: line("ERROR"), warn: line("WARN"), info: line("INFO"), debug: line("DEBUG") };
}
