# frozen_string_literal: true

require "tasker_core"

# The probe of the fault tests in Ruby; see crates/tasker/src/commands/process/probe.rs.
module Faults
  extend TaskerCore::StepHandler::Functional

  LOG = File.open(ENV.fetch("TASKER_BODY_LOG"), File::WRONLY | File::APPEND | File::CREAT)

  def self.position(context)
    (context.step_uuid.delete("-").to_i(16) & 0xfffff) - 1
  end

  # One write, so that lines of several processes stay whole.
  def self.note(context, what)
    LOG.syswrite("#{context.task_uuid} #{position(context)} #{context.attempt} #{what} #{Process.pid}\n")
  end

  def self.cursors(count)
    (0...count).map do |at|
      { batch_id: format("%03d", at + 1), start_cursor: at, end_cursor: at + 1, batch_size: 1 }
    end
  end

  step_handler "faults.Probe" do |context|
    note(context, context.has_checkpoint? ? "resume" : "start")
    sleep((context.input_data["sleep_ms"] || 0) / 1000.0)
    config = context.step_config
    if context.attempt <= (config["fail_attempts"] || 0)
      note(context, "failed")
      raise TaskerCore::RetryableError, "the probe was told to fail"
    end
    if context.step_inputs["cursor"] && !context.has_checkpoint?
      next TaskerCore::Types::StepHandlerCallResult.checkpoint_yield(cursor: 1, items_processed: 1,
                                                                     accumulated_results: [])
    end

    result = { step: position(context), attempt: context.attempt, pid: Process.pid }
    result[:decision_point_outcome] = { type: "create_steps", step_names: config["choose"] } if config["choose"]
    if config["batches"]
      result[:batch_processing_outcome] = { type: "create_batches", cursor_configs: cursors(config["batches"]) }
    end
    note(context, "end")
    result
  end
end
