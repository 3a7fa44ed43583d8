/**
 * Approval of expenses (template `expense_approval`): a decision that creates the approvals that an amount needs, and a
 * payment that waits for those.
 */

import { Decision, defineDecisionHandler, defineHandler, PermanentError } from "@tasker-systems/tasker";

/** The kind whose name the purpose mentions, else `other`. */
export const classify = defineHandler("expenses.Classify", { inputs: { purpose: "purpose" } }, (args) => {
  const limits = args.context.getConfig<Record<string, number>>("limits_cents");
  const purpose: string = args.purpose.toLowerCase();
  const kind =
    Object.keys(limits)
      .sort()
      .find((kind) => purpose.includes(kind)) ?? "other";
  if (limits[kind] === undefined) {
    throw new PermanentError("there is no limit for other expenses");
  }
  return { kind, limit_cents: limits[kind] };
});

export const route = defineDecisionHandler(
  "expenses.Route",
  { depends: { expense: "classify" }, inputs: { amount: "amount_cents" } },
  ({ expense, amount, context }) => {
    if (amount <= expense.limit_cents) {
      return Decision.route("approve_automatically", expense);
    }
    const needsFinance = amount > expense.limit_cents * context.getConfig<number>("finance_factor");
    return Decision.route(needsFinance ? ["ask_manager", "ask_finance"] : ["ask_manager"], expense);
  },
);

export const approveAutomatically = defineHandler("expenses.ApproveAutomatically", {}, () => ({ by: "the limit" }));

/** In earnest this would send a message and be completed by hand; here everybody says yes. */
export const ask = defineHandler("expenses.Ask", {}, ({ context }) => ({ by: context.getConfig("who") }));

export const pay = defineHandler("expenses.Pay", { inputs: { amount: "amount_cents" } }, ({ amount, context }) => {
  const approvals = ["ask_", "approve_automatically"].flatMap((prefix) => context.getAllDependencyResults(prefix));
  if (approvals.length === 0) {
    throw new PermanentError("nobody approved this expense");
  }
  return { paid_cents: amount, approved_by: approvals.map(({ by }) => by).sort() };
});
