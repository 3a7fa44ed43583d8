/** TypeScript's part of a task that four languages work on (template `polyglot`). */

import { defineHandler } from "@tasker-systems/tasker";

export const capitalise = defineHandler("polyglot.Capitalise", { inputs: { text: "text" } }, ({ text }) => ({
  language: "typescript",
  capitals: text.trim().split(/\s+/).map(capitalised).join(" "),
}));

function capitalised(word: string): string {
  const [first = "", ...rest] = word;
  return first.toUpperCase() + rest.join("");
}
