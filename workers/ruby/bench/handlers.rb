# frozen_string_literal: true

require "tasker_core"

# The handler that the templates of `tasker bench` call.
#
#   DATABASE_URL=… tasker-worker-ruby --handlers ./workers/ruby/bench/handlers.rb --namespace bench
TaskerCore::StepHandler::Functional.step_handler("bench.nothing") { { ok: true } }
