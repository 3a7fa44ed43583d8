/** Builds the addon with cargo, whose options it takes (`--release`), and puts it where the package looks for it. */

import { spawnSync } from "node:child_process";
import { copyFileSync, mkdirSync, renameSync } from "node:fs";
import { fileURLToPath } from "node:url";

const here = fileURLToPath(new URL(".", import.meta.url));
// From where everybody builds, so that a target folder that is named by a short path is the same.
const root = fileURLToPath(new URL("../..", import.meta.url));
const asked = ["build", "--locked", "--package", "tasker-typescript", "--message-format=json-render-diagnostics"];
const built = spawnSync("cargo", [...asked, ...process.argv.slice(2)], {
  cwd: root,
  env: { SQLX_OFFLINE: "true", ...process.env },
  stdio: ["ignore", "pipe", "inherit"],
  encoding: "utf8",
  maxBuffer: 1 << 30,
});
if (built.status !== 0) {
  console.error(built.error?.message ?? "the addon can't be built");
  process.exit(1);
}
const messages = built.stdout.split("\n").filter((line) => line.startsWith("{"));
const made = messages.map((line) => JSON.parse(line)).filter((message) => message.target?.name === "tasker_typescript");
const library = made.at(-1).filenames[0];
mkdirSync(`${here}prebuilt`, { recursive: true });
// A worker may have the old one open: the new one gets its name only when it is whole.
copyFileSync(library, `${here}prebuilt/new`);
renameSync(`${here}prebuilt/new`, `${here}prebuilt/${process.platform}-${process.arch}.node`);
