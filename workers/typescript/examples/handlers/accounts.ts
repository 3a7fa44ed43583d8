/** The registration of a user at several services (template `user_registration`). */

import { defineHandler, PermanentError, ServiceUnavailableError, ValidationError } from "@tasker-systems/tasker";

const account = "create_account";

export const create = defineHandler("accounts.Create", { inputs: { email: "email" } }, (args) => {
  const email: string = args.email.trim().toLowerCase();
  if (!/^[^@]+@.*\..*$/.test(email)) {
    throw new ValidationError(`${email} is no address`);
  }
  return { user_id: `user:${email}`, email };
});

export const setUpBilling = defineHandler(
  "billing.SetUp",
  { depends: { account }, inputs: { plan: "plan" } },
  ({ account, plan, context }) => {
    const price_cents = context.getConfig<Record<string, number>>("price_cents")[plan];
    if (price_cents === undefined) {
      throw new PermanentError(`the plan ${plan} has no price`);
    }
    return { account: price_cents > 0 ? `billing:${account.user_id}` : null, price_cents };
  },
);

export const setPreferences = defineHandler("preferences.SetDefaults", { inputs: { plan: "plan" } }, ({ plan }) => ({
  newsletter: false,
  theme: "light",
  reports: plan === "pro",
}));

export const sendWelcome = defineHandler(
  "mail.SendWelcome",
  { depends: { account, preferences: "set_preferences" } },
  ({ account, preferences, context }) => {
    if (!context.isRetry()) {
      throw new ServiceUnavailableError("the mail server is busy");
    }
    return { to: account.email, template: preferences.reports ? "welcome_pro" : "welcome" };
  },
);

export const activate = defineHandler(
  "accounts.Activate",
  { depends: { account, billing: "set_up_billing", welcome: "send_welcome" } },
  ({ account: { user_id }, billing: { price_cents }, welcome }) => ({
    user_id,
    status: "active",
    welcomed: welcome.to,
    price_cents,
  }),
);
