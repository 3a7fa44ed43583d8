/**
 * The handler that the templates of `tasker bench` call.
 *
 *     DATABASE_URL=… node dist/cli.js --handlers bench/handlers.js --namespace bench
 */

import { defineHandler } from "@tasker-systems/tasker";

export const nothing = defineHandler("bench.nothing", {}, () => ({ ok: true }));
