/**
 * The handler that the templates of `tasker bench` call, so that a worker of this package can serve it:
 * `tasker-worker --handlers bench/handlers.js --namespace bench`.
 */

import { defineHandler } from "@tasker-systems/tasker";

export const nothing = defineHandler("bench.nothing", {}, () => ({}));
