# frozen_string_literal: true

require "logger"

# Tasker workers in Ruby.
#
# Handlers are blocks (TaskerCore::StepHandler::Functional) or classes (TaskerCore::StepHandler::Base). Run them with
# `tasker-worker-ruby --handlers DIR`, try one alone with TaskerCore::Testing, create tasks with TaskerCore::Client.
module TaskerCore
  class << self
    # Where the package and, unless they are given another one, handlers write their log.
    attr_writer :logger

    def logger
      @logger ||= Logger.new($stderr, progname: "tasker_core")
    end
  end
end

require_relative "tasker_core/errors"
require_relative "tasker_core/native"
require_relative "tasker_core/portable"
require_relative "tasker_core/record"
require_relative "tasker_core/types/step_handler_call_result"
require_relative "tasker_core/types/step_context"
require_relative "tasker_core/outcome"
require_relative "tasker_core/batch_processing"
require_relative "tasker_core/step_handler/base"
require_relative "tasker_core/step_handler/api"
require_relative "tasker_core/step_handler/decision"
require_relative "tasker_core/step_handler/batchable"
require_relative "tasker_core/step_handler/functional"
require_relative "tasker_core/domain_events"
require_relative "tasker_core/registry"
require_relative "tasker_core/worker"
require_relative "tasker_core/client"
require_relative "tasker_core/tracing"
